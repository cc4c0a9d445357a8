"""A label map on a sheared grid, as under a tilted gantry, brought to an orthogonal one, for ITK programs."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_ROUNDING = 1e-6  # of a voxel


def regridded(
    ids: NDArray[np.unsignedinteger[Any]], affine: NDArray[np.float64]
) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.float64]]:
    """Class ids (X, Y, Z) on the smallest orthogonal grid that covers theirs, and its affine (4, 4).

    The first axis keeps its direction and voxel size, the first two their plane, and the third becomes its
    normal: the slices of a tilted stack stay where they are, on pixels that lie elsewhere in their planes. A
    voxel takes the class of the nearest one of the sheared grid along its axes, 0 outside.
    """
    directions, upper = np.linalg.qr(affine[:3, :3])
    axes = directions * np.diag(upper)  # of the new voxels, in millimetres
    shear = np.linalg.solve(axes, affine[:3, :3])  # old to new voxels, but for an offset
    corners = np.array(list(product(*((0, n - 1) for n in ids.shape)))) @ shear.T
    low, high = np.floor(corners.min(axis=0) + _ROUNDING), np.ceil(corners.max(axis=0) - _ROUNDING)
    back = np.linalg.inv(shear)
    found = ndimage.affine_transform(
        ids,
        back,
        back @ low + _ROUNDING,
        tuple((high - low + 1).astype(int)),
        output=np.zeros((high - low + 1).astype(int), ids.dtype, order="F"),
        order=0,
        mode="grid-constant",
    )
    placed = np.eye(4)
    placed[:3, :3], placed[:3, 3] = axes, affine[:3, 3] + axes @ low
    return found, placed
