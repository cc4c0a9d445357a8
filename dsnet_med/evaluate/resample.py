"""Bringing a prediction onto its reference's grid: nearest neighbour, in world coordinates."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.volumes import Volume


def onto_grid(volume: Volume, like: Volume) -> tuple[Volume, str]:
    """`volume` with the value at each voxel of `like` that lies nearest to it, and a line that says so.

    Voxels outside `volume` become background. Raises InputError when no voxel of `like` lies inside.
    """
    from scipy.ndimage import affine_transform  # noqa: PLC0415 -- SciPy takes half a second to load

    matrix = np.asarray(np.linalg.solve(volume.affine, like.affine), np.float64)
    if not _overlap(matrix, volume.shape, like.shape):
        raise InputError(
            f"{volume.path} and {like.path} lie in different places, no voxel of one inside the other; "
            "correct the header of one"
        )
    voxels = affine_transform(
        volume.voxels, matrix[:3, :3], matrix[:3, 3], output_shape=like.shape, order=0, mode="constant"
    )
    words = f"resampled from {_grid(volume)} to {_grid(like)}"
    return replace(volume, shape=like.shape, affine=like.affine, header=like.header, voxels=voxels), words


def _overlap(matrix: NDArray[np.float64], shape: tuple[int, ...], like: tuple[int, ...]) -> bool:
    """Whether a voxel of a grid `like` lies within one of `shape`, looked for on at most 33 planes per axis."""
    indices = np.meshgrid(*[np.unique(np.linspace(0, n - 1, 33).round()) for n in like], indexing="ij")
    places = np.tensordot(matrix[:3, :3], np.array(indices), 1) + matrix[:3, 3, None, None, None]
    limits = np.reshape(shape, (3, 1, 1, 1)) - 0.5
    return bool(((places > -0.5) & (places < limits)).all(axis=0).any())


def _grid(volume: Volume) -> str:
    sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
    return f"{' x '.join(map(str, volume.shape))} voxels of {sizes} mm"
