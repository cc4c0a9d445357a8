"""From logits to class ids without ever holding the logits of all classes at full size.

`torch.argmax` over the classes takes longer on a CPU than a small network. Here one class after the other is
enlarged and compared with the best so far, row by row in compiled code (kernel.pyx) where the package has it,
else with torch: the same sums, so the same ids but for the last bits of nearly equal logits.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsnet_med.networks.layers import resized

try:
    from dsnet_med.inference import kernel
except ImportError:  # built without a C compiler
    kernel = None  # type: ignore[assignment]

Size = Sequence[int]


def resized_in_turn(maps: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Maps (B, C, h, w) resized bilinearly to each of `sizes` in turn; a size that they have is passed over."""
    for size in sizes:
        if tuple(maps.shape[-2:]) != tuple(size):
            maps = resized(maps, size)
    return maps


def class_ids(logits: Tensor, sizes: Sequence[Size] = ()) -> Tensor:
    """The class of the largest logit, the first of equal ones: (B, K, h, w) -> (B, H, W), uint8 or int16.

    (H, W) is the last of `sizes`, to which the logits are resized bilinearly in turn.
    """
    if kernel is not None and logits.device.type == "cpu" and logits.dtype == torch.float32:
        return _in_rows(logits, sizes)
    return by_class(logits, sizes)


def by_class(logits: Tensor, sizes: Sequence[Size] = ()) -> Tensor:
    """`class_ids` with torch alone, on any device."""
    count = logits.shape[1]
    best = resized_in_turn(logits[:, :1], sizes)[:, 0]
    ids = torch.zeros(best.shape, dtype=id_type(count), device=best.device)
    for k in range(1, count):
        rival = resized_in_turn(logits[:, k : k + 1], sizes)[:, 0]
        ids.masked_fill_(rival > best, k)
        best = torch.maximum(best, rival)
    return ids


def _in_rows(logits: Tensor, sizes: Sequence[Size]) -> Tensor:
    """`class_ids` by the compiled kernel, which does the last of the resizings itself."""
    steps = [tuple(logits.shape[2:]), *map(tuple, sizes)]
    last = max((n for n in range(1, len(steps)) if steps[n] != steps[n - 1]), default=0)
    coarse = resized_in_turn(logits, steps[1:last]).contiguous()
    height, width = steps[-1]
    rows, down = _between(coarse.shape[2], height)
    columns, across = _between(coarse.shape[3], width)
    count = logits.shape[1]
    ids = np.empty((len(coarse), height, width), np.uint8 if count <= 256 else np.uint16)
    scratch, lines = np.empty((2, count, width), np.float32), np.empty((2, width), np.float32)
    for image, result in zip(coarse.numpy(), ids, strict=True):
        kernel.class_ids(image, rows, down, columns, across, scratch, lines, result)
    return torch.from_numpy(ids if count <= 256 else ids.view(np.int16))


@lru_cache(maxsize=16)
def _between(length: int, wanted: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For each of `wanted` pixels the two of `length` that it lies between (2, wanted), the second's share.

    Pixel centres, corners not aligned, as torch computes them in single precision.
    """
    scale = np.float32(length) / np.float32(wanted)
    place = np.maximum(scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = np.minimum(place.astype(np.int32), length - 1)
    second = np.minimum(first + 1, length - 1)
    share = np.clip(place - first.astype(np.float32), 0, 1).astype(np.float32)
    return np.ascontiguousarray(np.stack([first, second]), np.int32), share


def id_type(classes: int) -> torch.dtype:
    """The type that holds this many class ids."""
    return torch.uint8 if classes <= 256 else torch.int16
