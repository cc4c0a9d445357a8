"""What a scanner and a living body do to solids: sampling grid, deformation, partial volume, noise, file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.files import written_whole
from dsnet_med.phantoms.solids import Field, Solid
from dsnet_med.prepare.recipe import load_recipe

Generator = np.random.Generator
Affine = NDArray[np.float64]
Size = tuple[int, int, int]
_GRAIN_VOXELS = 3
_INNER = (slice(1, -1),) * 3


@dataclass(frozen=True)
class Tissue:
    """What fills a solid: an intensity, and the label that its voxels get (0 for none)."""

    solid: Solid
    intensity: float
    label: int = 0


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
    warp: Sequence[Waves]

    def standard_points(self, affine: Affine, first: Sequence[int], shape: Sequence[int]) -> Field:
        """The standard-body coordinates (3, D, H, W), in mm, of a grid's voxels `first` (k, j, i) onwards."""
        inverse = np.linalg.inv(self.matrix)
        step = inverse @ affine[:3, :3]
        start = inverse @ (affine[:3, 3] - self.shift_mm)
        k, j, i = (np.arange(n) + begin for n, begin in zip(shape, first, strict=True))
        points = np.empty((3, *shape), np.float32)
        for c, warp in enumerate(self.warp):
            plane = (step[c, 2] * k)[:, None, None] + (step[c, 1] * j)[:, None] + start[c]
            np.add(plane.astype(np.float32), (step[c, 0] * i).astype(np.float32), out=points[c])
            points[c] += warp.on(affine, first, shape)
        return points


def chosen_cases(recipe_id: str, count: int, size: Size, smallest: Size) -> list[str]:
    """The first `count` (at least 2) cases when those of every published split are spread evenly, sorted.

    Two are one for training and one for testing. Raises InputError when the recipe lists fewer, or for volumes
    of a `size` (H, W, D) below the `smallest`.
    """
    if any(n < least for n, least in zip(size, smallest, strict=True)):
        got, wanted = ("x".join(map(str, each)) for each in (size, smallest))
        raise InputError(f"a phantom of {got} voxels (HxWxD); wanted at least {wanted}")
    listed = load_recipe(recipe_id).splits
    if not isinstance(listed, dict):
        raise InputError(f"recipe '{recipe_id}' lists no subjects; a phantom needs their names")
    ranked = []
    for order, split in enumerate(("train", "test", "val")):
        cases = sorted(case for case, own in listed.items() if own == split)
        ranked += [(place / len(cases), order, case) for place, case in enumerate(cases)]
    if not 2 <= count <= len(ranked):
        raise InputError(f"a {recipe_id} phantom of {count} cases; wanted 2 to {len(ranked)}")
    return sorted(case for _, _, case in sorted(ranked)[:count])


def centred(axes: NDArray[np.float64], size: Size) -> Affine:
    """The grid (i, j, k) -> mm with these `axes` (3, 3) about the origin; `size` is (H, W, D)."""
    height, width, depth = size
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ ((np.array((width, height, depth)) - 1) / 2)
    return affine


def render(
    tissues: Sequence[Tissue],
    pose: Pose,
    affine: Affine,
    size: Size,
    outside: float,
    *,
    slab_voxels: int = 2_000_000,
) -> tuple[Field, NDArray[np.uint8]]:
    """Paint `tissues` in their order on `size` (H, W, D) voxels; `affine` takes (i, j, k) to body mm.

    Returns the noiseless image (D, H, W), `outside` where no tissue is, and the label of every voxel's centre.
    A voxel that a surface cuts gets a mixture. Some slices at a time, `slab_voxels` together, bound the memory.
    """
    height, width, depth = size
    image = np.full((depth, height, width), outside, np.float32)
    labels = np.zeros(image.shape, np.uint8)
    thickness = max(1, slab_voxels // (height * width))
    reach = float(np.linalg.norm(affine[:3, :3], axis=0).sum())
    for start in range(0, depth, thickness):
        painted, labelled = image[start : start + thickness], labels[start : start + thickness]
        points = pose.standard_points(affine, (start - 1, -1, -1), [n + 2 for n in painted.shape])
        inner = points[(slice(None), *_INNER)]
        spans = [(inner.min(axis=across), inner.max(axis=across)) for across in ((2, 3), (1, 3), (1, 2))]
        for tissue in tissues:
            if (box := _near(tissue.solid, spans, reach)) is None:
                continue
            margin = tuple(slice(side.start, side.stop + 2) for side in box)
            distance = tissue.solid.distance(points[(slice(None), *margin)])
            painted[box] += _share(distance) * (np.float32(tissue.intensity) - painted[box])
            labelled[box][distance[_INNER] < 0] = tissue.label
    return image, labels


def _near(solid: Solid, spans: Sequence[tuple[Field, Field]], reach_mm: float) -> tuple[slice, ...] | None:
    """The slices, rows and columns whose `spans` of coordinates (3, n), least and largest, meet its box."""
    low, high = solid.low[:, None] - reach_mm, solid.high[:, None] + reach_mm
    hits = [np.flatnonzero(((most >= low) & (least <= high)).all(axis=0)) for least, most in spans]
    return tuple(slice(hit[0], hit[-1] + 1) for hit in hits) if all(hit.size for hit in hits) else None


def _share(distance: Field) -> Field:
    """Of every voxel but the margin, the coverage of a box as wide as the voxel under a flat surface."""
    # Across a voxel, edge to edge, the distance changes by the sum of its changes along the axes.
    width = np.full(distance[_INNER].shape, 2e-6, np.float32)
    width += np.abs(distance[2:, 1:-1, 1:-1] - distance[:-2, 1:-1, 1:-1])
    width += np.abs(distance[1:-1, 2:, 1:-1] - distance[1:-1, :-2, 1:-1])
    width += np.abs(distance[1:-1, 1:-1, 2:] - distance[1:-1, 1:-1, :-2])
    share: Field = np.clip(np.float32(0.5) - distance[_INNER] / (width * np.float32(0.5)), 0, 1)
    return share


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


def write_volume(path: Path, voxels: NDArray[np.int16] | NDArray[np.uint8], affine: Affine) -> None:
    """Write `voxels` (D, H, W) as .nii.gz with axes (i, j, k), whole or not at all, always the same bytes."""
    image = nib.Nifti1Image(voxels.transpose(), affine, dtype=voxels.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    content = igzip.compress(image.to_bytes(), 1, mtime=0)
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
