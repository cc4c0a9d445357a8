"""Structure sets (RTSTRUCT): the voxels of a grid whose centres lie inside the contours of each structure.

By the even-odd rule, so that a contour inside another one is a hole. A centre on a contour is inside: planning
systems draw between voxels, but tools that follow the centres of the outermost voxels exist (OpenCV, rt-utils).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, first_of
from dsnet_med.extras import needed_for
from dsnet_med.geometry import LPS_TO_RAS
from dsnet_med.segments_dicom import Named, Piece, reading
from dsnet_med.volumes import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_LARGEST = int(np.iinfo(np.uint16).max)
_IN_PLANE = 0.2  # of a voxel; contours are often rounded to a tenth of a millimetre
_OUTSIDE = 1.0  # voxels that a contour may run beyond the grid
_ON_CONTOUR = 0.004  # of a voxel: nearer centres lie on it


def structure_names(path: Path) -> dict[int, str]:
    """What the structures are called, by their numbers. Raises InputError."""
    with reading(path):
        return _names(_opened(path))


def read_structures(path: Path, like: Grid) -> Named:
    """The names by number; the pieces of each structure on the grid of `like`; notes. Raises InputError."""
    with reading(path):
        content = _opened(path)
        names, values = _names(content), _values(content)
        contours = content.get("ROIContourSequence", ())
        drawn = {values.get(int(each.ReferencedROINumber)): each for each in contours}
        planes = {number: _planes(path, names[number], drawn.get(number), like) for number in names}
    notes = [note for number, found in planes.items() if (note := _gaps(names[number], found))]
    if left_out := [name for number, name in names.items() if number in drawn and _others(drawn[number])]:
        notes.append(f"points and open contours are no part of a structure: {first_of(left_out)} has some")
    return names, _pieces(planes, like), tuple(notes)


def reach(path: Path, like: Grid) -> tuple[int, int]:
    """The lowest and highest slice, along the third axis of a grid, that closed contours lie on."""
    to_voxels = np.linalg.solve(like.affine, LPS_TO_RAS)[2]
    with reading(path):
        heights = [
            (
                np.reshape(np.array(contour.ContourData, np.float64), (-1, 3)) @ to_voxels[:3] + to_voxels[3]
            ).mean()
            for drawn in _opened(path).get("ROIContourSequence", ())
            for contour in drawn.get("ContourSequence") or ()
            if contour.get("ContourGeometricType") in _CLOSED
        ]
    return (round(min(heights)), round(max(heights))) if heights else (0, 0)


def _opened(path: Path) -> "Dataset":
    with needed_for("reading structure sets"):
        from pydicom import dcmread  # noqa: PLC0415 -- takes long to load

    return dcmread(path, force=True)


def _names(content: "Dataset") -> dict[int, str]:
    values = _values(content)
    return {
        values[int(each.ROINumber)]: str(each.get("ROIName", "")) for each in content.StructureSetROISequence
    }


def _values(content: "Dataset") -> dict[int, int]:
    """The value of each structure in a label map: its number, or its place from 1 where one is 0 or too big."""
    numbers = [int(each.ROINumber) for each in content.StructureSetROISequence]
    fit = all(0 < number <= _LARGEST for number in numbers)
    return {number: number if fit else place for place, number in enumerate(numbers, start=1)}


def _points(contour: "Dataset") -> NDArray[np.float64]:
    """The points (N, 3) of a contour in millimetres, LPS+."""
    stored = contour.get_item("ContourData").value
    if isinstance(stored, bytes):  # as it is read from a file: pydicom would make an object of each number
        stored = np.array(stored.split(b"\\"))
    return np.reshape(np.asarray(stored, np.float64), (-1, 3))


def _others(drawn: "Dataset") -> bool:
    return any(each.get("ContourGeometricType") not in _CLOSED for each in drawn.get("ContourSequence") or ())


Planes = dict[tuple[int, int], NDArray[np.bool_]]  # (axis of the grid, index along it) -> a mask of that plane


def _planes(path: Path, name: str, drawn: "Dataset | None", like: Grid) -> Planes:
    """The masks of a structure on the planes of the grid that its contours lie on."""
    found: Planes = {}
    to_voxels = np.linalg.solve(like.affine, LPS_TO_RAS)
    for contour in (drawn.get("ContourSequence") or ()) if drawn is not None else ():
        if contour.get("ContourGeometricType") not in _CLOSED:
            continue
        points = _points(contour)
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        axis = int(np.argmin(np.ptp(voxels, axis=0)))
        index = round(float(voxels[:, axis].mean()))
        off = float(np.abs(voxels[:, axis] - index).max())
        if off > _IN_PLANE:
            raise InputError(
                f"{path}: a contour of '{name}' lies {off:.2g} voxels off the slices of {like.path}; give a "
                "label map on the grid of the images that it was drawn on"
            )
        flat = np.delete(voxels, axis, axis=1)
        shape = np.delete(like.shape, axis)
        beyond = max(float((-flat).max()), float((flat - (shape - 1)).max()))
        if not 0 <= index < like.shape[axis] or beyond > _OUTSIDE:
            raise InputError(
                f"{path}: a contour of '{name}' lies outside of the grid of {like.path}; give a larger one"
            )
        inside, rim = filled(flat, (int(shape[0]), int(shape[1])))
        before = found.setdefault((axis, index), np.zeros((2, *inside.shape), bool))
        before[0] ^= inside
        before[1] |= rim
    return {place: mask[0] | mask[1] for place, mask in found.items()}


def filled(points: NDArray[np.float64], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of a picture of `shape`, the pixels whose centres are inside the closed line through `points` (N, 2), and
    those whose centres are on it."""
    after = np.roll(points, -1, axis=0)
    turns = np.zeros((shape[0], shape[1] + 1), np.int64)
    rim = np.zeros(shape, bool)
    rows, across = _crossings(points, after, shape[0], half_open=True)
    np.add.at(turns, (rows, np.clip(np.ceil(across), 0, shape[1]).astype(np.intp)), 1)
    for swapped, length in ((False, shape[0]), (True, shape[1])):
        ends = (points[:, ::-1], after[:, ::-1]) if swapped else (points, after)
        lines, across = _crossings(*ends, length, half_open=False)
        near = np.rint(across)
        on = (np.abs(across - near) <= _ON_CONTOUR) & (near >= 0) & (near < shape[0 if swapped else 1])
        place = near[on].astype(np.intp)
        rim[(place, lines[on]) if swapped else (lines[on], place)] = True
    return np.cumsum(turns, axis=1)[:, :-1] % 2 == 1, rim


