"""The spacing of a voxel grid: how many mm lie between two voxels.

It comes from one number per axis, or from the steps along the axes as vectors: the columns of an affine's left
part. Where those are not at right angles (a stack taken with a tilted gantry) their lengths alone do not give
distances: the vector from one voxel to another has to be added up first, then measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, shown
from dsnet_med.evaluate import backend
from dsnet_med.evaluate.arrays import Distances, Spacing, VoxelIndices

GridSpacing = Sequence[float] | Sequence[Sequence[float]] | NDArray[np.floating[Any]]

# The largest cosine between axes at right angles: headers round directions. No distance is wrong by more than
# this share of itself.
_ROUNDING = 1e-5
_FLAT = 1e-3  # the determinant of steps of length one below which they lie in a plane, as in volumes.py


@dataclass(frozen=True)
class VoxelSpacing:
    """Column n of `steps` (N, N) is the way in mm to the next voxel along axis n; `sizes` their lengths.

    `sizes` is None where the steps are not at right angles.
    """

    steps: NDArray[np.float64]
    sizes: tuple[float, ...] | None

    @classmethod
    def of(cls, spacing_mm: GridSpacing, ndim: int) -> "VoxelSpacing":
        """Of one number per axis, or a matrix (ndim, ndim) of steps. Raises InputError."""
        wanted = f"wanted {ndim} numbers, one per axis, or the steps along the axes as columns, {ndim} x {ndim}"
        try:
            given = np.array(spacing_mm, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"spacing_mm is {shown(spacing_mm)}, {wanted}") from error
        if given.shape not in ((ndim,), (ndim, ndim)):
            raise InputError(f"spacing_mm has shape {given.shape} for {ndim}-D arrays; {wanted}")
        steps = np.diag(given) if given.ndim == 1 else given
        # Squares of distances must neither overflow nor vanish.
        in_range = bool((np.abs(given) <= 1e9).all())
        sizes = np.linalg.norm(steps, axis=0) if in_range else given
        if not (in_range and (given.ndim == 2 or (given > 0).all()) and (sizes >= 1e-9).all()):
            numbers = tuple(given.tolist())
            raise InputError(f"spacing_mm is {numbers}, wanted finite numbers above 0; correct the header")
        directions = steps / sizes
        if abs(np.linalg.det(directions)) < _FLAT:
            raise InputError(f"spacing_mm is {given.tolist()}, axes that lie in a plane; correct the header")
        cosines = directions.T @ directions
        upright = np.abs(cosines - np.diag(np.diag(cosines))).max() <= _ROUNDING
        return cls(steps, tuple(sizes.tolist()) if upright else None)

    def of_axes(self, axes: Sequence[int]) -> "VoxelSpacing":
        """With the axes in this order, and where there are two, a third of 1 mm in front."""
        order = list(axes)
        steps, sizes = self.steps[:, order], self.sizes and tuple(self.sizes[axis] for axis in order)
        if len(order) == 3:
            return VoxelSpacing(steps, sizes)
        solid = np.eye(3)
        solid[1:, 1:] = steps
        return VoxelSpacing(solid, sizes and (1.0, *sizes))

    def diagonal(self, shape: Sequence[int]) -> float:
        """The longest way through a volume of this shape, from outer edge to outer edge, in mm."""
        if self.sizes is not None:
            return float(np.linalg.norm(np.multiply(shape, self.sizes)))
        corners = np.array(list(product((-1, 1), repeat=len(shape)))) * shape
        return float(np.linalg.norm(corners @ self.steps.T, axis=1).max())

    def nearest(self, points: VoxelIndices, targets: VoxelIndices) -> Distances:
        """For each of `points` the exact distance to the nearest of `targets` in mm; one or more of each."""
        if self.sizes is not None:
            return backend.BACKEND.nearest(points, targets, cast(Spacing, self.sizes))
        from dsnet_med.evaluate import backend_scipy  # noqa: PLC0415 -- SciPy takes half a second to load

        return backend_scipy.nearest_by_steps(points, targets, self.steps)


VOXELS = VoxelSpacing.of((1.0, 1.0, 1.0), 3)
