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
    if not _nearest(np.ones(volume.shape, np.uint8), volume, like).any():
        raise InputError(
            f"{volume.path} and {like.path} lie in different places, no voxel of one inside the other; "
            "correct the header of one"
        )
    labelled = np.count_nonzero(volume.voxels)
    outside = np.count_nonzero(volume.voxels[_nearest(np.ones(like.shape, np.uint8), like, volume) == 0])
    words = f"resampled from {_grid(volume)} to {_grid(like)}, {_apart(volume, like)}"
    if outside:
        words += (
            f"; {outside:,} of its {labelled:,} labelled voxels lie outside that grid and count for nothing"
        )
    if outside > _LOST_AT_MOST * labelled and not drop_outside:
        raise InputError(
            f"{volume.path}: {words}: a score would leave them out; give a reference on the whole grid, or "
            "--drop-outside to score what lies inside"
        )
    voxels = _nearest(volume.voxels, volume, like)
    return replace(volume, shape=like.shape, affine=like.affine, header=like.header, voxels=voxels), words


def _nearest(source: NDArray[Any], grid: Volume, like: Volume) -> NDArray[Any]:
    """The voxel of `source`, which lies on `grid`, that holds each centre of `like`; 0 beyond its outer faces.

    A centre on the face between two voxels belongs to the first, whichever way rounding errors fall. (SciPy's
    affine_transform gives such centres to either, and takes some on the outer faces for outside.)
    """
    matrix = np.asarray(np.linalg.solve(grid.affine, like.affine), np.float64)
    result = np.zeros(like.shape, source.dtype)
    limits = np.reshape(source.shape, (3, 1, 1)) - 0.5
    plane = np.tensordot(matrix[:3, 1:3], np.indices(like.shape[1:]), 1)
    for index in range(like.shape[0]):
        places = plane + (matrix[:3, 0] * index + matrix[:3, 3])[:, None, None]
        inside = ((places >= -0.5 - _ROUNDING) & (places <= limits + _ROUNDING)).all(axis=0)
        nearest = np.ceil(places[:, inside] - 0.5 - _ROUNDING).astype(np.intp)
        nearest = np.clip(nearest, 0, np.reshape(source.shape, (3, 1)) - 1)
        result[index][inside] = source[tuple(nearest)]
    return result


def _grid(volume: Volume) -> str:
    sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
    orientation = "".join(nib.aff2axcodes(volume.affine))
    return f"{' x '.join(map(str, volume.shape))} voxels of {sizes} mm in {orientation}"


def _apart(volume: Volume, like: Volume) -> str:
    """How far apart two grids lie: their first voxels and their middles, in mm."""
    first, middle = (
        np.linalg.norm(
            nib.affines.apply_affine(volume.affine, share * (np.array(volume.shape) - 1))
            - nib.affines.apply_affine(like.affine, share * (np.array(like.shape) - 1))
        )
        for share in (0.0, 0.5)
    )
    return f"first voxels {first:.3g} mm and middles {middle:.3g} mm apart"
