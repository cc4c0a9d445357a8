"""The published augmentation of slices: rotate, or turn by quarters and mirror, or neither.

It is `RandomRotFlip` of the published code, which is that of TransUNet, https://arxiv.org/abs/2102.04306. Its
random numbers are drawn in the same order. Departures: label maps are turned by the nearest neighbour (the
published code interpolates them, which puts classes 1 to 7 on a border of 0 and 8; `label_mode="bilinear"` does
so too), and slices that are not square keep their shape, so that they still make a batch.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import cos, radians, sin
from typing import Any, NamedTuple

import torch
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.errors import InputError, unknown

MODES = ("nearest", "bilinear")


class Change(NamedTuple):
    """What is done to one slice: a rotation, or quarter turns and then a mirror along an axis, or nothing."""

    degrees: float | None = None
    quarter_turns: int = 0
    mirrored_axis: int | None = None


class RandRotFlipd(Randomizable, MapTransform):
    """Change image and label (C, H, W) alike: rotated by up to +-`degree` with probability `rotate_prob`; else,
    with `flip_prob`, turned by 0 to 3 quarters and always mirrored; else as they are.

    Images are interpolated bilinearly, and `label_keys` by `label_mode`; outside the slice both are 0. Results
    are plain tensors, since metadata would no longer be true.

    Raises InputError for an unknown `label_mode`, and for slices that are not (C, H, W).
    """

    def __init__(
        self,
        keys: Sequence[Hashable] = ("image", "label"),
        label_keys: Sequence[Hashable] = ("label",),
        rotate_prob: float = 0.5,
        flip_prob: float = 0.5,
        degree: float = 20.0,
        *,
        label_mode: str = "nearest",
    ) -> None:
        super().__init__(keys)
        if label_mode not in MODES:
            raise unknown("label mode", label_mode, MODES)
        self.rotate_prob, self.flip_prob, self.degree = rotate_prob, flip_prob, degree
        self.label_keys = tuple(label_keys)
        self.modes = [label_mode if key in label_keys else "bilinear" for key in self.keys]
        self.change = Change()

    def randomize(self, data: Any = None) -> None:  # noqa: ARG002 -- MONAI's signature
        """Draw what the next slice undergoes, in the reference's order: the second number is always drawn."""
        rotated = self.R.random() < self.rotate_prob
        degrees = self.R.uniform(-self.degree, self.degree) if rotated else None
        if self.R.random() < self.flip_prob and not rotated:
            self.change = Change(None, int(self.R.randint(0, 4)), int(self.R.randint(0, 2)))
        else:
            self.change = Change(degrees)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize()
        slices = dict(data)
        for key, mode in zip(self.keys, self.modes, strict=True):
            maps = changed(convert_to_tensor(slices[key], track_meta=False), self.change, mode)
            slices[key] = maps.round() if key in self.label_keys else maps  # labels may come as floats
        return slices


def changed(maps: Tensor, change: Change, mode: str = "bilinear") -> Tensor:
    """`maps` (C, H, W) after `change`, of the same shape and type."""
    if maps.ndim != 3:
        raise InputError(f"got a slice of shape {tuple(maps.shape)}, wanted (C, H, W)")
    if change.degrees is not None:
        return rotated(maps, change.degrees, mode)
    square = maps.shape[1] == maps.shape[2]
    turns = change.quarter_turns if square else change.quarter_turns // 2 * 2
    maps = maps.rot90(turns, (1, 2))
    return maps if change.mirrored_axis is None else maps.flip(1 + change.mirrored_axis)


def rotated(maps: Tensor, degrees: float, mode: str = "bilinear") -> Tensor:
    """`maps` (C, H, W) turned clockwise about their middle, 0 from outside; integers are rounded."""
    grid = _where_from(int(maps.shape[1]), int(maps.shape[2]), radians(degrees))
    values = maps if maps.is_floating_point() else maps.float()
    values = F.grid_sample(values[None], grid.to(values), mode, "zeros", align_corners=False)[0]
    return values if maps.is_floating_point() else values.round_().to(maps.dtype)


def _where_from(height: int, width: int, angle: float) -> Tensor:
    """The place (x, y) in the input of every output pixel, as grid_sample counts: (1, H, W, 2) in -1 to 1."""
    y = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2)[:, None]
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    grid = torch.empty(1, height, width, 2)
    for axis, (row, column, size) in enumerate(
        [(sin(angle) * y, cos(angle) * x, width), (cos(angle) * y, -sin(angle) * x, height)]
    ):
        torch.add((row * 2 / size).float(), (column * 2 / size).float(), out=grid[0, :, :, axis])
    return grid
