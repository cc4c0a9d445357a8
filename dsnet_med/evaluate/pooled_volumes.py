"""All cases as one volume: what the `dpcnet` protocol scores, without ever building that volume.

DPC-Net's evaluator concatenates the slices (D, H, W) of every case along the first axis and measures each label
once, in voxels. Only border voxels matter for distances, and a border voxel depends on other cases only where a
label touches the first or last slice of its case. So a case leaves behind its border voxels, found as if each
label went on beyond both ends, and the label's voxels on the two end slices; joining cases settles the rest.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate import backend
from dsnet_med.evaluate.arrays import LabelMap, Mask, plane_border
from dsnet_med.evaluate.measurements import LabelMeasurement
from dsnet_med.evaluate.surface import SurfaceDistances

Points = NDArray[np.int32]


@dataclass(frozen=True)
class Part:
    """One label of one mask of one case: its border but for the ends (N, 3), and its end slices (M, 2)."""

    border: Points
    first: Points
    last: Points


@dataclass(frozen=True)
class Parts:
    """What one case contributes: its slices' shape (D, H, W), and a part per label for either map."""

    shape: tuple[int, int, int]
    reference: dict[int, Part]
    prediction: dict[int, Part]


def parts_of(reference: LabelMap, prediction: LabelMap, labels: Collection[int]) -> Parts:
    """The contribution of a case whose label maps are given as slices (D, H, W)."""
    depth, height, width = reference.shape
    return Parts((depth, height, width), _parts(reference, labels), _parts(prediction, labels))


def measure_stack(cases: Sequence[tuple[Sequence[LabelMeasurement], Parts]]) -> list[LabelMeasurement]:
    """One measurement per label of all `cases` (measures and parts of each, in order) as one volume, in voxels.

    HD95 in mm, ASSD and NSD are NaN: the stack has no spacing. Cases whose slices differ in size cannot be
    stacked (`stackable`).
    """
    return [
        _measure_label([measures[index] for measures, _ in cases], [parts for _, parts in cases])
        for index in range(len(cases[0][0]))
    ]


def stackable(parts: Sequence[Parts]) -> bool:
    """Whether the slices of all cases have one size."""
    return len({part.shape[1:] for part in parts}) == 1


def _measure_label(measures: Sequence[LabelMeasurement], parts: Sequence[Parts]) -> LabelMeasurement:
    label = measures[0].label
    depths = [part.shape[0] for part in parts]
    reference = border_places([part.reference.get(label) for part in parts], depths)
    prediction = border_places([part.prediction.get(label) for part in parts], depths)
    distance = nan
    if len(reference) and len(prediction):
        voxels = (1.0, 1.0, 1.0)
        distances = SurfaceDistances(
            backend.BACKEND.nearest(reference, prediction, voxels),
            backend.BACKEND.nearest(prediction, reference, voxels),
        )
        distance = distances.hd95("pooled")
    return LabelMeasurement(
        label,
        measures[0].name,
        sum(measure.reference_voxels for measure in measures),
        sum(measure.prediction_voxels for measure in measures),
        sum(measure.shared_voxels for measure in measures),
        nan,
        hd95_pooled_voxels=distance,
    )


def border_places(parts: Sequence[Part | None], depths: Sequence[int]) -> Points:
    """The border voxels (N, 3) of one label in the stack of cases with these depths, each once."""
    empty = Part(np.empty((0, 3), np.int32), np.empty((0, 2), np.int32), np.empty((0, 2), np.int32))
    known = [empty, *(part or empty for part in parts), empty]
    starts = np.concatenate([[0], np.cumsum(depths)])
    points = []
    for index, depth in enumerate(depths, start=1):
        previous, here, following = known[index - 1 : index + 2]
        open_first = _at(0, _without(here.first, previous.last))
        open_last = _at(depth - 1, _without(here.last, following.first))
        own = np.unique(np.concatenate([here.border, open_first, open_last]), axis=0)
        points.append(own + np.array([starts[index - 1], 0, 0]))
    return np.concatenate(points).astype(np.int32)


def _parts(slices: LabelMap, labels: Collection[int]) -> dict[int, Part]:
    volume = np.ascontiguousarray(slices)
    rooms = np.bincount(volume.reshape(-1))
    present = [label for label in labels if label < len(rooms) and rooms[label]]
    extents = np.zeros((*volume.shape[:2], 2), np.int32)
    extents[..., 1] = volume.shape[2]
    places = backend.BACKEND.borders(volume, rooms, extents, False)
    ends = {index: _open_end(volume, index) for index in {0, len(volume) - 1}}
    return {
        label: Part(
            _inner(
                places[label],
                len(volume),
                [(index, edge & (volume[index] == label)) for index, edge in ends.items()],
            ),
            _pixels(volume[0] == label),
            _pixels(volume[-1] == label),
        )
        for label in present
    }


def _open_end(volume: LabelMap, index: int) -> Mask:
    """The border pixels of an end slice, as if every label went on beyond the end."""
    edge = plane_border(volume[index])
    for other in (index - 1, index + 1):
        if 0 <= other < len(volume):
            edge |= volume[other] != volume[index]
    return edge


def _inner(points: Points, depth: int, ends: Sequence[tuple[int, Mask]]) -> Points:
    """Border voxels (N, 3) with those of the end slices replaced."""
    kept = points[(points[:, 0] > 0) & (points[:, 0] < depth - 1)]
    return np.concatenate([kept, *(_at(index, _pixels(edge)) for index, edge in ends)])


def _pixels(mask: Mask) -> Points:
    return np.argwhere(mask).astype(np.int32)


def _at(index: int, places: Points) -> Points:
    return np.column_stack([np.full(len(places), index, np.int32), places])


def _without(places: Points, others: Points) -> Points:
    if not len(places) or not len(others):
        return places
    keys = _keys(places), _keys(others)
    return places[~np.isin(*keys)]


def _keys(places: Points) -> NDArray[Any]:
    return places[:, 0] * np.intp(1 << 31) + places[:, 1]
