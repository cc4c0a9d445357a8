"""The passes in NumPy and SciPy: what the compiled ones are tested against, and used where those are absent."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from dsnet_med.evaluate.inputs import LabelMap
from dsnet_med.evaluate.passes import Distances, Places, Spacing, Survey, plane_border

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
    found, values = [np.empty((0, 3), np.int32)], [volume[0, 0, :0]]
    for index, here in enumerate(volume):
        if not here.any():
            continue
        edge = plane_border(here)
        if not planar:
            for other in (index - 1, index + 1):
                edge |= (volume[other] != here) if 0 <= other < len(volume) else True
        flat = np.flatnonzero(edge & (here > 0))
        j, k = np.divmod(flat.astype(np.int32), here.shape[1])
        found.append(np.column_stack([np.full_like(j, index), j, k]))
        values.append(here.reshape(-1)[flat])
    labels = np.concatenate(values)
    order = np.argsort(labels, kind="stable")
    places, ends = np.concatenate(found)[order], np.searchsorted(labels[order], np.arange(len(rooms) + 1))
    return [
        places[start:end] if room else places[:0]
        for start, end, room in zip(ends[:-1], ends[1:], rooms, strict=True)
    ]


def nearest(points: Places, targets: Places, spacing: Spacing) -> Distances:
    """See passes.Passes."""
    low = np.minimum(points.min(axis=0), targets.min(axis=0))
    box = np.maximum(points.max(axis=0), targets.max(axis=0)) - low + 1
    distances = np.zeros(len(points))
    apart = ~np.isin(*(np.ravel_multi_index((p - low).T, box) for p in (points, targets)), assume_unique=True)
    if not apart.any():
        return distances
    queries = points[apart]
    if len(queries) + len(targets) > _DENSE * np.prod(box, dtype=np.float64):
        outside = np.ones(box, bool)
        outside[tuple((targets - low).T)] = False
        distances[apart] = distance_transform_edt(outside, sampling=spacing)[tuple((queries - low).T)]
        return distances
    # The default balanced tree is slow to build on a grid, whose coordinates are full of ties.
    tree = cKDTree(targets * np.asarray(spacing), leafsize=24, compact_nodes=False, balanced_tree=False)
    distances[apart] = tree.query(queries * np.asarray(spacing))[0]
    return distances