def _crossings(
    start: NDArray[np.float64], end: NDArray[np.float64], length: int, *, half_open: bool
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Where edges cross the lines 0, 1, ... of the first axis: the line and the place along it.

    `half_open`: a corner on a line belongs to the edge that leads up from it, so that a line through it is
    crossed an even number of times.
    """
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    first = np.ceil(low).astype(np.int64)
    last = (np.ceil(high) - 1 if half_open else np.floor(high)).astype(np.int64)
    first, last = np.maximum(first, 0), np.minimum(last, length - 1)
    count = np.maximum(0, last - first + 1)
    count[high == low] = 0
    edge = np.repeat(np.arange(len(start)), count)
    line = np.repeat(first, count) + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    share = (line - start[edge, 0]) / (end[edge, 0] - start[edge, 0])
    return line.astype(np.intp), start[edge, 1] + share * (end[edge, 1] - start[edge, 1])


def _gaps(name: str, planes: Planes) -> str | None:
    for axis in {axis for axis, _ in planes}:
        indices = sorted(index for own, index in planes if own == axis)
        spanned = indices[-1] - indices[0] + 1
        if len(indices) < spanned:
            return (
                f"'{name}' has contours on {len(indices)} of the {spanned} slices that it spans; those between "
                "count as empty"
            )
    return None


def _pieces(planes: dict[int, Planes], like: Grid) -> Iterator[tuple[int, list[Piece]]]:
    for number, own in planes.items():
        pieces = []
        for (axis, index), mask in own.items():
            affine: NDArray[Any] = like.affine.copy()
            affine[:3, 3] += like.affine[:3, axis] * index
            order = [*np.delete(np.arange(3), axis), axis]
            affine[:3, :3] = affine[:3, order]
            pieces.append(Piece(mask[..., None], affine))
        yield number, pieces
