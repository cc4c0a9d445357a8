"""Solids as signed distances (constructive solid geometry): `a & b`, `a - b`, `union`, grown and moved.

A distance is in millimetres, negative inside; points are arrays (3, D, H, W) of x, y, z in millimetres. The
ellipsoid's distance is the usual first-order estimate, exact on the surface. The libraries for this make
meshes; a scanner needs the distance itself, for the part of a voxel that a solid fills.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Field = NDArray[np.float32]
Vector = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Solid:
    """A signed distance, and a box (low, high) in millimetres that encloses all that is inside."""

    distance: Callable[[Field], Field]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __and__(self, other: "Solid") -> "Solid":
        return Solid(
            lambda points: np.maximum(self.distance(points), other.distance(points)),
            np.maximum(self.low, other.low),
            np.minimum(self.high, other.high),
        )

    def __sub__(self, hole: "Solid") -> "Solid":
        return Solid(
            lambda points: np.maximum(self.distance(points), -hole.distance(points)), self.low, self.high
        )

    def grown(self, by_mm: float) -> "Solid":
        """With the surface moved outwards (inwards where negative)."""
        return Solid(
            lambda points: self.distance(points) - np.float32(by_mm), self.low - by_mm, self.high + by_mm
        )

    def moved(self, shift_mm: Vector, scale: float) -> "Solid":
        """Scaled about the centre of the box, then shifted."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2 * scale
        moved = middle + np.asarray(shift_mm)
        offset, factor = _column(middle - moved / scale), np.float32(1 / scale)
        return Solid(
            lambda points: self.distance(points * factor + offset) * np.float32(scale),
            moved - half,
            moved + half,
        )


def ellipsoid(center: Vector, radii: Vector, turn_degrees: Vector = (0, 0, 0)) -> Solid:
    """An ellipsoid with semi-axes `radii`, turned about x, then y, then z through its centre.

    A semi-axis of infinity makes an elliptic cylinder.
    """
    turn = Rotation.from_euler("xyz", turn_degrees, degrees=True).inv().as_matrix()
    per_mm, middle = _column(1 / np.asarray(radii)), _column(turn @ center / radii)
    tiny = np.float32(1e-6)

    def distance(points: Field) -> Field:
        local = np.tensordot(turn.astype(np.float32), points, axes=1) if any(turn_degrees) else points
        part = local * per_mm - middle
        radius = np.sqrt((part * part).sum(axis=0))
        part *= per_mm
        slope = np.sqrt((part * part).sum(axis=0))
        # The offsets give the centre, where the estimate is 0 / 0, the shortest semi-axis.
        estimate: Field = (radius + tiny) * (radius - 1) / (slope + tiny / np.float32(min(radii)))
        return estimate

    reach = np.full(3, max(radii)) if any(turn_degrees) else np.asarray(radii)
    return Solid(distance, np.asarray(center) - reach, np.asarray(center) + reach)


def tube(path: Sequence[Vector], radii: Sequence[float]) -> Solid:
    """A tube along the polyline `path` (n, 3) whose radius runs through `radii` (n)."""
    nodes, widest = np.asarray(path, np.float64), max(radii)

    def cone(points: Field, place: int) -> Field:
        axis = (nodes[place + 1] - nodes[place]).astype(np.float32)
        local = points - _column(nodes[place])
        along = np.clip(np.tensordot(axis / (axis @ axis), local, axes=1), 0, 1)
        local -= _column(axis) * along
        radius = np.float32(radii[place]) + np.float32(radii[place + 1] - radii[place]) * along
        distance: Field = np.sqrt(np.einsum("c...,c...", local, local)) - radius
        return distance

    def distance(points: Field) -> Field:
        nearest: Field = np.minimum.reduce([cone(points, place) for place in range(len(nodes) - 1)])
        return nearest

    return Solid(distance, nodes.min(axis=0) - widest, nodes.max(axis=0) + widest)


def above(normal: Vector, offset: float) -> Solid:
    """The half-space where normal . point > offset; `normal` is of unit length."""
    direction, everywhere = np.asarray(normal, np.float32), np.full(3, np.inf)
    return Solid(
        lambda points: np.float32(offset) - np.tensordot(direction, points, axes=1), -everywhere, everywhere
    )


def union(*solids: Solid, blend_mm: float = 0.0) -> Solid:
    """All together; `blend_mm` rounds the seams between them."""

    def distance(points: Field) -> Field:
        result = solids[0].distance(points)
        for solid in solids[1:]:
            other = solid.distance(points)
            nearest = np.minimum(result, other)
            if blend_mm:
                overlap = np.maximum(np.float32(blend_mm) - np.abs(result - other), 0)
                nearest -= overlap * overlap / np.float32(4 * blend_mm)
            result = nearest
        return result

    low, high = (np.array([getattr(each, side) for each in solids]) for side in ("low", "high"))
    return Solid(distance, low.min(axis=0) - blend_mm / 4, high.max(axis=0) + blend_mm / 4)


def _column(vector: Vector) -> Field:
    return np.asarray(vector, np.float32).reshape(3, 1, 1, 1)
