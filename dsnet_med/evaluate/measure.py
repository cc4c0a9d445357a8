"""One measurement of a case: everything any protocol needs to know about each label, taken once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects

from dsnet_med.errors import InputError
from dsnet_med.evaluate import inputs
from dsnet_med.evaluate.conventions import Presence, presence
from dsnet_med.evaluate.inputs import LabelMap, Mask
from dsnet_med.evaluate.labels import label_names
from dsnet_med.evaluate.surface import SurfaceDistances, surface_distances

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Measure:
    """What was counted and measured for one label of one case; distances are NaN unless both masks hold it."""

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

    @property
    def presence(self) -> Presence:
        return presence(self.reference_voxels, self.prediction_voxels)


def measure_case(
    reference: ArrayLike,
    prediction: ArrayLike,
    spacing_mm: Sequence[float],
    labels: Mapping[Any, Any],
    *,
    in_voxels: bool = False,
    nsd_tolerance_mm: float = 1.0,
) -> list[Measure]:
    """Measure every label of two integer label maps of one 2-D or 3-D shape.

    `labels` maps values to names (0 is background). `in_voxels` also measures HD95 with unit spacing, which
    costs the distances a second time unless the spacing is isotropic. Raises InputError, also for values that
    `labels` does not name.
    """
    names, limit = label_names(labels), inputs.tolerance(nsd_tolerance_mm)
    maps = inputs.label_maps(reference, prediction)
    sizes = inputs.spacing(spacing_mm, maps[0].ndim)
    a, b, sizes = _in_memory_order(*maps, sizes)
    boxes = label_boxes(a), label_boxes(b)
    require_known(boxes, names)
    diagonal = float(np.linalg.norm(np.multiply(a.shape, sizes)))
    measures = []
    for label, name in names.items():
        box = union(boxes[0].get(label), boxes[1].get(label))
        pair = (a[box] == label, b[box] == label) if box else None
        blank = Measure(label, name, 0, 0, 0, diagonal)
        measures.append(_measure(blank, pair, sizes, in_voxels, limit))
    return measures


def label_boxes(volume: LabelMap) -> dict[int, Box]:
    """The box around each label above 0, in one pass over the box around them all."""
    outer = _foreground(volume)
    if outer is None:
        return {}
    inner = find_objects(volume[outer])
    return {label: _shifted(box, outer) for label, box in enumerate(inner, start=1) if box is not None}


def union(a: Box | None, b: Box | None) -> Box | None:
    """The smallest box around both."""
    if a is None or b is None:
        return a or b
    return tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))


def require_known(boxes: tuple[dict[int, Box], dict[int, Box]], names: Mapping[int, str]) -> None:
    """Raise InputError for label values that `names` does not have, in either map."""
    for role, found in zip(("reference", "prediction"), boxes, strict=True):
        strays = sorted(found.keys() - names.keys())
        if strays:
            raise InputError(
                f"{role} holds label {inputs.listed(strays)}, which is none of {inputs.listed(names, 20)}; "
                "name it in the labels or map it to 0"
            )


def _measure(
    blank: Measure,
    pair: tuple[Mask, Mask] | None,
    spacing: tuple[float, ...],
    in_voxels: bool,
    tolerance_mm: float,
) -> Measure:
    if pair is None:
        return blank
    a, b = pair
    counted = replace(
        blank,
        reference_voxels=int(np.count_nonzero(a)),
        prediction_voxels=int(np.count_nonzero(b)),
        shared_voxels=int(np.count_nonzero(a & b)),
    )
    if counted.presence is not Presence.BOTH:
        return counted
    distances = surface_distances(a, b, spacing)
    return replace(
        counted,
        hd95_pooled_mm=distances.hd95("pooled"),
        hd95_max_mm=distances.hd95("max"),
        hd95_pooled_voxels=_hd95_voxels(pair, spacing, distances) if in_voxels else nan,
        assd_mm=distances.assd(),
        nsd=distances.within(tolerance_mm),
    )


def _hd95_voxels(pair: tuple[Mask, Mask], spacing: tuple[float, ...], distances: SurfaceDistances) -> float:
    if len(set(spacing)) == 1:
        return distances.hd95("pooled") / spacing[0]
    return surface_distances(*pair, (1.0,) * len(spacing)).hd95("pooled")


def _in_memory_order(
    a: LabelMap, b: LabelMap, spacing: tuple[float, ...]
) -> tuple[LabelMap, LabelMap, tuple[float, ...]]:
    # No measure depends on the order of the axes; passes over Fortran-ordered files are faster this way round.
    order = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    return a.transpose(order), b.transpose(order), tuple(spacing[axis] for axis in order)


def _foreground(volume: NDArray[Any]) -> Box | None:
    box: list[slice] = []
    for axis in range(volume.ndim):
        crop = volume[tuple(box)]
        others = tuple(other for other in range(volume.ndim) if other != axis)
        span = np.flatnonzero(crop.max(axis=others))
        if not len(span):
            return None
        box.append(slice(int(span[0]), int(span[-1]) + 1))
    return tuple(box)


def _shifted(box: Box, outer: Box) -> Box:
    return tuple(slice(s.start + o.start, s.stop + o.start) for s, o in zip(box, outer, strict=True))
