"""What the forms of a network are compared on: made-up slices that are the same everywhere, and real ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.prepare.store import Store

BATCHES = (1, 3)
_SEED = 20240725
_THICKNESS = 4  # slices of a volume
_COARSE = 8  # pixels of a blob
_STRIDE = 32  # the largest reduction of our backbones
_REAL_CASES = 2


@dataclass(frozen=True)
class Input:
    """Slices (B, 1, H, W) as the network sees them, scaled; `volume` where they are those of one volume."""

    name: str
    images: Tensor
    volume: bool = False
    made_up: bool = False
    first: bool = False  # of all


def sizes_around(size: Sequence[int]) -> list[tuple[int, int]]:
    """Three sizes to try: the trained one, a smaller and a larger one that are not square where it is."""
    height, width = size
    lower = (max(2 * _STRIDE, height // 2 // _STRIDE * _STRIDE), width)  # deep graphs hold from 33 pixels on
    if lower == (height, width):
        lower = (height, width + _STRIDE)
    higher = ((height + _STRIDE) // _STRIDE * _STRIDE, (width + 2 * _STRIDE) // _STRIDE * _STRIDE)
    return [(height, width), lower, higher]


def made_up_slices(size: Sequence[int], count: int) -> Tensor:
    """Slices (count, 1, H, W) in [0, 1] with blobs and noise, the same on every machine."""
    height, width = size
    random = np.random.Generator(np.random.PCG64([_SEED, height, width]))
    blobs = random.random((count, 1, -(-height // _COARSE) + 1, -(-width // _COARSE) + 1), np.float32)
    fine = random.random((count, 1, height, width), np.float32)
    smooth = F.interpolate(torch.from_numpy(blobs), (height, width), mode="bilinear", align_corners=True)
    return (0.9 * smooth + 0.1 * torch.from_numpy(fine)).clamp_(0, 1)


def made_up(size: Sequence[int], sizes: Sequence[Sequence[int]]) -> list[Input]:
    """Batches of slices of every one of `sizes`, and two volumes whose slices have not the trained `size`."""
    slices = [
        Input(
            f"made up, {count} x {height}x{width}",
            made_up_slices((height, width), max(BATCHES))[:count],
            made_up=True,
            first=number == 0 and count == BATCHES[0],
        )
        for number, (height, width) in enumerate(sizes)
        for count in BATCHES
    ]
    volumes = [
        Input(
            f"made-up volume {height}x{width}x{_THICKNESS}",
            made_up_slices((height, width), _THICKNESS),
            volume=True,
            made_up=True,
        )
        for height, width in ((size[0] * 9 // 8, size[1]), (size[0] // 2 + 7, size[1] // 2 + 20))
    ]
    return slices + volumes


def real(store: Store, cases: Sequence[str], sizes: Sequence[Sequence[int]]) -> Iterator[Input]:
    """Slices of cases of the training's store: one at each of `sizes`, and the middle of two volumes as it is.

    Nothing of them but differences is written anywhere.
    """
    known = [case for case in dict.fromkeys(cases) if case in store.cases][:_REAL_CASES]
    for number, case in enumerate(known, start=1):
        whole, _ = store.read_case(case)
        slices = whole.swapaxes(0, 1)
        first = max(0, (len(slices) - _THICKNESS) // 2)
        images = torch.from_numpy(np.ascontiguousarray(slices[first : first + _THICKNESS]))
        height, width = images.shape[-2:]
        yield Input(f"real volume {number}, {height}x{width}x{len(images)}", images, volume=True)
        for size in sizes if number == 1 else ():
            resized = F.interpolate(images[:1], tuple(size), mode="bilinear", align_corners=False)
            yield Input(f"real, 1 x {size[0]}x{size[1]}", resized)
