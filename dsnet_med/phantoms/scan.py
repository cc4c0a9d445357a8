"""What a scanner and a living body do to a phantom: sampling grid, deformation, noise, bias field, file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from dsnet_med.files import written_whole
from dsnet_med.phantoms.shapes import Field, Tissue, paint

Generator = np.random.Generator
Affine = NDArray[np.float64]
_SLAB_VOXELS = 2_000_000
_GRAIN_VOXELS = 3


@dataclass(frozen=True)
class Waves:
    """A smooth random field of 3-D space: a sum of plane waves, separable on every affine grid.

    `vectors` (M, 3) in radians per millimetre; `weights` (M), complex.
    """

    vectors: NDArray[np.float64]
    weights: NDArray[np.complex128]

    @classmethod
    def draw(
        cls, rng: Generator, rms: float, shortest_mm: float, longest_mm: float, count: int = 12
    ) -> "Waves":
        """A field of root mean square `rms` with wavelengths between `shortest_mm` and `longest_mm`."""
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = rng.uniform(shortest_mm, longest_mm, (count, 1))
        phase = rng.uniform(0, 2 * np.pi, count)
        return cls(2 * np.pi / length * direction, rms * np.sqrt(2 / count) * np.exp(1j * phase))

    def on(self, affine: Affine, first: Sequence[int], shape: Sequence[int]) -> Field:
        """The field on `shape` (D, H, W) voxels of the grid `affine` whose first voxel is `first` (k, j, i)."""
        step = self.vectors @ affine[:3, :3]
        start = self.weights * np.exp(1j * (self.vectors @ affine[:3, 3]))
        wave_i, wave_j, wave_k = (
            np.exp(1j * np.outer(step[:, axis], np.arange(n) + begin))
            for axis, begin, n in zip(range(3), reversed(first), reversed(shape), strict=True)
        )
        planes = np.einsum("m,mk,mj->kjm", start, wave_k, wave_j)
        left = np.concatenate([planes.real, -planes.imag], axis=2).astype(np.float32)
        right = np.concatenate([wave_i.real, wave_i.imag]).astype(np.float32)
        return left @ right


@dataclass(frozen=True)
class Pose:
    """How one body differs from the standard one: scale and turn about the origin, shift, and a warp in mm."""

    matrix: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    warp: tuple[Waves, Waves, Waves]

    def standard_points(self, affine: Affine, first: Sequence[int], shape: Sequence[int]) -> Field:
        """The standard-body coordinates (3, D, H, W), in mm, of a grid's voxels `first` (k, j, i) onwards."""
        inverse = np.linalg.inv(self.matrix)
        step = inverse @ affine[:3, :3]
        start = inverse @ (affine[:3, 3] - self.shift_mm)
        k, j, i = (np.arange(n) + begin for n, begin in zip(shape, first, strict=True))
        points = np.empty((3, *shape), np.float32)
        for c in range(3):
            plane = (step[c, 2] * k)[:, None, None] + (step[c, 1] * j)[:, None] + start[c]
            np.add(plane.astype(np.float32), (step[c, 0] * i).astype(np.float32), out=points[c])
            points[c] += self.warp[c].on(affine, first, shape)
        return points


def render(
    tissues: Sequence[Tissue], pose: Pose, affine: Affine, shape: tuple[int, int, int], outside: float
) -> tuple[Field, NDArray[np.uint8]]:
    """Paint `tissues` in their order on `shape` (D, H, W) voxels; `affine` takes (i, j, k) to body mm.

    Returns the noiseless image, `outside` where no tissue is, and the label of every voxel's centre.
    """
    image = np.full(shape, outside, np.float32)
    labels = np.zeros(shape, np.uint8)
    spacing = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    for slab in _slabs(shape):
        size = (slab.stop - slab.start + 2, shape[1] + 2, shape[2] + 2)
        points = pose.standard_points(affine, (slab.start - 1, -1, -1), size)
        for tissue in tissues:
            paint(image[slab], labels[slab], points, tissue, spacing)
    return image, labels


def _slabs(shape: tuple[int, int, int]) -> Iterator[slice]:
    thickness = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(start + thickness, shape[0]))


def add_ct_noise(rng: Generator, image: Field, white_hu: float, grain_hu: float) -> None:
    """Add white noise and an in-plane grain (as reconstruction leaves it) to `image` (D, H, W) in place."""
    rows, columns = (_hats(n, _GRAIN_VOXELS) for n in image.shape[1:])
    for k in range(len(image)):
        image[k] += rng.standard_normal(image.shape[1:], np.float32) * np.float32(white_hu)
        knots = rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32)
        image[k] += rows @ (knots * np.float32(grain_hu)) @ columns.T


def _hats(n: int, step: int) -> Field:
    """Linear interpolation from knots `step` voxels apart to n voxels: (n, knots), rows of unit energy."""
    knots = np.arange(0, n + step, step)
    weights = np.maximum(1 - np.abs(np.arange(n)[:, None] - knots) / step, 0)
    even: Field = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return even


def rician(rng: Generator, image: Field, sigma: float) -> Field:
    """The magnitude of `image` plus complex Gaussian noise of `sigma` in each part (an MR magnitude image)."""
    real = image + rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
    magnitude: Field = np.hypot(real, rng.standard_normal(image.shape, np.float32) * np.float32(sigma))
    return magnitude


def slice_signal(rng: Generator, depth: int) -> Field:
    """A gain near 1 for each of `depth` slices (D, 1, 1): breath-holds differ."""
    return rng.normal(1, 0.03, (depth, 1, 1)).astype(np.float32)


def write_volume(path: Path, voxels: NDArray[np.int16] | NDArray[np.uint8], affine: Affine) -> None:
    """Write `voxels` (D, H, W) as .nii.gz with axes (i, j, k), whole or not at all, always the same bytes."""
    image = nib.Nifti1Image(voxels.transpose(), affine, dtype=voxels.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    content = igzip.compress(image.to_bytes(), 1, mtime=0)
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
