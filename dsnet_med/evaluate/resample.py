"""Bringing a prediction onto its reference's grid: nearest neighbour, in world coordinates."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.volumes import Volume

_ROUNDING = 1e-6  # of a voxel


def onto_grid(volume: Volume, like: Volume) -> tuple[Volume, str]:
    """`volume` with the value at each voxel of `like` that lies nearest to it, and a line that says so.

    Voxels outside `volume` become background. Raises InputError when no voxel of `like` lies inside.
    """
    matrix = np.asarray(np.linalg.solve(volume.affine, like.affine), np.float64)
    voxels, inside = _nearest(volume.voxels, matrix, like.shape)
    if not inside:
        raise InputError(
            f"{volume.path} and {like.path} lie in different places, no voxel of one inside the other; "
            "correct the header of one"
        )
    words = f"resampled from {_grid(volume)} to {_grid(like)}"
    return replace(volume, shape=like.shape, affine=like.affine, header=like.header, voxels=voxels), words


def _nearest(
    source: NDArray[Any], matrix: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[Any], bool]:
    """The source's voxel that holds each centre of a grid of `shape`, 0 beyond its outer faces.

    `matrix` (4, 4) leads from the grid's indices to the source's. Also returns whether any centre lies inside.
    (SciPy's affine_transform takes what lies in the outer half of the outermost voxels for outside.)
    """
    result = np.zeros(shape, source.dtype)
    limits = np.reshape(source.shape, (3, 1, 1)) - 0.5
    plane = np.tensordot(matrix[:3, 1:3], np.indices(shape[1:]), 1)
    any_inside = False
    for index in range(shape[0]):
        places = plane + (matrix[:3, 0] * index + matrix[:3, 3])[:, None, None]
        inside = ((places >= -0.5 - _ROUNDING) & (places <= limits + _ROUNDING)).all(axis=0)
        # A centre on the face between two voxels belongs to the first, whichever way rounding errors fall.
        nearest = np.ceil(places[:, inside] - 0.5 - _ROUNDING).astype(np.intp)
        nearest = np.clip(nearest, 0, np.reshape(source.shape, (3, 1)) - 1)
        result[index][inside] = source[tuple(nearest)]
        any_inside |= bool(inside.any())
    return result, any_inside


def _grid(volume: Volume) -> str:
    sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
    return f"{' x '.join(map(str, volume.shape))} voxels of {sizes} mm"
