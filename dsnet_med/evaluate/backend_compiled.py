"""The passes as compiled code: memory for their results, and the order in which columns are searched."""

from functools import lru_cache
from math import ceil, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from dsnet_med.evaluate import kernel
from dsnet_med.evaluate.arrays import Distances, LabelMap, Spacing, Survey, VoxelIndices

# Columns looked into before the tree is asked: more or fewer, from 64 to 1024, cost the same on organs.
_COLUMNS = 256


def survey(reference: LabelMap, prediction: LabelMap) -> Survey:
    """See backend.Backend."""
    narrow = reference.dtype == np.uint8  # looking for the largest label would be one more pass
    labels = 256 if narrow else 1 + max(int(reference.max()), int(prediction.max()))
    voxels = np.zeros((labels, 3), np.int64)
    i, j, k = (np.zeros(length, np.int64) for length in reference.shape)
    extents = np.zeros((*reference.shape[:2], 2), np.int32)
    kernel.survey(reference, prediction, voxels, i, j, k, extents)
    return Survey(voxels, (i, j, k), extents)


def borders(
    volume: LabelMap, rooms: NDArray[np.int64], extents: NDArray[np.int32], planar: bool
) -> list[VoxelIndices]:
    """See backend.Backend."""
    starts = np.concatenate([[0], np.cumsum(rooms)])
    ends = starts[:-1].copy()
    # Room for every voxel of the labels; the system gives memory only for what is written.
    places = np.empty((starts[-1], 3), np.int32)
    kernel.borders(volume, extents, planar, starts, ends, places)
    return [places[start:end] for start, end in zip(starts[:-1], ends, strict=True)]


def nearest(points: VoxelIndices, targets: VoxelIndices, spacing: Spacing) -> Distances:
    """See backend.Backend."""
    distances = np.empty(len(points))
    kernel.nearest(points, targets, spacing, *_steps(spacing[0], spacing[1]), distances)
    return distances


@lru_cache(maxsize=32)
def _steps(i_size: float, j_size: float) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """About `_COLUMNS` offsets (N, 2) along I and J, shortest first, and their squared lengths (N,)."""
    reach = sqrt(_COLUMNS * i_size * j_size / pi)
    far_i, far_j = (min(ceil(reach / size), _COLUMNS) for size in (i_size, j_size))
    i, j = (grid.ravel() for grid in np.mgrid[-far_i : far_i + 1, -far_j : far_j + 1])
    squared = (i * i_size) ** 2 + (j * j_size) ** 2
    order = np.argsort(squared, kind="stable")
    # Beyond the reach the offsets of this rectangle are no longer all that there are of their length.
    order = order[squared[order] <= min(reach, (far_i + 1) * i_size, (far_j + 1) * j_size) ** 2]
    return np.column_stack([i, j])[order].astype(np.int32), squared[order]
