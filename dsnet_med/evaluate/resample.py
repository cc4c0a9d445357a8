"""Bringing a prediction onto its reference's grid: nearest neighbour, in world coordinates."""

from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.volumes import Volume

_ROUNDING = 1e-6  # of a voxel
_LOST_AT_MOST = 1e-3  # of the labelled voxels; borders of grids that were resampled lose some


def onto_grid(volume: Volume, like: Volume, *, drop_outside: bool = False) -> tuple[Volume, str]:
    """`volume` with the value at each voxel of `like` that lies nearest to it, and a line that says so.

    Voxels outside `volume` become background. Labelled voxels of `volume` outside `like` are lost: InputError
    where they are more than a thousandth and no `drop_outside` says that they may. InputError also when no
    voxel of `like` lies inside.
    """
    matrix = np.asarray(np.linalg.solve(volume.affine, like.affine), np.float64)
    voxels, inside = _nearest(volume.voxels, matrix, like.shape)
    if not inside:
        raise InputError(
            f"{volume.path} and {like.path} lie in different places, no voxel of one inside the other; "
            "correct the header of one"
        )
    labelled, outside = _labelled_outside(volume, like)
    lost = (
        f"; {outside:,} of its {labelled:,} labelled voxels lie outside that grid and count for nothing"
        if outside
        else ""
    )
    words = f"resampled from {_grid(volume)} to {_grid(like)}, {_apart(volume, like)}{lost}"
    if outside > _LOST_AT_MOST * labelled and not drop_outside:
        raise InputError(
            f"{volume.path}: {words}: a score would leave them out; give a reference on the whole grid, or "
            "--drop-outside to score what lies inside"
        )
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


def _labelled_outside(volume: Volume, like: Volume) -> tuple[int, int]:
    """How many voxels of `volume` are labelled, and how many of these have their centre outside `like`."""
    matrix = np.linalg.solve(like.affine, volume.affine)
    limits = np.reshape(like.shape, (3, 1)) - 0.5
    labelled = outside = 0
    for index in range(volume.shape[0]):
        rows = np.array(np.nonzero(volume.voxels[index]))
        places = matrix[:3, 1:3] @ rows + (matrix[:3, 0] * index + matrix[:3, 3])[:, None]
        inside = ((places >= -0.5 - _ROUNDING) & (places <= limits + _ROUNDING)).all(axis=0)
        labelled += rows.shape[1]
        outside += int(np.count_nonzero(~inside))
    return labelled, outside


def _grid(volume: Volume) -> str:
    sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
    orientation = "".join(nib.aff2axcodes(volume.affine))
    return f"{' x '.join(map(str, volume.shape))} voxels of {sizes} mm in {orientation}"


def _apart(volume: Volume, like: Volume) -> str:
    """How far apart two grids lie: their first voxels and their middles, in mm."""
    first, middle = (
        float(np.linalg.norm(_place(volume, at) - _place(like, at))) for at in (np.zeros(3), np.full(3, 0.5))
    )
    return f"first voxels {first:.3g} mm and middles {middle:.3g} mm apart"


def _place(grid: Volume, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where (RAS+ mm) the point lies that is this share of the way through the grid's voxels."""
    return np.asarray(grid.affine @ [*(share * (np.array(grid.shape) - 1)), 1])[:3]
