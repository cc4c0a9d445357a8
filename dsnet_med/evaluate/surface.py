"""Distances between the surfaces of two masks: HD95, ASSD, NSD.

The surface of a mask is its border voxels: those with at least one face neighbour outside the mask, where
everything beyond the array counts as outside (medpy's and MONAI's definition). Each border voxel has one exact
Euclidean distance, centre to centre, to the nearest border voxel of the other mask, which gives two directed
sets. HD95 `pooled` is the 95th percentile of both sets together (medpy), `max` the larger of the two sets' 95th
percentiles (MONAI); percentiles interpolate linearly, as NumPy does. ASSD is the mean of both sets together
(medpy). NSD is the share of all border voxels that lie within a tolerance of the other surface. One empty mask
gives infinity (NSD 0), two empty masks NaN (conventions.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from dsnet_med.errors import unknown
from dsnet_med.evaluate import inputs
from dsnet_med.evaluate.inputs import Mask

HausdorffRule = Literal["pooled", "max"]
Distances = NDArray[np.float64]

RULES: tuple[HausdorffRule, ...] = ("pooled", "max")
# Spacings such as 0.3 have no exact binary form: a surface exactly at the tolerance must not fall outside it.
_ROUNDING_MM = 1e-9
# Above this share of border voxels a tree of points is slower than a distance transform of the whole crop.
_DENSE = 0.5


@dataclass(frozen=True)
class SurfaceDistances:
    """The two directed sets: from each border voxel of one mask to the nearest of the other."""

    from_reference: Distances
    from_prediction: Distances

    def pooled(self) -> Distances:
        """Both sets together."""
        return np.concatenate([self.from_reference, self.from_prediction])

    def hd95(self, rule: HausdorffRule) -> float:
        """The 95th percentile by `rule`, in the unit of the distances."""
        if rule == "pooled":
            return float(np.percentile(self.pooled(), 95))
        return float(max(np.percentile(self.from_reference, 95), np.percentile(self.from_prediction, 95)))

    def assd(self) -> float:
        """The mean of both sets together, in the unit of the distances."""
        return float(self.pooled().mean())

    def within(self, tolerance_mm: float) -> float:
        """The share of border voxels at most `tolerance_mm` from the other surface, 0 to 1."""
        return float((self.pooled() <= tolerance_mm + _ROUNDING_MM).mean())


def hd95(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: Sequence[float], rule: HausdorffRule = "pooled"
) -> float:
    """The 95th percentile of the surface distances of two masks, in mm.

    The masks are boolean, of one 2-D or 3-D shape; `spacing_mm` has one number per axis. `rule` is `pooled`
    (medpy's hd95) or `max` (MONAI's). One empty mask gives infinity, two give NaN. Raises InputError.
    """
    if rule not in RULES:
        raise unknown("HD95 rule", str(rule), RULES)
    distances = _checked_distances(reference, prediction, spacing_mm)
    return distances if isinstance(distances, float) else distances.hd95(rule)


def assd(reference: ArrayLike, prediction: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """The average symmetric surface distance of two masks, in mm (medpy's assd), arguments as for `hd95`."""
    distances = _checked_distances(reference, prediction, spacing_mm)
    return distances if isinstance(distances, float) else distances.assd()


def nsd(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: Sequence[float], tolerance_mm: float = 1.0
) -> float:
    """The normalised surface distance: the share of border voxels within `tolerance_mm` of the other surface.

    0 to 1; 0 when one mask is empty, NaN when both are. See `hd95` for the other arguments.
    """
    limit = inputs.tolerance(tolerance_mm)
    distances = _checked_distances(reference, prediction, spacing_mm)
    if isinstance(distances, float):
        return nan if np.isnan(distances) else 0.0
    return distances.within(limit)


def border(mask: Mask) -> Mask:
    """The voxels of `mask` with at least one face neighbour that is outside it or beyond the array."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, core = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        core[1:] &= along[:-1]
        core[:-1] &= along[1:]
        core[0] = core[-1] = False
    return mask & ~inside


def surface_distances(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> SurfaceDistances:
    """The directed sets of two masks that both hold voxels, in the unit of `spacing`.

    Crop both masks to the box around their union first: the time grows with the box in a dense case.
    """
    surfaces = border(reference), border(prediction)
    return SurfaceDistances(_to_nearest(*surfaces, spacing), _to_nearest(*surfaces[::-1], spacing))


def nearest(points: NDArray[np.intp], targets: NDArray[np.intp], spacing: Sequence[float]) -> Distances:
    """For each of `points` (N, axes), in voxels, the distance to the nearest of `targets` (M, axes)."""
    # The default balanced tree is slow to build on a grid, whose coordinates are full of ties.
    tree = cKDTree(targets * np.asarray(spacing), leafsize=24, compact_nodes=False, balanced_tree=False)
    return np.asarray(tree.query(points * np.asarray(spacing))[0], np.float64)


def _to_nearest(surface: Mask, other: Mask, spacing: Sequence[float]) -> Distances:
    if np.count_nonzero(surface) + np.count_nonzero(other) > _DENSE * surface.size:
        return np.asarray(distance_transform_edt(~other, sampling=spacing)[surface], np.float64)
    apart = _places(surface & ~other)
    distances = np.zeros(np.count_nonzero(surface))
    if len(apart):
        distances[: len(apart)] = nearest(apart, _places(other), spacing)
    return distances


def _places(mask: Mask) -> NDArray[np.intp]:
    # The same as argwhere, five times faster on a large mask with few voxels.
    return np.column_stack(np.unravel_index(np.flatnonzero(mask), mask.shape))


def _checked_distances(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: Sequence[float]
) -> SurfaceDistances | float:
    a, b = inputs.masks(reference, prediction)
    sizes = inputs.spacing(spacing_mm, a.ndim)
    if not (a.any() and b.any()):
        return inf if a.any() or b.any() else nan
    box = _box(a | b)
    return surface_distances(a[box], b[box], sizes)


def _box(mask: Mask) -> tuple[slice, ...]:
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
