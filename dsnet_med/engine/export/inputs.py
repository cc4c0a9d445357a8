"""What the forms of a network are compared on: made-up slices that are the same everywhere, and real ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.prepare.store import Store

BATCHES = (1, 3)
_WINDOWS = (1, 2)
_SEED = 20240725
_THICKNESS = 4  # slices of a volume
_COARSE = 8  # pixels of a blob
_STRIDE = 32  # the largest reduction of our backbones
_REAL_CASES = 2


@dataclass(frozen=True)
class Input:
    """Slices (B, C, H, W) or windows (B, C, D, H, W) as the network sees them, scaled.

    `volume` where they are the slices of one volume, or one volume (1, C, D, H, W) that windows slide over.
    """

    name: str
    images: Tensor
    volume: bool = False
    made_up: bool = False
    first: bool = False  # of all


def sizes_around(size: Sequence[int]) -> list[tuple[int, ...]]:
    """Three sizes to try: the trained one, a smaller and a larger one that are not square where it is.

    Of windows of volumes, which always have one size, that one alone.
    """
    if len(size) == 3:
        return [tuple(size)]
    height, width = size
    lower = (max(2 * _STRIDE, height // 2 // _STRIDE * _STRIDE), width)  # deep graphs hold from 33 pixels on
    if lower == (height, width):
        lower = (height, width + _STRIDE)
    higher = ((height + _STRIDE) // _STRIDE * _STRIDE, (width + 2 * _STRIDE) // _STRIDE * _STRIDE)
    return [(height, width), lower, higher]


def made_up_images(size: Sequence[int], count: int, channels: int = 1) -> Tensor:
    """Slices or windows (count, channels, *size) in [0, 1] with blobs and noise, the same on every machine."""
    random = np.random.Generator(np.random.PCG64([_SEED, *size]))
    coarse = [-(-side // _COARSE) + 1 for side in size]
    blobs = random.random((count, channels, *coarse), np.float32)
    fine = random.random((count, channels, *size), np.float32)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    smooth = F.interpolate(torch.from_numpy(blobs), tuple(size), mode=mode, align_corners=True)
    return (0.9 * smooth + 0.1 * torch.from_numpy(fine)).clamp_(0, 1)


def made_up(size: Sequence[int], sizes: Sequence[Sequence[int]], channels: int = 1) -> list[Input]:
    """Batches of slices of every one of `sizes`, and two volumes whose slices have not the trained `size`.

    For windows of volumes batches of them, and a volume that several windows cover.
    """
    batches = BATCHES if len(size) == 2 else _WINDOWS
    images = [
        Input(
            f"made up, {count} x {'x'.join(map(str, each))}",
            made_up_images(each, max(batches), channels)[:count],
            made_up=True,
            first=number == 0 and count == batches[0],
        )
        for number, each in enumerate(sizes)
        for count in batches
    ]
    return images + _volumes(size, channels)


def _volumes(size: Sequence[int], channels: int) -> list[Input]:
    if len(size) == 3:
        depth, height, width = size[0] * 9 // 8, size[1], size[2] // 2 + 7
        name, volume = f"{depth}x{height}x{width}", made_up_images((depth, height, width), 1, channels)
        return [Input(f"made-up volume {name}", volume, volume=True, made_up=True)]
    return [
        Input(
            f"made-up volume {height}x{width}x{_THICKNESS}",
            made_up_images((height, width), _THICKNESS, channels),
            volume=True,
            made_up=True,
        )
        for height, width in ((size[0] * 9 // 8, size[1]), (size[0] // 2 + 7, size[1] // 2 + 20))
    ]


def real(store: Store, cases: Sequence[str], sizes: Sequence[Sequence[int]]) -> Iterator[Input]:
    """Slices of cases of the training's store: one at each of `sizes`, and the middle of two volumes as it is.

    Of a network for windows, the middle of two volumes, of one and a half windows at most along every axis.
    Nothing of them but differences is written anywhere.
    """
    known = [case for case in dict.fromkeys(cases) if case in store.cases][:_REAL_CASES]
    flat = len(sizes[0]) == 2
    for number, case in enumerate(known, start=1):
        whole, _ = store.read_case(case)  # (C, D, H, W)
        most = (_THICKNESS, *whole.shape[2:]) if flat else tuple(side * 3 // 2 for side in sizes[0])
        middle = _middle(whole, most)
        taken = middle.swapaxes(0, 1) if flat else middle[None]
        images = torch.from_numpy(np.ascontiguousarray(taken))
        depth, height, width = middle.shape[1:]
        name = f"{height}x{width}x{depth}" if flat else f"{depth}x{height}x{width}"
        yield Input(f"real volume {number}, {name}", images, volume=True)
        for size in sizes if flat and number == 1 else ():
            resized = F.interpolate(images[:1], tuple(size), mode="bilinear", align_corners=False)
            yield Input(f"real, 1 x {size[0]}x{size[1]}", resized)


def _middle(volume: NDArray[np.float32], most: Sequence[int]) -> NDArray[np.float32]:
    """The middle of a volume (C, D, H, W), of no more than `most` voxels along its spatial axes."""
    starts = [max(0, (side - limit) // 2) for side, limit in zip(volume.shape[1:], most, strict=True)]
    box = tuple(slice(start, start + limit) for start, limit in zip(starts, most, strict=True))
    return volume[(slice(None), *box)]
