"""The passes in NumPy and SciPy: what the compiled ones are tested against, and used where those are absent.

Distances on sheared grids are taken here alone, whichever form runs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from dsnet_med.evaluate.arrays import Distances, LabelMap, Spacing, Survey, VoxelIndices, plane_border

# Above this share of a box a tree of points is slower than a distance transform of the whole box.
_DENSE = 0.25


def survey(reference: LabelMap, prediction: LabelMap) -> Survey:
    """See backend.Backend."""
    labels = 1 + max(int(reference.max()), int(prediction.max()))
    voxels = np.zeros((labels, 3), np.int64)
    i, j, k = (np.zeros(length, np.int64) for length in reference.shape)
    extents = np.zeros((*reference.shape[:2], 2), np.int32)
    for index, planes in enumerate(zip(reference, prediction, strict=True)):
        window = _window(planes[0] | planes[1])
        if window is None:
            continue
        rows, columns = window
        a, b = (plane[window] for plane in planes)
        differ = a != b
        i[index] = np.count_nonzero(differ)
        j[rows] += differ.sum(axis=1)
        k[columns] += differ.sum(axis=0)
        for column, values in enumerate((a[a > 0], b[b > 0], a[~differ & (a > 0)])):
            voxels[:, column] += np.bincount(values, minlength=labels)
        extents[index, rows] = columns.start, columns.stop
    return Survey(voxels, (i, j, k), extents)


def borders(
    volume: LabelMap, rooms: NDArray[np.int64], extents: NDArray[np.int32], planar: bool
) -> list[VoxelIndices]:
    """See backend.Backend."""
    found, values = [np.empty((0, 3), np.int32)], [volume[0, 0, :0]]
    for index, plane in enumerate(volume):
        inside = np.flatnonzero(extents[index, :, 1])
        if not len(inside):
            continue
        low = extents[index, inside, 0].min()
        # Beyond the window lies background or the end of the volume: its edge is border either way.
        window = slice(inside[0], inside[-1] + 1), slice(low, extents[index, inside, 1].max())
        here = plane[window]
        edge = plane_border(here)
        if not planar:
            for other in (index - 1, index + 1):
                edge |= (volume[other][window] != here) if 0 <= other < len(volume) else True
        edge &= here > 0
        j, k = np.divmod(
            np.flatnonzero(edge), edge.shape[1]
        )  # several times as fast as nonzero in two dimensions
        found.append(np.column_stack([np.full_like(j, index), j + inside[0], k + low]).astype(np.int32))
        values.append(here[j, k])
    labels = np.concatenate(values)
    order = np.argsort(labels, kind="stable")
    places, ends = np.concatenate(found)[order], np.searchsorted(labels[order], np.arange(len(rooms) + 1))
    return [
        places[start:end] if room else places[:0]
        for start, end, room in zip(ends[:-1], ends[1:], rooms, strict=True)
    ]


def nearest(points: VoxelIndices, targets: VoxelIndices, spacing: Spacing) -> Distances:
    """See backend.Backend."""
    low, box = _box(points, targets)
    distances, apart = np.zeros(len(points)), _apart(points, targets, low, box)
    queries = points[apart]
    if not len(queries):
        return distances
    if len(queries) + len(targets) > _DENSE * np.prod(box, dtype=np.float64):
        outside = np.ones(box, bool)
        outside[tuple((targets - low).T)] = False
        distances[apart] = distance_transform_edt(outside, sampling=spacing)[tuple((queries - low).T)]
        return distances
    distances[apart] = _from_tree(queries * np.asarray(spacing), targets * np.asarray(spacing))
    return distances


def nearest_by_steps(points: VoxelIndices, targets: VoxelIndices, steps: NDArray[np.float64]) -> Distances:
    """As `nearest`, where column n of `steps` (3, 3) is the way from a voxel to the next along axis n."""
    low, box = _box(points, targets)
    distances, apart = np.zeros(len(points)), _apart(points, targets, low, box)
    queries = points[apart]
    if len(queries):
        distances[apart] = _from_tree((queries - low) @ steps.T, (targets - low) @ steps.T)
    return distances


def _box(points: VoxelIndices, targets: VoxelIndices) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The lowest corner of the box around all places, and its size."""
    # Column by column: numpy is slow along the short axis of (N, 3).
    columns = [(points[:, axis], targets[:, axis]) for axis in range(3)]
    low = np.array([min(a.min(), b.min()) for a, b in columns])
    return low, np.array([max(a.max(), b.max()) for a, b in columns]) - low + 1


def _apart(
    points: VoxelIndices, targets: VoxelIndices, low: NDArray[np.int32], box: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Which of `points` are none of `targets`."""
    keys = [
        ((places[:, 0].astype(np.int64) - low[0]) * box[1] + places[:, 1] - low[1]) * box[2] + places[:, 2]
        for places in (points, targets)
    ]
    there = np.minimum(np.searchsorted(keys[1], keys[0]), len(targets) - 1)  # places are in order, so keys are
    return np.asarray(keys[1][there] != keys[0])


def _from_tree(points: NDArray[np.float64], targets: NDArray[np.float64]) -> Distances:
    # The default balanced tree is slow to build on a grid, whose coordinates are full of ties.
    tree = cKDTree(targets, leafsize=24, compact_nodes=False, balanced_tree=False)
    return np.asarray(tree.query(points)[0])


def _window(plane: LabelMap) -> tuple[slice, slice] | None:
    """The box around the labels of a plane."""
    rows = np.flatnonzero(plane.max(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(plane[rows[0] : rows[-1] + 1].max(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
