"""Volumes as a network sees them, scaled and at its spacing, and its scores back on their own grid."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dsnet_med.prepare.intensity import Intensity
from dsnet_med.resampling import Resampler, Spacing, new_shape, resampled

Shape = tuple[int, int, int]


def shape_at(shape: Sequence[int], spacing: Spacing, wanted: Spacing | None) -> Shape:
    """The shape (D, H, W) of a volume of `shape` and `spacing` at the spacing `wanted`; its own, if none is."""
    if wanted is None:
        return shape[0], shape[1], shape[2]
    return new_shape(shape, spacing, wanted)


def prepared(
    stacks: Sequence[NDArray[Any]], rules: Sequence[Intensity], spacing: Spacing, wanted: Spacing | None
) -> NDArray[np.float32]:
    """The channels of a volume, each (D, H, W), scaled by their rules and then resampled: (C, D', H', W')."""
    shape = shape_at(stacks[0].shape, spacing, wanted)
    result = np.empty((len(stacks), *shape), np.float32)
    for stack, rule, into in zip(stacks, rules, result, strict=True):
        scaled = rule.fit(stack).apply(stack)
        into[...] = scaled if wanted is None else resampled(scaled[None], spacing, wanted)[0]
    return result


def on_grid(slices: Iterator[Tensor], way: Resampler) -> Iterator[Tensor]:
    """Scores of slices (K, H', W'), in order, as those of the slices (K, H, W) of the grid `way` leads to."""
    along, held = way.lines[0], dict[int, Tensor]()
    count = 0
    for low, high, share in zip(along.low.tolist(), along.high.tolist(), along.share.tolist(), strict=True):
        for index in range(count, high + 1):
            held[index] = next(slices)
        count = max(count, high + 1)
        held = {index: kept for index, kept in held.items() if index >= low}
        yield _in_plane(held[low].lerp(held[high], share) if share else held[low], way)


def _in_plane(scores: Tensor, way: Resampler) -> Tensor:
    if way.separate in (1, 2):
        line = way.lines[way.separate]
        scores = scores[:, line.low] if way.separate == 1 else scores[:, :, line.low]
    if tuple(scores.shape[1:]) == way.shape[1:]:
        return scores
    return F.interpolate(scores[None], way.shape[1:], mode="bilinear", align_corners=False)[0]
