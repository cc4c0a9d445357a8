"""Work on slices or windows in batches that fit the memory: halved and tried again where one does not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from dsnet_med.errors import InputError

T = TypeVar("T")

# Numbers alive at a time: in a network, for each pixel it sees (260 measured, of an FCN on a ResNet-50);
# of scores that are averaged, for each pixel and class (logits, softmax, flipped, sum).
_OF_A_NETWORK, _OF_A_SCORE = 200, 4
_ON_A_CPU = 512 * 512 * _OF_A_NETWORK  # larger batches gain nothing there and cost memory
_ON_A_GPU = 32 * _ON_A_CPU
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def first_guess(pixels: int, scores: int, device: torch.device) -> int:
    """How many slices or windows to work on at a time, before their appetite for memory is known.

    `pixels` is what the network sees of one, `scores` the pixels times classes that are kept of one.
    """
    most = _ON_A_CPU if device.type == "cpu" else _ON_A_GPU
    return max(1, most // (_OF_A_NETWORK * pixels + _OF_A_SCORE * scores))


@dataclass
class Batches:
    """How many slices, or windows, are worked on at a time: `size`, until that does not fit."""

    size: int
    notice: Callable[[str], None]
    called: str = "slice"
    halved: bool = False

    def over(self, count: int, work: Callable[[slice], T]) -> Iterator[T]:
        """What `work` gives for slices(0, size), (size, 2 size), ... up to `count`.

        A batch that runs out of memory is tried again at half the size, which stays, and `notice` is told.
        Raises InputError when even one does not fit.
        """
        start = 0
        while start < count:
            part = slice(start, min(start + self.size, count))
            try:
                done = work(part)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not any(
                    each in str(error).lower() for each in _MESSAGES
                ):
                    raise
                self._halve(part.stop - part.start, error)
            else:
                start = part.stop
                yield done

    def _halve(self, tried: int, error: Exception) -> None:
        if tried < 2:
            raise InputError(
                f"out of memory with one {self.called} at a time; close other programs, or use --device cpu on "
                "a machine with more memory"
            ) from error
        self.size, self.halved = tried // 2, True
        self.notice(f"out of memory with {tried} {self.called}s at a time; going on with {self.size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_shortage(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(each in str(error).lower() for each in _MESSAGES)
