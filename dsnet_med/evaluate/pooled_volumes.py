"""All cases as one volume: what the `dpcnet` protocol scores, without ever building that volume.

DPC-Net's evaluator concatenates the slices (D, H, W) of every case along the first axis and measures each label
once, in voxels. Only border voxels matter for distances, and which they are depends on other cases only on the
first and last slice of a case. So a case leaves behind the border voxels between these, and the slices at its
ends; joining cases settles the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate import backend
from dsnet_med.evaluate.arrays import LabelMap, PackedSlice, plane_border
from dsnet_med.evaluate.mask_scores import SurfaceDistances
from dsnet_med.evaluate.measurements import LabelMeasurement

Points = NDArray[np.int32]


@dataclass(frozen=True)
class MapBorders:
    """One label map of a case: of each label the border voxels (N, 3) between its end slices; and the slices
    at its ends, the outermost two of either (the same ones twice where it has but one)."""

    inner: dict[int, Points]
    first: tuple[PackedSlice, PackedSlice]
    last: tuple[PackedSlice, PackedSlice]


@dataclass(frozen=True)
class CaseBorders:
    """What one case contributes: its slices' shape (D, H, W), and the borders of either map."""

    shape: tuple[int, int, int]
    reference: MapBorders
    prediction: MapBorders


def borders_of_case(reference: LabelMap, prediction: LabelMap) -> CaseBorders:
    """The contribution of a case whose label maps are given as slices (D, H, W)."""
    depth, height, width = reference.shape
    return CaseBorders((depth, height, width), _borders_of_map(reference), _borders_of_map(prediction))


def poolable(cases: Sequence[CaseBorders]) -> bool:
    """Whether the slices of all cases have one size."""
    return len({case.shape[1:] for case in cases}) == 1


def measure_pooled(
    measures: Sequence[Sequence[LabelMeasurement]], cases: Sequence[CaseBorders]
) -> list[LabelMeasurement]:
    """One measurement per label of all cases (measures and borders of each, in order) as one volume, in voxels.

    HD95 in mm, ASSD and NSD are NaN: the volume has no spacing. Raises ValueError where it is not `poolable`.
    """
    depths = [case.shape[0] for case in cases]
    reference = pooled_borders([case.reference for case in cases], depths)
    prediction = pooled_borders([case.prediction for case in cases], depths)
    return [_measure_label(own, reference, prediction) for own in zip(*measures, strict=True)]


def _measure_label(
    own: Sequence[LabelMeasurement], reference: dict[int, Points], prediction: dict[int, Points]
) -> LabelMeasurement:
    label, distance, voxels = own[0].label, nan, (1.0, 1.0, 1.0)
    if label in reference and label in prediction:
        a, b, nearest = reference[label], prediction[label], backend.BACKEND.nearest
        distance = SurfaceDistances(nearest(a, b, voxels), nearest(b, a, voxels)).hd95("pooled")
    return LabelMeasurement(
        label,
        own[0].name,
        sum(measure.reference_voxels for measure in own),
        sum(measure.prediction_voxels for measure in own),
        sum(measure.shared_voxels for measure in own),
        nan,
        hd95_pooled_voxels=distance,
    )


def pooled_borders(maps: Sequence[MapBorders], depths: Sequence[int]) -> dict[int, Points]:
    """The border voxels (N, 3) of each label, in order, in the volume of the cases with these depths."""
    found: dict[int, list[Points]] = {}
    start = 0
    for index, (own, depth) in enumerate(zip(maps, depths, strict=True)):
        before = maps[index - 1].last[0].unpacked() if index else None
        after = maps[index + 1].first[0].unpacked() if index + 1 < len(maps) else None
        first, second = (packed.unpacked() for packed in own.first)
        last, last_but_one = (packed.unpacked() for packed in own.last)
        pieces = [_borders_of_plane(first, before, second if depth > 1 else after, start)]
        pieces.append(
            {label: points + np.array([start, 0, 0], np.int32) for label, points in own.inner.items()}
        )
        if depth > 1:
            pieces.append(_borders_of_plane(last, last_but_one, after, start + depth - 1))
        for piece in pieces:
            for label, points in piece.items():
                found.setdefault(label, []).append(points)
        start += depth
    return {label: np.ascontiguousarray(np.concatenate(points), np.int32) for label, points in found.items()}


def _borders_of_map(slices: LabelMap) -> MapBorders:
    volume = np.ascontiguousarray(slices)
    rooms = np.bincount(volume.reshape(-1))
    rooms[0] = 0
    extents = np.zeros((*volume.shape[:2], 2), np.int32)
    extents[..., 1] = volume.shape[2]
    places = backend.BACKEND.borders(volume, rooms, extents, False)
    inner = {
        label: points[(points[:, 0] > 0) & (points[:, 0] < len(volume) - 1)]
        for label, points in enumerate(places)
        if len(points)
    }
    packed = [PackedSlice.of(plane) for plane in (volume[0], volume[:2][-1], volume[-1], volume[-2:][0])]
    return MapBorders(inner, (packed[0], packed[1]), (packed[2], packed[3]))


def _borders_of_plane(
    plane: LabelMap, before: LabelMap | None, after: LabelMap | None, index: int
) -> dict[int, Points]:
    """The border voxels of each label on one slice between two others; beyond the volume there is none."""
    edge = plane_border(plane)
    for other in (before, after):
        edge |= True if other is None else other != plane
    return {
        label: np.insert(np.argwhere(edge & (plane == label)), 0, index, axis=1)
        for label in np.unique(plane[edge]).tolist()
        if label
    }
