"""How a volume of any orientation becomes one stack of axial-like slices, and how a mask goes back.

Every volume is seen as slices S[k, row, column]: k runs from inferior to superior, rows from anterior to
posterior, columns from the patient's right to the left, as a radiologist sees an axial slice. Only axes are
exchanged and reversed, nothing is resampled, so the way back is exact. Affines follow NIfTI: millimetres,
x grows to the right of the patient, y to anterior, z to superior (RAS+).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
SliceAxis = Literal["superior", "coarsest"]
_ROUNDING = 0.01  # of a voxel
_NO_SHEAR = 0.1  # of a voxel
LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))  # from the world of DICOM and ITK to that of NIfTI

# For slices S[k, row, column]: the RAS+ axis that each index runs along, and whether it runs with it.
_SLICE_INDICES = ((2, +1), (1, -1), (0, -1))


@dataclass(frozen=True)
class SliceOrder:
    """Which array axis each slice index (k, row, column) runs along, and which of them are reversed."""

    axes: tuple[int, int, int]
    reversed: tuple[bool, bool, bool]

    @classmethod
    def of(cls, affine: NDArray[np.float64], slice_axis: SliceAxis = "superior") -> "SliceOrder":
        """The slice order of a volume with this affine (4, 4).

        `superior`: slices follow each other along the axis nearest to the patient's long axis (CT).
        `coarsest`: along the axis with the largest spacing (stacks such as cardiac short-axis MR); the two axes
        in the plane keep the order above. Where no axis is clearly the coarsest (less than 1.2 times the next),
        this is `superior`.
        """
        # nearest[a] = (RAS+ axis that array axis a is nearest to, direction)
        nearest = io_orientation(affine)
        array_axis = {int(ras): a for a, (ras, _) in enumerate(nearest)}
        direction = {int(ras): int(sign) for ras, sign in nearest}
        order = list(_SLICE_INDICES)
        if slice_axis == "coarsest":
            spacing = voxel_sizes(affine)
            through = int(np.argmax(spacing))
            if spacing[through] >= 1.2 * np.sort(spacing)[1]:
                ras = int(nearest[through][0])
                order.sort(key=lambda index: index[0] != ras)
        axes = tuple(array_axis[ras] for ras, _ in order)
        reverse = tuple(direction[ras] != wanted for ras, wanted in order)
        return cls((axes[0], axes[1], axes[2]), (reverse[0], reverse[1], reverse[2]))

    def to_slices(self, volume: NDArray[T]) -> NDArray[T]:
        """A view of `volume` (any axis order) as slices (D, H, W)."""
        return np.transpose(volume, self.axes)[self._flips()]

    def to_volume(self, slices: NDArray[T]) -> NDArray[T]:
        """A view of `slices` (D, H, W) in the axis order of the volume they came from."""
        return np.transpose(slices[self._flips()], np.argsort(self.axes))

    def spacing_mm(self, affine: NDArray[np.float64]) -> tuple[float, float, float]:
        """The lengths in millimetres of a step from slice to slice, row to row and column to column.

        On a sheared grid planes lie closer together than the step between them is long.
        """
        sizes = voxel_sizes(affine)
        return float(sizes[self.axes[0]]), float(sizes[self.axes[1]]), float(sizes[self.axes[2]])

    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.reversed)


_PLANES = ("sagittal", "coronal", "axial")  # slices that follow each other along x, y and z


def cut_across(affine: NDArray[np.float64], slice_axis: SliceAxis = "superior") -> str | None:
    """One line where `slice_axis` cuts thick slices (at least twice their pixels) across, None elsewhere."""
    spacing = voxel_sizes(affine)
    thick, cut = int(np.argmax(spacing)), SliceOrder.of(affine, slice_axis).axes[0]
    pixels = float(np.sort(spacing)[1])
    if thick == cut or spacing[thick] < 2 * pixels:
        return None
    plane, cut_plane = (_PLANES[int(io_orientation(affine)[axis][0])] for axis in (thick, cut))
    return (
        f"its {plane} slices lie {spacing[thick]:.3g} mm apart and have pixels of {pixels:.3g} mm: slice_axis "
        f"'{slice_axis}' cuts across them, into {cut_plane} ones; 'slice_axis: coarsest' in the recipe that a "
        "model is trained by takes them as they are"
    )


def spacing_mm(affine: NDArray[np.float64]) -> tuple[float, ...]:
    """The lengths in millimetres of a step along each of the three array axes.

    They tell volumes and distances only where the axes are at right angles, which a tilted gantry's are not:
    Grid.voxel_mm3 and evaluate/voxel_spacing.py hold for any grid.
    """
    return tuple(float(size) for size in voxel_sizes(affine))


def same_grid(
    shape_a: Sequence[int],
    affine_a: NDArray[np.float64],
    shape_b: Sequence[int],
    affine_b: NDArray[np.float64],
    tolerance_mm: float | None = None,
) -> bool:
    """Whether two grids have one shape and place every corner alike: within a hundredth of a voxel along each
    axis, what headers lose by rounding, or within `tolerance_mm`."""
    if tuple(shape_a) != tuple(shape_b):
        return False
    if tolerance_mm is None:
        return corner_voxels(shape_a, affine_a, affine_b) <= _ROUNDING
    return corner_distance(shape_a, affine_a, affine_b) <= tolerance_mm


def corner_distance(
    shape: Sequence[int], affine_a: NDArray[np.float64], affine_b: NDArray[np.float64]
) -> float:
    """The largest distance, in millimetres, between where two affines place one corner of a volume."""
    return float(np.linalg.norm(_corners_apart(shape, affine_a, affine_b), axis=0).max())


def corner_voxels(shape: Sequence[int], affine_a: NDArray[np.float64], affine_b: NDArray[np.float64]) -> float:
    """How far two affines place a corner of a volume apart, at most, along any axis and in its voxels."""
    apart = _corners_apart(shape, affine_a, affine_b)
    return float(np.abs(np.linalg.solve(affine_a[:3, :3], apart)).max())


def _corners_apart(
    shape: Sequence[int], affine_a: NDArray[np.float64], affine_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    return np.asarray((affine_a - affine_b)[:3] @ homogeneous)


def right_angled(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest affine (4, 4) whose axes are at right angles: all that a quaternion can say."""
    sizes = voxel_sizes(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    nearest = np.array(affine, np.float64)
    nearest[:3, :3] = (left @ right) * sizes
    return nearest


def is_sheared(shape: Sequence[int], affine: NDArray[np.float64]) -> bool:
    """Whether the axes are not at right angles, by more than rounding: no grid with right angles comes within a
    tenth of a voxel of every corner. NIfTI's qform and ITK programs cannot hold such a grid."""
    return not corner_voxels(shape, affine, right_angled(affine)) <= _NO_SHEAR
