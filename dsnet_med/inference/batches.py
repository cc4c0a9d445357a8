"""Work on slices in batches that fit the memory: halved and tried again where one does not."""

from collections.abc import Callable

import torch

from dsnet_med.errors import InputError

# Numbers alive at a time: in a network, for each pixel it sees (260 measured, of an FCN on a ResNet-50);
# of scores that are averaged, for each pixel and class (logits, softmax, flipped, sum).
_OF_A_NETWORK, _OF_A_SCORE = 200, 4
_ON_A_CPU = 512 * 512 * _OF_A_NETWORK  # larger batches gain nothing there and cost memory
_ON_A_GPU = 32 * _ON_A_CPU
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def first_guess(pixels: int, scores: int, device: torch.device) -> int:
    """How many slices to work on at a time, before their appetite for memory is known.

    `pixels` is what the network sees of one, `scores` the pixels times classes that are kept of one.
    """
    most = _ON_A_CPU if device.type == "cpu" else _ON_A_GPU
    return max(1, most // (_OF_A_NETWORK * pixels + _OF_A_SCORE * scores))


def in_batches(count: int, size: int, work: Callable[[slice], None], notice: Callable[[str], None]) -> int:
    """Call `work` for slices(0, size), (size, 2 size), ... up to `count`; returns the size that fitted.

    A batch that runs out of memory is tried again at half the size, which `notice` is told. Raises InputError
    when even one slice does not fit.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + size, count))
        try:
            work(part)
            start = part.stop
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(each in str(error).lower() for each in _MESSAGES):
                raise
            tried = part.stop - part.start
            if tried < 2:
                raise InputError(
                    "out of memory with one slice at a time; close other programs, or use --device cpu on a "
                    "machine with more memory"
                ) from error
            size = tried // 2
            notice(f"out of memory with {tried} slices at a time; going on with {size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return size
