"""The arrays that the measures take and give, and what of users' arrays they accept.

VoxelIndices are (N, 3), in the order of memory, int32 and C-contiguous.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import ArrayLike, NDArray

from dsnet_med.errors import InputError
from dsnet_med.evaluate.labels import LARGEST_LABEL

Mask = NDArray[np.bool_]
LabelMap = NDArray[np.integer[Any]]
VoxelIndices = NDArray[np.int32]
Distances = NDArray[np.float64]
Spacing = tuple[float, float, float]


class Survey(NamedTuple):
    """What one pass over two label maps counts.

    `voxels` (labels, 3): of each label in the reference, in the prediction and in both; row 0 means nothing.
    `differing`: for each axis, how many voxels differ at each of its indices. `extents` (I, J, 2): from where
    to where along K labels may lie in either map.
    """

    voxels: NDArray[np.int64]
    differing: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    extents: NDArray[np.int32]


@dataclass(frozen=True)
class PackedSlice:
    """A slice of a label map, compressed: one is kept of every case, and takes kilobytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    content: bytes

    @classmethod
    def of(cls, labels: LabelMap) -> "PackedSlice":
        return cls(labels.shape, labels.dtype, isal_zlib.compress(labels.tobytes(), 1))

    def unpacked(self) -> LabelMap:
        return np.frombuffer(isal_zlib.decompress(self.content), self.dtype).reshape(self.shape)


def label_maps(reference: ArrayLike, prediction: ArrayLike) -> tuple[LabelMap, LabelMap]:
    """Both arrays as integer label maps of one 2-D or 3-D shape. Raises InputError."""
    a, b = np.asarray(reference), np.asarray(prediction)
    if a.shape != b.shape:
        raise InputError(
            f"reference has shape {a.shape}, prediction {b.shape}; resample one to the other's grid"
        )
    if a.ndim not in (2, 3) or a.size == 0:
        raise InputError(f"arrays have shape {a.shape}, wanted 2-D or 3-D with at least one voxel")
    for role, array in (("reference", a), ("prediction", b)):
        if array.dtype.kind not in "iub":
            raise InputError(f"{role} is {array.dtype}, wanted integers; round it to labels first")
        if array.dtype.kind == "i" and array.min() < 0:
            raise InputError(f"{role} holds the label {array.min()}, wanted 0 or more; map it to a class first")
        if array.itemsize > 2 and array.max() > LARGEST_LABEL:
            raise InputError(f"{role} holds the label {array.max()}, wanted at most {LARGEST_LABEL}")
    return _as_integers(a), _as_integers(b)


def masks(reference: ArrayLike, prediction: ArrayLike) -> tuple[LabelMap, LabelMap]:
    """Both arrays as label maps of 0 and 1, of one 2-D or 3-D shape. Raises InputError."""
    found = label_maps(reference, prediction)
    for role, array in zip(("reference", "prediction"), found, strict=True):
        if array.max() > 1:
            raise InputError(
                f"{role} holds values {array.min()} to {array.max()}, wanted a mask of 0 and 1; "
                "compare it first (array == label) or use score_case"
            )
    return found


def _as_integers(array: NDArray[Any]) -> LabelMap:
    return array.view(np.uint8) if array.dtype == np.bool_ else array


class AlignedMaps(NamedTuple):
    """Two label maps as the passes want them: C-contiguous (I, J, K), uint8 or uint16 alike.

    `axes` says which of the caller's axes the last ones are; a plane has I of length one in front.
    """

    reference: LabelMap
    prediction: LabelMap
    axes: tuple[int, ...]

    @property
    def planar(self) -> bool:
        return len(self.axes) == 2


def aligned(reference: LabelMap, prediction: LabelMap) -> AlignedMaps:
    """Both maps with their axes in the order of memory, so that files' own (Fortran) order is not copied.

    No measure depends on the order of the axes.
    """
    axes = sorted(range(reference.ndim), key=lambda axis: -abs(reference.strides[axis]))
    wide = any(array.itemsize > 1 and array.max() > np.iinfo(np.uint8).max for array in (reference, prediction))
    dtype: type[np.unsignedinteger[Any]] = np.uint16 if wide else np.uint8
    a, b = (array.transpose(axes).astype(dtype, order="C", copy=False) for array in (reference, prediction))
    return AlignedMaps(a[None], b[None], tuple(axes)) if a.ndim == 2 else AlignedMaps(a, b, tuple(axes))


def tolerance(tolerance_mm: float) -> float:
    """The distance in mm up to which two surfaces agree. Raises InputError."""
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise InputError(f"the surface tolerance is {tolerance_mm} mm, wanted a finite number of at least 0")
    return float(tolerance_mm)


def plane_border(labels: LabelMap) -> Mask:
    """The pixels of a plane (J, K) at its edge, or with a neighbour of another value."""
    edge = np.ones(labels.shape, bool)
    core = labels[1:-1, 1:-1]
    edge[1:-1, 1:-1] = (
        (labels[:-2, 1:-1] != core)
        | (labels[2:, 1:-1] != core)
        | (labels[1:-1, :-2] != core)
        | (labels[1:-1, 2:] != core)
    )
    return edge
