"""Volumes at another spacing: images by cubic splines, label maps by the class that holds most of a voxel.

A volume keeps its outer faces; its voxels become larger or smaller. Where the voxels of a grid are elongated
(the largest spacing more than three times the smallest), the slices along that axis are taken as they are: in
their planes everything is interpolated, along the axis the nearest slice is taken (Isensee et al., nnU-Net,
2021). Interpolation is separable, so each axis is one matrix, and an image is resampled by three products: the
values of SciPy's own zoom, which takes several times as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from dsnet_med.errors import InputError
from dsnet_med.geometry import same_grid

T = TypeVar("T", bound=np.generic)
Spacing = Sequence[float]  # millimetres from slice to slice, row to row, column to column
_ELONGATED = 3.0
_ROUNDING = 1e-6  # of a voxel
_NOTHING = 1e-7  # of a weight
_SLAB = 1 << 22  # voxels that are worked on at a time


def new_shape(shape: Sequence[int], spacing: Spacing, wanted: Spacing) -> tuple[int, int, int]:
    """The shape (D, H, W) that a volume of this shape and spacing has at the spacing `wanted`."""
    lengths = [max(1, round(n * s / w)) for n, s, w in zip(shape, spacing, wanted, strict=True)]
    return lengths[0], lengths[1], lengths[2]


def separate_axis(spacing: Spacing, wanted: Spacing) -> int | None:
    """The axis along which nothing is interpolated between these spacings, if there is one.

    It is the coarsest axis of `spacing` where that is elongated, else of `wanted` where that is.
    """
    for each in (spacing, wanted):
        if max(each) > _ELONGATED * min(each):
            return list(each).index(max(each)) if list(each).count(max(each)) == 1 else None
    return None


def resampled(image: NDArray[np.float32], spacing: Spacing, wanted: Spacing) -> NDArray[np.float32]:
    """An image (C, D, H, W) of voxels of `spacing` with voxels of `wanted` instead, float32 (C, D', H', W').

    Cubic B-splines through the voxels' centres, edges continued; each channel keeps within its range. One that
    has that shape already is given back as it is.
    """
    shape = new_shape(image.shape[1:], spacing, wanted)
    if shape == image.shape[1:]:
        return image
    axis = separate_axis(spacing, wanted)
    result = np.empty((len(image), *shape), np.float32)
    matrices = [
        None if a == axis or n == m else _cubic(n, m)
        for a, (n, m) in enumerate(zip(image.shape[1:], shape, strict=True))
    ]
    for channel, into in zip(image, result, strict=True):
        part = channel
        if axis is not None:
            part = part.take(nearest(part.shape[axis], shape[axis]), axis)
        for a in sorted(range(3), key=lambda a: shape[a] / image.shape[a + 1]):  # the smaller, the sooner
            if (matrix := matrices[a]) is not None:
                part = _along(matrix, part, a)
        np.clip(part, channel.min(), channel.max(), out=into)
    return result


def _along(matrix: sparse.csr_array, volume: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The product of a matrix (m, n) with an axis of length n of a volume."""
    if axis == 0:
        product: NDArray[np.float32] = matrix @ volume.reshape(len(volume), -1)
        return product.reshape(-1, *volume.shape[1:])
    if axis == 1:
        return np.stack([matrix @ plane for plane in volume])
    return np.stack([(matrix @ plane.T).T for plane in volume])


def _cubic(n: int, m: int) -> sparse.csr_array:
    """The matrix (m, n) that leads from n values to m on the same length, by SciPy's spline.

    A value depends on some twenty around it alone, so far as float32 can tell.
    """
    spline = ndimage.zoom(np.eye(n), (m / n, 1.0), order=3, mode="nearest", grid_mode=True)
    return sparse.csr_array(np.where(np.abs(spline) > _NOTHING, spline, 0).astype(np.float32))


def nearest(n: int, m: int) -> NDArray[np.intp]:
    """For each of m places on the length of n voxels, the voxel that it lies in."""
    return (2 * np.arange(m) + 1) * n // (2 * m)


@dataclass(frozen=True)
class Linear:
    """For each of m places on the length of n voxels: the voxels before and behind, the share of the latter."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, n: int, m: int) -> "Linear":
        """Linear interpolation between centres, edges continued."""
        twice = (2 * np.arange(m) + 1) * n - m  # the place of each, in 1 / (2 m) voxels
        twice = np.clip(twice, 0, 2 * m * (n - 1))
        low = np.minimum(twice // (2 * m), max(n - 2, 0))
        share = (twice - low * (2 * m)) / (2 * m)
        return cls(low, np.minimum(low + 1, n - 1), share.astype(np.float32))

    @classmethod
    def nearest(cls, n: int, m: int) -> "Linear":
        """The voxel that each lies in, alone."""
        place = nearest(n, m)
        return cls(place, place, np.zeros(m, np.float32))


@dataclass(frozen=True)
class Resampler:
    """The way from a grid (D', H', W') to one of the same extent, `shape` (D, H, W), axis by axis.

    Linear but along the `separate` axis, where there is one: the nearest there.
    """

    shape: tuple[int, int, int]
    lines: tuple[Linear, Linear, Linear]
    separate: int | None

    @classmethod
    def between(
        cls, have: Sequence[int], shape: Sequence[int], spacing: Spacing, wanted: Spacing
    ) -> "Resampler":
        """From a grid of shape `have` and `spacing` to `shape` and `wanted`."""
        axis = separate_axis(spacing, wanted)
        first, second, third = (
            (Linear.nearest if a == axis else Linear.of)(n, m)
            for a, (n, m) in enumerate(zip(have, shape, strict=True))
        )
        return cls((shape[0], shape[1], shape[2]), (first, second, third), axis)


def resampled_labels(
    labels: NDArray[T], spacing: Spacing, wanted: Spacing, shape: Sequence[int] | None = None
) -> NDArray[T]:
    """A label map (D, H, W) at another spacing, of `shape` where that is given: every value is one it had.

    A voxel takes the label that linear interpolation of each label's mask gives most; of two that are equal the
    smaller one. Where voxels are elongated, that holds within the planes.
    """
    wanted_shape = new_shape(labels.shape, spacing, wanted) if shape is None else tuple(shape)
    if wanted_shape == labels.shape:
        return labels
    way = Resampler.between(labels.shape, wanted_shape, spacing, wanted)
    result = np.empty(wanted_shape, labels.dtype)
    thick = max(1, _SLAB // (wanted_shape[1] * wanted_shape[2]))
    for start in range(0, wanted_shape[0], thick):
        part = slice(start, min(start + thick, wanted_shape[0]))
        result[part] = _voted(labels, way, part)
    return result


def _voted(labels: NDArray[T], way: Resampler, part: slice) -> NDArray[T]:
    """The labels of some slices of the new grid: where the voxels around agree theirs, else what most say."""
    along, rows, columns = way.lines
    ends = [(along.low[part], along.high[part]), (rows.low, rows.high), (columns.low, columns.high)]
    shares = (along.share[part], rows.share, columns.share)
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    around = [labels[np.ix_(ends[0][i], ends[1][j], ends[2][k])] for i, j, k in corners]
    result = around[0].copy()
    places = np.nonzero(np.logical_or.reduce([each != result for each in around[1:]]))
    said = np.stack([each[places] for each in around])
    weights = np.ones(said.shape, np.float32)
    for number, corner in enumerate(corners):
        for high, share, place in zip(corner, shares, places, strict=True):
            weights[number] *= share[place] if high else 1 - share[place]
    votes = np.stack([np.where(said == label, weights, 0).sum(axis=0) for label in said])
    best, most = said[0].copy(), votes[0]
    for label, vote in zip(said[1:], votes[1:], strict=True):
        better = (vote > most) | ((vote == most) & (label < best))
        best[better], most = label[better], np.maximum(most, vote)
    result[places] = best
    return result


def onto(
    image: NDArray[Any], affine: NDArray[np.float64], shape: Sequence[int], wanted: NDArray[np.float64]
) -> NDArray[Any]:
    """An image (X, Y, Z) on the grid of `shape` whose affine is `wanted`, by linear interpolation, as float32.

    What lies outside it has its smallest value. One that lies on that grid is given back as it is. Raises
    InputError where no voxel lies inside.
    """
    if same_grid(image.shape, affine, shape, wanted):
        return image
    matrix = np.linalg.solve(affine, wanted)  # voxels of the new grid to those of the old
    limits = np.reshape(image.shape, (3, 1, 1))
    values, darkest = image.astype(np.float32), float(image.min())
    result = np.full(tuple(shape), darkest, np.float32)
    plane = np.tensordot(matrix[:3, 1:3], np.indices(tuple(shape)[1:]), 1)
    found = False
    for index in range(shape[0]):
        places = plane + (matrix[:3, 0] * index + matrix[:3, 3])[:, None, None]
        inside = ((places >= -0.5 - _ROUNDING) & (places <= limits - 0.5 + _ROUNDING)).all(axis=0)
        if inside.any():
            found = True
            result[index][inside] = ndimage.map_coordinates(
                values, places[:, inside], np.float32, order=1, mode="nearest"
            )
    if not found:
        raise InputError(
            "lies elsewhere than the first image, no voxel of one inside the other; correct a header"
        )
    return result
