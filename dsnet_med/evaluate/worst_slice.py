"""The slice where a prediction differs most from its reference, kept when a case is scored for its picture.

Every case keeps its own, for only the last one tells which few are drawn; compressed, a slice takes kilobytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from dsnet_med.evaluate.arrays import LabelMap
from dsnet_med.geometry import SliceOrder

Slice = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Packed:
    """A slice, compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.integer[Any]]
    content: bytes

    @classmethod
    def of(cls, labels: Slice) -> "_Packed":
        return cls(labels.shape, labels.dtype, isal_zlib.compress(labels.tobytes(), 1))

    def unpacked(self) -> Slice:
        return np.frombuffer(isal_zlib.decompress(self.content), self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class SlicePair:
    """One slice of both maps as a radiologist sees it (geometry.SliceOrder): which one, of how many."""

    index: int
    depth: int
    _reference: _Packed
    _prediction: _Packed

    @property
    def reference(self) -> Slice:
        return self._reference.unpacked()

    @property
    def prediction(self) -> Slice:
        return self._prediction.unpacked()


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
    return SlicePair(index, len(a), _Packed.of(a[index]), _Packed.of(b[index]))
