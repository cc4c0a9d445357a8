"""The published augmentation of slices: rotate, or turn by quarters and mirror, or neither.

It is `RandomRotFlip` of the published code, which is that of TransUNet, https://arxiv.org/abs/2102.04306. Its
random numbers are drawn in the same order. Departures: label maps are turned by the nearest neighbour (the
published code interpolates them, which puts classes 1 to 7 on a border of 0 and 8; `label_mode="bilinear"` does
so too), and slices that are not square keep their shape, so that they still make a batch.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from math import isnan, nan
from typing import Any, NamedTuple

import torch
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.errors import InputError, unknown

MODES = ("nearest", "bilinear")
CHANGE = "change"  # the key of an item under which its Change travels to the device


class Change(NamedTuple):
    """What is done to one slice: a rotation, or quarter turns and then a mirror along an axis, or nothing."""

    degrees: float | None = None
    quarter_turns: int = 0
    mirrored_axis: int | None = None

    def as_tensor(self) -> Tensor:
        """Three float64 numbers, which make a batch: degrees or NaN, quarter turns, axis or -1."""
        axis = -1 if self.mirrored_axis is None else self.mirrored_axis
        return torch.tensor(
            [nan if self.degrees is None else self.degrees, self.quarter_turns, axis], dtype=torch.float64
        )

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Change":
        """The inverse of `as_tensor`."""
        degrees, turns, axis = numbers
        return cls(None if isnan(degrees) else degrees, int(turns), None if axis < 0 else int(axis))


class RandRotFlipd(Randomizable, MapTransform):
    """Change image and label (C, H, W) alike: rotated by up to +-`degree` with probability `rotate_prob`; else,
    with `flip_prob`, turned by 0 to 3 quarters and always mirrored; else as they are.

    Images are interpolated bilinearly, and `label_keys` by `label_mode`; outside the slice both are 0. Results
    are plain tensors, since metadata would no longer be true. With `on_device` an item is left as it is and
    says what is to be done, which `apply` does to a batch (engine.data.PrepareBatch).

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
        on_device: bool = False,
    ) -> None:
        super().__init__(keys)
        if label_mode not in MODES:
            raise unknown("label mode", label_mode, MODES)
        self.rotate_prob, self.flip_prob, self.degree = rotate_prob, flip_prob, degree
        self.label_keys = tuple(label_keys)
        self.modes = [label_mode if key in label_keys else "bilinear" for key in self.keys]
        self.on_device = on_device
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
        if self.on_device:
            return {**data, CHANGE: self.change.as_tensor()}
        slices = {key: convert_to_tensor(data[key], track_meta=False) for key in self.keys}
        if wrong := [tuple(maps.shape) for maps in slices.values() if maps.ndim != 3]:
            raise InputError(f"got a slice of shape {wrong[0]}, wanted (C, H, W)")
        batch = {key: maps[None] for key, maps in slices.items()}
        return {**data, **{key: maps[0] for key, maps in self.apply(batch, [self.change]).items()}}

    def apply(self, batch: Mapping[Hashable, Tensor], changes: Sequence[Change]) -> dict[Hashable, Tensor]:
        """The maps (B, C, H, W) of a batch, on any device, each sample after its own change."""
        done = {}
        for key, mode in zip(self.keys, self.modes, strict=True):
            maps = changed(batch[key], changes, mode)
            whole = key in self.label_keys and maps.is_floating_point()  # labels may come as floats
            done[key] = maps.round() if whole else maps
        return done


def changed(maps: Tensor, changes: Sequence[Change], mode: str = "bilinear") -> Tensor:
    """`maps` (B, C, H, W), on any device, each sample after its own change; of the same shape and type."""
    parts = list(maps.split(1))
    turned = [place for place, change in enumerate(changes) if change.degrees is not None]
    if turned:
        angles = [change.degrees for change in changes if change.degrees is not None]
        results = rotated(_joined([parts[place] for place in turned]), angles, mode)
        for place, part in zip(turned, results.split(1), strict=True):
            parts[place] = part
    for place, change in enumerate(changes):
        if change.mirrored_axis is not None:
            square = maps.shape[2] == maps.shape[3]
            turns = change.quarter_turns if square else change.quarter_turns // 2 * 2
            parts[place] = parts[place].rot90(turns, (2, 3)).flip(2 + change.mirrored_axis)
    return _joined(parts)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def rotated(maps: Tensor, degrees: Sequence[float], mode: str = "bilinear") -> Tensor:
    """`maps` (B, C, H, W), each turned clockwise about its middle, 0 from outside; integers are rounded."""
    grid = _where_from(maps.shape[2], maps.shape[3], tuple(degrees), maps.device)
    values = maps if maps.is_floating_point() else maps.float()
    values = F.grid_sample(values, grid.to(values), mode, "zeros", align_corners=False)
    if maps.is_floating_point():
        return values
    return (values if mode == "nearest" else values.round_()).to(maps.dtype)


@lru_cache(maxsize=1)  # the label's is the image's
def _where_from(height: int, width: int, degrees: tuple[float, ...], device: torch.device) -> Tensor:
    """The place (x, y) in the input of every output pixel, as grid_sample counts: (B, H, W, 2) in -1 to 1.

    x is that of the pixel's row plus that of its column, and so is y: one sum of complex numbers.
    """
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()[:, None]
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    rows = torch.complex(angle.sin() * y * (2 / width), angle.cos() * y * (2 / height))
    columns = torch.complex(angle.cos() * x * (2 / width), -angle.sin() * x * (2 / height))
    rows, columns = (part.to(torch.complex64).to(device, non_blocking=True) for part in (rows, columns))
    return torch.view_as_real(rows[:, :, None] + columns[:, None, :])
