"""Dice, HD95, ASSD and NSD of two masks.

Dice = 2 |R and P| / (|R| + |P|), counted in voxels (Dice, Ecology 1945; Sorensen 1948); one empty mask gives 0.

The surface of a mask is its border voxels: those with at least one face neighbour outside the mask, where
everything beyond the array counts as outside (medpy's and MONAI's definition). Each border voxel has one exact
Euclidean distance, centre to centre, to the nearest border voxel of the other mask, which gives two directed
sets. HD95 `pooled` is the 95th percentile of both sets together (medpy), `max` the larger of the two sets' 95th
percentiles (MONAI); percentiles interpolate linearly, as NumPy does. ASSD is the mean of both sets together
(medpy). NSD is the share of all border voxels that lie within a tolerance of the other surface. One empty mask
gives infinity (NSD 0).

Two empty masks give NaN: there is nothing to agree about. What a score makes of empty masks is a protocol's
choice (protocols.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from dsnet_med.errors import unknown
from dsnet_med.evaluate import arrays, backend
from dsnet_med.evaluate.arrays import Distances, Survey, VoxelIndices
from dsnet_med.evaluate.voxel_spacing import GridSpacing, VoxelSpacing

HausdorffRule = Literal["pooled", "max"]

RULES: tuple[HausdorffRule, ...] = get_args(HausdorffRule)
# Spacings such as 0.3 have no exact binary form, and headers keep seven digits: a surface exactly at the
# tolerance must not fall outside it.
_ROUNDING_MM, _ROUNDING = 1e-9, 1e-6


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
        return self.within_each((tolerance_mm,))[0]

    def within_each(self, tolerances_mm: Sequence[float]) -> tuple[float, ...]:
        """The same for each of several tolerances."""
        pooled = self.pooled()
        limits = [each + max(_ROUNDING_MM, _ROUNDING * each) for each in tolerances_mm]
        return tuple(float((pooled <= limit).mean()) for limit in limits)


def dice(reference: ArrayLike, prediction: ArrayLike) -> float:
    """Dice of two boolean masks of one 2-D or 3-D shape: 0 to 1, NaN when both are empty.

    Raises InputError for other shapes and for values that are neither boolean nor 0 and 1.
    """
    a, b = arrays.masks(reference, prediction)
    return dice_of_counts(int(np.count_nonzero(a & b)), int(np.count_nonzero(a)), int(np.count_nonzero(b)))


def dice_of_counts(shared_voxels: int, reference_voxels: int, prediction_voxels: int) -> float:
    """Dice from the voxels in both masks and in each; NaN when both are empty."""
    total = reference_voxels + prediction_voxels
    return 2 * shared_voxels / total if total else nan


def hd95(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: GridSpacing, rule: HausdorffRule = "pooled"
) -> float:
    """The 95th percentile of the surface distances of two masks, in mm.

    The masks are boolean, of one 2-D or 3-D shape (N axes). `spacing_mm` has one number per axis or, for grids
    whose axes need not be at right angles, is a matrix (N, N) whose columns are the steps along the axes: the
    left part of an affine, `affine[:3, :3]`. `rule` is `pooled` (medpy's hd95) or `max` (MONAI's). One empty
    mask gives infinity, two give NaN. Raises InputError.
    """
    if rule not in RULES:
        raise unknown("HD95 rule", str(rule), RULES)
    distances = _checked_distances(reference, prediction, spacing_mm)
    return distances if isinstance(distances, float) else distances.hd95(rule)


def assd(reference: ArrayLike, prediction: ArrayLike, spacing_mm: GridSpacing) -> float:
    """The average symmetric surface distance of two masks, in mm (medpy's assd), arguments as for `hd95`."""
    distances = _checked_distances(reference, prediction, spacing_mm)
    return distances if isinstance(distances, float) else distances.assd()


def nsd(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: GridSpacing, tolerance_mm: float = 1.0
) -> float:
    """The normalised surface distance: the share of border voxels within `tolerance_mm` of the other surface.

    0 to 1; 0 when one mask is empty, NaN when both are. See `hd95` for the other arguments.
    """
    limit = arrays.tolerance(tolerance_mm)
    distances = _checked_distances(reference, prediction, spacing_mm)
    if isinstance(distances, float):
        return nan if np.isnan(distances) else 0.0
    return distances.within(limit)


@dataclass(frozen=True)
class Borders:
    """The border voxels of every label of two label maps, from one pass over each."""

    reference: list[VoxelIndices]
    prediction: list[VoxelIndices]

    @classmethod
    def of(cls, maps: arrays.AlignedMaps, survey: Survey) -> "Borders":
        """Of the labels that both maps hold."""
        voxels = survey.voxels
        shared = (voxels[:, 0] > 0) & (voxels[:, 1] > 0)
        shared[0] = False
        reference, prediction = (
            backend.BACKEND.borders(volume, voxels[:, column] * shared, survey.extents, maps.planar)
            for column, volume in enumerate((maps.reference, maps.prediction))
        )
        return cls(reference, prediction)

    def distances(self, label: int, spacing: VoxelSpacing) -> SurfaceDistances:
        """The directed sets of a label that both maps hold, with the spacing of the axes (I, J, K)."""
        a, b = self.reference[label], self.prediction[label]
        return SurfaceDistances(spacing.nearest(a, b), spacing.nearest(b, a))


def _checked_distances(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: GridSpacing
) -> SurfaceDistances | float:
    masks = arrays.masks(reference, prediction)
    spacing = VoxelSpacing.of(spacing_mm, masks[0].ndim)
    maps = arrays.aligned(*masks)
    survey = backend.BACKEND.survey(maps.reference, maps.prediction)
    in_reference, in_prediction = survey.voxels[1, :2] if len(survey.voxels) > 1 else (0, 0)
    if not (in_reference and in_prediction):
        return inf if in_reference or in_prediction else nan
    return Borders.of(maps, survey).distances(1, spacing.of_axes(maps.axes))
