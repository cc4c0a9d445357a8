"""The passes in NumPy and SciPy: what the compiled ones are tested against, and used where those are absent.

Plain, and several times slower. Distances on sheared grids are taken here alone, whichever form runs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from dsnet_med.evaluate.arrays import Distances, LabelMap, Places, Spacing, Survey


def survey(reference: LabelMap, prediction: LabelMap) -> Survey:
    """See backend.Backend."""
    labels = 1 + max(int(reference.max()), int(prediction.max()))
    box = _box(reference | prediction)
    a, b = reference[box], prediction[box]
    voxels = np.stack([np.bincount(values.ravel(), minlength=labels) for values in (a, b, a[a == b])], axis=1)
    differing = [np.zeros(length, np.int64) for length in reference.shape]
    for axis, counts in enumerate(differing):
        counts[box[axis]] = (a != b).sum(axis=tuple({0, 1, 2} - {axis}))
    extents = np.zeros((*reference.shape[:2], 2), np.int32)
    extents[box[:2]] = box[2].start, box[2].stop
    return Survey(voxels, (differing[0], differing[1], differing[2]), extents)


def borders(
    volume: LabelMap, rooms: NDArray[np.int64], _extents: NDArray[np.int32], planar: bool
) -> list[Places]:
    """See backend.Backend."""
    box = _box(volume)
    labels = np.pad(
        volume[box], 1
    )  # beyond the box lies background or the end of the volume: border either way
    core = (slice(1, -1),) * 3
    edge = np.zeros(labels[core].shape, bool)
    for axis in (1, 2) if planar else (0, 1, 2):
        for by in (1, -1):
            edge |= np.roll(labels, by, axis)[core] != labels[core]
    edge &= labels[core] > 0
    values = labels[core][edge]
    order = np.argsort(values, kind="stable")
    places = (np.argwhere(edge) + [side.start for side in box]).astype(np.int32)[order]
    ends = np.searchsorted(values[order], np.arange(len(rooms) + 1))
    return [
        places[start:end] if room else places[:0]
        for start, end, room in zip(ends, ends[1:], rooms, strict=False)
    ]


def nearest(points: Places, targets: Places, spacing: Spacing) -> Distances:
    """See backend.Backend."""
    return nearest_by_steps(points, targets, np.diag(spacing))


def nearest_by_steps(points: Places, targets: Places, steps: NDArray[np.float64]) -> Distances:
    """As `nearest`, where column n of `steps` (3, 3) is the way from a voxel to the next along axis n."""
    # The default balanced tree is slow to build on a grid, whose coordinates are full of ties.
    tree = cKDTree(targets @ steps.T, leafsize=24, compact_nodes=False, balanced_tree=False)
    return np.asarray(tree.query(points @ steps.T)[0])


def _box(labels: LabelMap) -> tuple[slice, ...]:
    """The box around all labels; one without a voxel where there is none."""
    found: list[tuple[slice, ...]] = find_objects((labels > 0).view(np.uint8))
    return found[0] if found else (slice(0, 0),) * 3
