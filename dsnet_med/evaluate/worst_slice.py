"""The slice where a prediction differs most from its reference, kept when a case is scored for its picture.

Every case keeps its own, for only the last one tells which few are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate.arrays import LabelMap, PackedSlice
from dsnet_med.geometry import SliceOrder


@dataclass(frozen=True)
class SlicePair:
    """One slice of both maps as a radiologist sees it (geometry.SliceOrder): which one, of how many."""

    index: int
    depth: int
    reference: PackedSlice
    prediction: PackedSlice


def worst_slice(
    reference: LabelMap,
    prediction: LabelMap,
    affine: NDArray[np.float64],
    differing: Sequence[NDArray[np.int64]],
) -> SlicePair:
    """The slice with the most differing voxels, else the one of the reference with the most labelled ones.

    `differing` has for each axis the number of differing voxels at each index.
    """
    order = SliceOrder.of(affine, "coarsest")
    a, b = order.to_slices(reference), order.to_slices(prediction)
    wrong = differing[order.axes[0]][:: -1 if order.reversed[0] else 1]
    index = int(np.argmax(wrong if wrong.any() else np.count_nonzero(a, axis=(1, 2))))
    return SlicePair(index, len(a), PackedSlice.of(a[index]), PackedSlice.of(b[index]))
