"""The passes in NumPy and SciPy: what the compiled ones are tested against, and used where those are absent."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from dsnet_med.evaluate.inputs import LabelMap
from dsnet_med.evaluate.passes import Distances, Places, Shape, Spacing, Survey, plane_border

# Above this share of a box a tree of points is slower than a distance transform of the whole box.
_DENSE = 0.25


def survey(reference: LabelMap, prediction: LabelMap) -> Survey:
    """See passes.Passes."""
    labels = 1 + max(int(reference.max()), int(prediction.max()))
    voxels = np.zeros((labels, 3), np.int64)
    i, j, k = (np.zeros(length, np.int64) for length in reference.shape)
    for index, (a, b) in enumerate(zip(reference, prediction, strict=True)):
        if not (a.any() or b.any()):
            continue
        differ = a != b
        i[index] = np.count_nonzero(differ)
        j += np.count_nonzero(differ, axis=1)
        k += np.count_nonzero(differ, axis=0)
        for column, values in enumerate((a[a > 0], b[b > 0], a[~differ & (a > 0)])):
            voxels[:, column] += np.bincount(values, minlength=labels)
    extents = np.zeros((*reference.shape[:2], 2), np.int32)
    extents[..., 1] = reference.shape[2]
    return Survey(voxels, (i, j, k), extents)


def borders(
    volume: LabelMap, rooms: NDArray[np.int64], extents: NDArray[np.int32], planar: bool
) -> list[Places]:
    """See passes.Passes; the extents save nothing here."""
    del extents
    plane = volume[0].size
    found = [np.empty(0, np.int64)]
    for index, here in enumerate(volume):
        if not here.any():
            continue
        edge = plane_border(here)
        if not planar:
            for other in (index - 1, index + 1):
                edge |= (volume[other] != here) if 0 <= other < len(volume) else True
        found.append(np.flatnonzero(edge & (here > 0)) + index * plane)
    places = np.concatenate(found)
    values = volume.reshape(-1)[places]
    order = np.argsort(values, kind="stable")
    ends = np.searchsorted(values[order], np.arange(len(rooms) + 1))
    return [
        places[order[start:end]] if room else places[:0]
        for start, end, room in zip(ends[:-1], ends[1:], rooms, strict=True)
    ]


def nearest(points: Places, targets: Places, shape: Shape, spacing: Spacing) -> Distances:
    """See passes.Passes."""
    distances = np.zeros(len(points))
    apart = ~np.isin(points, targets, assume_unique=True)
    if not apart.any():
        return distances
    queries, goals = (np.column_stack(np.unravel_index(places, shape)) for places in (points[apart], targets))
    low = np.minimum(queries.min(axis=0), goals.min(axis=0))
    box = np.maximum(queries.max(axis=0), goals.max(axis=0)) - low + 1
    if len(queries) + len(goals) > _DENSE * np.prod(box):
        outside = np.ones(box, bool)
        outside[tuple((goals - low).T)] = False
        distances[apart] = distance_transform_edt(outside, sampling=spacing)[tuple((queries - low).T)]
        return distances
    # The default balanced tree is slow to build on a grid, whose coordinates are full of ties.
    tree = cKDTree(goals * np.asarray(spacing), leafsize=24, compact_nodes=False, balanced_tree=False)
    distances[apart] = tree.query(queries * np.asarray(spacing))[0]
    return distances
