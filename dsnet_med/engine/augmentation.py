"""The published augmentation of slices: rotate, or turn by quarters and mirror, or neither.

It is `RandomRotFlip` of the published code, which is that of TransUNet, https://arxiv.org/abs/2102.04306. Its
random numbers are drawn in the same order. Departures: label maps are turned by the nearest neighbour (the
published code interpolates them, which puts classes 1 to 7 on a border of 0 and 8; `label_mode="bilinear"` does
so too), and slices that are not square keep their shape, so that they still make a batch.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
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
        done = dict(data)
        for key, mode in zip(self.keys, self.modes, strict=True):
            maps = convert_to_tensor(data[key], track_meta=False)
            if maps.ndim != 3:
                raise InputError(f"got a slice of shape {tuple(maps.shape)}, wanted (C, H, W)")
            maps = changed(maps, self.change, mode)
            whole = key in self.label_keys and maps.is_floating_point()  # labels may come as floats
            done[key] = maps.round() if whole else maps
        return done


def changed(maps: Tensor, change: Change, mode: str = "bilinear") -> Tensor:
    """`maps` (C, H, W) after a change; of the same shape and type."""
    if change.degrees is not None:
        return rotated(maps, change.degrees, mode)
    if change.mirrored_axis is None:
        return maps
    turns = change.quarter_turns if maps.shape[1] == maps.shape[2] else change.quarter_turns // 2 * 2
    return maps.rot90(turns, (1, 2)).flip(1 + change.mirrored_axis)


def rotated(maps: Tensor, degrees: float, mode: str = "bilinear") -> Tensor:
    """`maps` (C, H, W) turned clockwise about their middle, 0 from outside; integers are rounded."""
    grid = _where_from(maps.shape[1], maps.shape[2], degrees)
    values = maps if maps.is_floating_point() else maps.float()
    values = F.grid_sample(values[None], grid.to(values), mode, "zeros", align_corners=False)[0]
    if maps.is_floating_point():
        return values
    return (values if mode == "nearest" else values.round_()).to(maps.dtype)


@lru_cache(maxsize=1)  # the label's is the image's
def _where_from(height: int, width: int, degrees: float) -> Tensor:
    """The place (x, y) in the input of every output pixel, as grid_sample counts: (1, H, W, 2) in -1 to 1.

    x is that of the pixel's row plus that of its column, and so is y: one sum of complex numbers.
    """
    angle = torch.tensor([[degrees]], dtype=torch.float64).deg2rad()
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    rows = torch.complex(angle.sin() * y * (2 / width), angle.cos() * y * (2 / height)).to(torch.complex64)
    columns = torch.complex(angle.cos() * x * (2 / width), -angle.sin() * x * (2 / height)).to(torch.complex64)
    return torch.view_as_real(rows[:, :, None] + columns[:, None, :])
