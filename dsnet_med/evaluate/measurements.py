"""One measurement of a case: everything any protocol needs to know about each label, taken once."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate import arrays, backend
from dsnet_med.evaluate.labels import label_names
from dsnet_med.evaluate.mask_scores import Borders
from dsnet_med.evaluate.voxel_spacing import VOXELS, GridSpacing, VoxelSpacing

TOLERANCES_MM = (1.0, 2.0, 3.0, 5.0, 10.0)  # of NSD, measured whatever the one that is asked for


class Presence(StrEnum):
    """Which of the two masks hold a label."""

    BOTH = "both"
    MISSED = "missed"
    INVENTED = "invented"
    ABSENT = "absent"


@dataclass(frozen=True)
class LabelMeasurement:
    """What was counted and measured for one label of one case; distances are NaN unless both masks hold it.

    `nsd_at` is the NSD at each of TOLERANCES_MM, or empty.
    """

    label: int
    name: str
    reference_voxels: int
    prediction_voxels: int
    shared_voxels: int
    diagonal_mm: float
    hd95_pooled_mm: float = nan
    hd95_max_mm: float = nan
    hd95_pooled_voxels: float = nan
    assd_mm: float = nan
    nsd: float = nan
    nsd_at: tuple[float, ...] = ()

    @property
    def presence(self) -> Presence:
        if self.reference_voxels:
            return Presence.BOTH if self.prediction_voxels else Presence.MISSED
        return Presence.INVENTED if self.prediction_voxels else Presence.ABSENT


@dataclass(frozen=True)
class CaseMeasurements:
    """The measures of a case in the order of the labels' values, and where its maps differ.

    `differing` has for each axis of the arrays how many voxels differ at each of its indices.
    """

    measures: tuple[LabelMeasurement, ...]
    differing: tuple[NDArray[np.int64], ...]


def measure_case(
    reference: ArrayLike,
    prediction: ArrayLike,
    spacing_mm: GridSpacing,
    labels: Mapping[Any, Any],
    *,
    in_voxels: bool = False,
    nsd_tolerance_mm: float = 1.0,
    threads: int = 1,
) -> CaseMeasurements:
    """Measure every label of two integer label maps of one 2-D or 3-D shape.

    `spacing_mm` is as for `hd95`, `labels` maps values to names (0 is background). `in_voxels` also measures
    HD95 with unit spacing, which costs the distances a second time unless the spacing is isotropic. `threads`
    share the labels. Raises InputError, also for values that `labels` does not name.
    """
    names, limit = label_names(labels), arrays.tolerance(nsd_tolerance_mm)
    pair = arrays.label_maps(reference, prediction)
    given = VoxelSpacing.of(spacing_mm, pair[0].ndim)
    diagonal, maps = given.diagonal(pair[0].shape), arrays.aligned(*pair)
    return measure_aligned(maps, given, names, diagonal, limit, in_voxels=in_voxels, threads=threads)


def measure_aligned(
    maps: arrays.AlignedMaps,
    given: VoxelSpacing,
    names: Mapping[int, str],
    diagonal: float,
    limit: float,
    *,
    in_voxels: bool,
    threads: int,
) -> CaseMeasurements:
    """`measure_case` of checked maps, which may be a part of the volume whose `diagonal` is in mm, with the
    tolerance `limit` of NSD."""
    spacing = given.of_axes(maps.axes)
    survey = backend.BACKEND.survey(maps.reference, maps.prediction)
    _require_known(survey.voxels, names)
    borders = Borders.of(maps, survey)

    def measured(label: int) -> LabelMeasurement:
        a, b, both = survey.voxels[label].tolist() if label < len(survey.voxels) else (0, 0, 0)
        counted = LabelMeasurement(label, names[label], a, b, both, diagonal)
        if counted.presence is not Presence.BOTH:
            return counted
        distances = borders.distances(label, spacing)
        in_unit_spacing, (nsd, *nsd_at) = nan, distances.within_each((limit, *TOLERANCES_MM))
        if in_voxels:
            size = _isotropic(spacing, maps.reference.shape)
            own = distances.hd95("pooled") if size else borders.distances(label, VOXELS).hd95("pooled")
            in_unit_spacing = own / (size or 1.0)
        return replace(
            counted,
            hd95_pooled_mm=distances.hd95("pooled"),
            hd95_max_mm=distances.hd95("max"),
            hd95_pooled_voxels=in_unit_spacing,
            assd_mm=distances.assd(),
            nsd=nsd,
            nsd_at=tuple(nsd_at),
        )

    with ThreadPoolExecutor(threads) as pool:
        measures = tuple(pool.map(measured, names) if threads > 1 else map(measured, names))
    differing = survey.differing[1:] if maps.planar else survey.differing
    return CaseMeasurements(measures, tuple(differing[maps.axes.index(axis)] for axis in range(len(maps.axes))))


def _isotropic(spacing: VoxelSpacing, shape: Sequence[int]) -> float | None:
    """The one size of voxels along the axes that are longer than a voxel; None where there are several."""
    if spacing.sizes is None:
        return None
    in_use = {size for size, length in zip(spacing.sizes, shape, strict=True) if length > 1} or {1.0}
    return in_use.pop() if len(in_use) == 1 else None


def _require_known(voxels: NDArray[np.int64], names: Mapping[int, str]) -> None:
    """Raise InputError for label values that `names` does not have, in either map."""
    for role, column in (("reference", 0), ("prediction", 1)):
        strays = [int(label) for label in np.flatnonzero(voxels[:, column]) if label > 0 and label not in names]
        if strays:
            raise InputError(
                f"{role} holds label {first_of(strays)}, which is none of {first_of(names, 20)}; "
                "name it in the labels or map it to 0"
            )
