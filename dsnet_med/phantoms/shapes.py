"""Solids described by a signed distance, and how one solid is painted into a voxel grid with partial volume.

A distance is in millimetres, negative inside; points are an array (3, ...) of x, y, z in millimetres.
The ellipsoid's distance is the usual first-order estimate, exact on the surface.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Field = NDArray[np.float32]
Distance = Callable[[Field], Field]
Vector = Sequence[float] | NDArray[np.float64]

_BOX_STEP_MM = 8.0


@dataclass(frozen=True)
class Shape:
    """A solid: its signed distance and a box (low, high) in millimetres that encloses it."""

    distance: Distance
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """What fills a shape: an intensity, and the label that its voxels get (0 for none)."""

    shape: Shape
    intensity: float
    label: int = 0


def ellipsoid(center: Vector, radii: Vector, turn_degrees: Vector = (0, 0, 0)) -> Shape:
    """An ellipsoid with semi-axes `radii`, turned about x, then y, then z through its centre.

    A semi-axis of infinity makes an elliptic cylinder.
    """
    turn = Rotation.from_euler("xyz", turn_degrees, degrees=True).inv().as_matrix()
    middle = turn @ np.asarray(center, np.float64)
    bounded = [c for c in range(3) if np.isfinite(radii[c])]
    tiny = np.float32(1e-6)

    def distance(points: Field) -> Field:
        local = np.tensordot(turn.astype(np.float32), points, axes=1) if any(turn_degrees) else points
        radius, slope = np.zeros((2, *points.shape[1:]), np.float32)
        for c in bounded:
            part = local[c] * np.float32(1 / radii[c])
            part -= np.float32(middle[c] / radii[c])
            radius += part * part
            part *= np.float32(1 / radii[c])
            slope += part * part
        np.sqrt(radius, out=radius)
        np.sqrt(slope, out=slope)
        # The offsets give the centre, where the estimate is 0 / 0, the shortest semi-axis.
        estimate: Field = (radius + tiny) * (radius - 1) / (slope + tiny / np.float32(min(radii)))
        return estimate

    reach = np.full(3, max(radii)) if any(turn_degrees) else np.asarray(radii, np.float64)
    return Shape(distance, np.asarray(center) - reach, np.asarray(center) + reach)


def tube(path: Sequence[Vector], radii: Sequence[float]) -> Shape:
    """A tube along the polyline `path` (n, 3) whose radius runs through `radii` (n)."""
    nodes = np.asarray(path, np.float64)

    def distance(points: Field) -> Field:
        pieces = zip(nodes, nodes[1:], radii, radii[1:], strict=False)
        return _smallest([_cone(points, *piece) for piece in pieces])

    widest = max(radii)
    return Shape(distance, nodes.min(axis=0) - widest, nodes.max(axis=0) + widest)


def _cone(
    points: Field, start: NDArray[np.float64], end: NDArray[np.float64], first: float, last: float
) -> Field:
    axis = (end - start).astype(np.float32)
    local = points - _spread(_column(start), points)
    along = np.tensordot(axis / (axis @ axis), local, axes=1)
    np.clip(along, 0, 1, out=along)
    local -= _spread(axis, points) * along
    radius = np.float32(first) + np.float32(last - first) * along
    distance: Field = np.sqrt(np.einsum("c...,c...", local, local)) - radius
    return distance


def above(normal: Vector, offset: float) -> Shape:
    """The half-space where normal . point > offset; `normal` is of unit length."""
    direction = np.asarray(normal, np.float32)
    everywhere = np.full(3, np.inf)
    return Shape(
        lambda points: np.float32(offset) - np.tensordot(direction, points, axes=1), -everywhere, everywhere
    )


def union(*shapes: Shape, blend_mm: float = 0.0) -> Shape:
    """All shapes together; `blend_mm` rounds the seams between them."""

    def distance(points: Field) -> Field:
        return _smallest([shape.distance(points) for shape in shapes], blend_mm)

    return Shape(
        distance,
        np.min([shape.low for shape in shapes], axis=0),
        np.max([shape.high for shape in shapes], axis=0),
    )


def inside(shape: Shape, bound: Shape) -> Shape:
    """The part of `shape` within `bound`."""
    return Shape(
        lambda points: np.maximum(shape.distance(points), bound.distance(points)),
        np.maximum(shape.low, bound.low),
        np.minimum(shape.high, bound.high),
    )


def outside(shape: Shape, hole: Shape) -> Shape:
    """The part of `shape` out of `hole`."""
    return replace(shape, distance=lambda points: np.maximum(shape.distance(points), -hole.distance(points)))


def grown(shape: Shape, by_mm: float) -> Shape:
    """`shape` with its surface moved outwards (inwards where negative)."""
    return Shape(
        lambda points: shape.distance(points) - np.float32(by_mm), shape.low - by_mm, shape.high + by_mm
    )


def moved(shape: Shape, shift_mm: Vector, scale: float = 1.0) -> Shape:
    """`shape` scaled about the centre of its box, then shifted."""
    middle = (shape.low + shape.high) / 2
    shift = np.asarray(shift_mm, np.float64)
    offset = _column(middle - (middle + shift) / scale)
    factor = np.float32(1 / scale)

    def distance(points: Field) -> Field:
        return shape.distance(points * factor + _spread(offset, points)) * np.float32(scale)

    half = (shape.high - shape.low) / 2 * scale
    return Shape(distance, middle + shift - half, middle + shift + half)


def paint(image: Field, labels: NDArray[np.uint8], points: Field, tissue: Tissue, spacing_mm: float) -> None:
    """Paint `tissue` over `image` and `labels` (D, H, W), both changed in place.

    `points` (3, D + 2, H + 2, W + 2) are the voxels' centres with one voxel of margin, `spacing_mm` the
    smallest distance between neighbours. A voxel that the surface cuts gets a mixture (the coverage of a box
    as wide as the voxel under a flat surface), and the label when its centre lies inside.
    """
    box = _box(points, tissue.shape, max(1, int(_BOX_STEP_MM / spacing_mm)), spacing_mm)
    if box is None:
        return
    margin = tuple(slice(side.start, side.stop + 2) for side in box)
    distance = tissue.shape.distance(points[(slice(None), *margin)])
    inner = distance[1:-1, 1:-1, 1:-1]
    share = np.clip(np.float32(0.5) - inner / _width(distance), 0, 1)
    image[box] += share * (np.float32(tissue.intensity) - image[box])
    labels[box][inner < 0] = tissue.label


def _width(distance: Field) -> Field:
    """How far the distance changes across one voxel, edge to edge: the sum of its changes along the axes."""
    middle = slice(1, -1)
    width = np.full(distance[1:-1, 1:-1, 1:-1].shape, 2e-6, np.float32)
    for axis in range(3):
        after, before = [middle] * 3, [middle] * 3
        after[axis], before[axis] = slice(2, None), slice(None, -2)
        width += np.abs(distance[tuple(after)] - distance[tuple(before)])
    width *= np.float32(0.5)
    return width


def _box(points: Field, shape: Shape, step: int, spacing_mm: float) -> tuple[slice, slice, slice] | None:
    """The voxels (without margin) near the shape's box; found on every `step`-th row and column."""
    coarse = points[:, :, ::step, ::step]
    reach = (step + 2) * spacing_mm * 1.5
    spread = [(coarse[c] >= shape.low[c] - reach) & (coarse[c] <= shape.high[c] + reach) for c in range(3)]
    near = spread[0] & spread[1] & spread[2]
    slices = []
    for axis, stride in enumerate((1, step, step)):
        hit = np.flatnonzero(near.any(axis=tuple(a for a in range(3) if a != axis)))
        if not hit.size:
            return None
        stop = points.shape[axis + 1] - 2
        slices.append(
            slice(max(0, int(hit[0]) * stride - stride - 1), min(stop, (int(hit[-1]) + 1) * stride + 1))
        )
    return slices[0], slices[1], slices[2]


def _smallest(distances: list[Field], blend_mm: float = 0.0) -> Field:
    result = distances[0]
    for other in distances[1:]:
        nearest = np.minimum(result, other)
        if blend_mm:
            overlap = np.maximum(np.float32(blend_mm) - np.abs(result - other), 0)
            nearest -= overlap * overlap / np.float32(4 * blend_mm)
        result = nearest
    return result


def _column(vector: Vector) -> Field:
    return np.asarray(vector, np.float32)


def _spread(vector: Field, points: Field) -> Field:
    return vector.reshape((3,) + (1,) * (points.ndim - 1))
