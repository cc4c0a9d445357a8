"""A label map on a sheared grid, as under a tilted gantry, brought to an orthogonal one, for ITK programs."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-6  # of a voxel


def regridded(
    ids: NDArray[np.unsignedinteger[Any]], affine: NDArray[np.float64]
) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.float64]]:
    """Class ids (X, Y, Z) on the smallest orthogonal grid that covers theirs, and its affine (4, 4).

    The first axis keeps its direction and voxel size, the first two their plane, and the third becomes its
    normal: the slices of a tilted stack stay where they are, on pixels that lie elsewhere in their planes. A
    voxel takes the class of the nearest one of the sheared grid along its axes, 0 outside.
    """
    directions, shape = np.linalg.qr(affine[:3, :3])
    signs = np.sign(np.diag(shape))
    sizes = np.abs(np.diag(shape))
    shear = (shape * signs[:, None]) / sizes[
        :, None
    ]  # unit upper triangular: old to new voxels, but for an offset
    corners = np.array(list(product(*((0, n - 1) for n in ids.shape)))) @ shear.T
    low = np.floor(corners.min(axis=0) + _ROUNDING).astype(int)
    high = np.ceil(corners.max(axis=0) - _ROUNDING).astype(int)
    found = np.zeros(tuple(high - low + 1), ids.dtype, order="F")
    x, y = np.arange(low[0], high[0] + 1)[:, None], np.arange(low[1], high[1] + 1)[None]
    for k in range(ids.shape[2]):
        j = y - shear[1, 2] * k
        i = np.rint(x - shear[0, 1] * j - shear[0, 2] * k + _ROUNDING).astype(int)
        j = np.broadcast_to(np.rint(j + _ROUNDING).astype(int), i.shape)
        inside = (i >= 0) & (i < ids.shape[0]) & (j >= 0) & (j < ids.shape[1])
        found[:, :, k][inside] = ids[i[inside], j[inside], k]
    placed = np.eye(4)
    placed[:3, :3] = directions * signs * sizes
    placed[:3, 3] = affine[:3, 3] + placed[:3, :3] @ low
    return found, placed
