"""How the images of a series lie in space: which of them are one volume, and its affine.

The third axis ascends along the cross product of the directions of a row and of a column. Distances
between slices are taken along the line through their first pixels, which a gantry tilt leans from
that normal.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from dsnet_med.dicom.frames import Frame
from dsnet_med.errors import InputError, SeveralVolumesError
from dsnet_med.geometry import LPS_TO_RAS

_DIRECTION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3  # of the spacing
_STEP_TOLERANCE = 0.05  # of the distance between slices
_SAME_PLACE = 0.01  # of a pixel
_NOTABLE_TILT_DEGREES = 0.1
_LARGEST_TILT_DEGREES = 60.0
_SMALLEST_MM, _LARGEST_MM = 1e-5, 1e4  # between pixels, and between slices
_FARTHEST_MM = 1e7  # from the origin


@dataclass(frozen=True, eq=False)
class Stack:
    """The images of one volume, one per index of its third axis.

    `affine` (4, 4) leads to RAS+ millimetres, `tilt_degrees` is the angle between the third axis and
    the normal of the images.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    tilt_degrees: float

    @property
    def tilt_note(self) -> str | None:
        """One line on a tilt that is worth one, else None."""
        if self.tilt_degrees <= _NOTABLE_TILT_DEGREES:
            return None
        return f"gantry tilt: slices lean {self.tilt_degrees:.1f} degrees, and so does the affine"


def stack_of(frames: Sequence[Frame], label: str, volume_index: int | None = None) -> Stack:
    """The volume of a series that has one, or that of this index (from 0) of a series with several.

    `label` names the series in messages. Raises InputError where the images do not make up whole
    volumes of evenly spaced slices; SeveralVolumesError, which is one, where an index is wanted.
    """
    _require_one_plane(frames, label)
    volumes = _volumes(frames, label)
    volume = volumes[_checked_index(volumes, label, volume_index)]
    if len(volumes) > 1:
        _require_one_kind(volume, label)
    step = _step(volume, label)
    _require_possible([float(np.linalg.norm(step))], "slices", label)
    tilt = _tilt_degrees(step, _normal(volume[0]))
    if tilt > _LARGEST_TILT_DEGREES:
        raise InputError(
            f"{label} has slices that lean {tilt:.0f} degrees from their normal, wanted at most "
            f"{_LARGEST_TILT_DEGREES:.0f}; export it again"
        )
    return Stack(tuple(volume), _affine(volume[0], step), tilt)


def _require_one_plane(frames: Sequence[Frame], label: str) -> None:
    first = frames[0]
    lengths, lean = np.linalg.norm(first.orientation, axis=1), first.orientation[0] @ first.orientation[1]
    if np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE or abs(lean) > _DIRECTION_TOLERANCE:
        raise InputError(
            f"{label} has ImageOrientationPatient {first.orientation.ravel().tolist()}, wanted two "
            "perpendicular directions of length 1; export it again"
        )
    if min(first.spacing) <= 0:
        raise InputError(f"{label} has PixelSpacing {list(first.spacing)} mm, wanted above 0; export it again")
    _require_possible(first.spacing, "pixels", label)
    farthest = max(float(np.abs(frame.position).max()) for frame in frames)
    if farthest > _FARTHEST_MM:
        raise InputError(
            f"{label} has images {farthest:.3g} mm from the origin, wanted at most {_FARTHEST_MM:.0e}; "
            "export it again"
        )
    for frame in frames[1:]:
        what = _difference(first, frame)
        if what is not None:
            raise InputError(
                f"{label} mixes {what} ({first.name}, {frame.name}), wanted one grid; split the series first"
            )


def _require_possible(distances: Sequence[float], of: str, label: str) -> None:
    if not all(_SMALLEST_MM <= one <= _LARGEST_MM for one in distances):
        said = " and ".join(f"{one:.3g}" for one in distances)
        raise InputError(
            f"{label} has {of} {said} mm apart, wanted {_SMALLEST_MM:.0e} to {_LARGEST_MM:.0e}; export it again"
        )


def _difference(a: Frame, b: Frame) -> str | None:
    if a.shape != b.shape:
        return f"pictures of {a.shape[0]} x {a.shape[1]} and {b.shape[0]} x {b.shape[1]} pixels"
    if np.abs(a.orientation - b.orientation).max() > _DIRECTION_TOLERANCE:
        return "pictures of different orientations"
    if any(abs(x - y) > _SPACING_TOLERANCE * x for x, y in zip(a.spacing, b.spacing, strict=True)):
        return f"pixel spacings of {list(a.spacing)} and {list(b.spacing)} mm"
    return None


def _volumes(frames: Sequence[Frame], label: str) -> list[list[Frame]]:
    """The volumes, in the order of their slices: the k-th holds the k-th image of every place."""
    places = _places(frames, label)
    counts = Counter(len(place) for place in places)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        other = next(place for place in places if len(place) != usual)
        raise InputError(
            f"{label} has {len(frames)} images at {len(places)} positions, {usual} at most of them "
            f"and {len(other)} at that of {other[0].name}; every volume needs each position once, so "
            "split or complete the series first"
        )
    for place in places:
        for a, b in pairwise(place):
            if a.order == b.order:
                raise InputError(
                    f"{label} has two images at one position ({a.name}, {b.name}) that neither "
                    "temporal position, acquisition nor instance number tells apart; split the series first"
                )
    return [list(volume) for volume in zip(*places, strict=True)]


def _places(frames: Sequence[Frame], label: str) -> list[list[Frame]]:
    """The images of each place, in the order of places along the normal and of their own."""
    normal = _normal(frames[0])
    close = _SAME_PLACE * min(frames[0].spacing)
    ascending = sorted(frames, key=lambda frame: float(normal @ frame.position))
    heights = [float(normal @ frame.position) for frame in ascending]
    starts = np.cumsum([0, *(b - a > close for a, b in pairwise(heights))])
    places = []
    for _, members in groupby(zip(starts, ascending, strict=True), key=lambda pair: pair[0]):
        place = sorted((frame for _, frame in members), key=lambda frame: frame.order)
        for frame in place[1:]:
            if np.linalg.norm(frame.position - place[0].position) > close:
                raise InputError(
                    f"{label} has images beside each other in one plane ({place[0].name}, "
                    f"{frame.name}), wanted one stack; split the series first"
                )
        places.append(place)
    return places


def _checked_index(volumes: Sequence[Sequence[Frame]], label: str, index: int | None) -> int:
    count, slices = len(volumes), len(volumes[0])
    if index is None and count > 1:
        plural = "" if slices == 1 else "s"
        raise SeveralVolumesError(
            f"{label} holds {count} volumes of {slices} slice{plural} each, wanted one; "
            f"choose it with --volume-index 0..{count - 1}",
            count,
        )
    chosen = index or 0
    if not 0 <= chosen < count:
        known = "one volume, index 0" if count == 1 else f"{count} volumes, indices 0..{count - 1}"
        raise InputError(f"{label} has no volume {chosen}: it holds {known}")
    return chosen


def _require_one_kind(volume: Sequence[Frame], label: str) -> None:
    """Raise InputError where order alone put images together that belong to different volumes."""
    for what, value in volume[0].kind.items():
        for frame in volume[1:]:
            if frame.kind[what] != value:
                raise InputError(
                    f"{label} cannot be parted into volumes: in the order of their numbers, "
                    f"{volume[0].name} and {frame.name} go together but differ in {what} "
                    f"({value}, {frame.kind[what]}); split the series first"
                )


def _step(volume: Sequence[Frame], label: str) -> NDArray[np.float64]:
    """The vector (3,) from one slice to the next, in LPS+ millimetres."""
    if len(volume) == 1:
        if volume[0].thickness is None:
            raise InputError(
                f"{label} is a single slice of unknown thickness, wanted SpacingBetweenSlices or "
                "SliceThickness above 0; export the whole series"
            )
        return _normal(volume[0]) * volume[0].thickness
    positions = np.array([frame.position for frame in volume])
    _require_even(positions, [frame.name for frame in volume], label)
    return np.asarray((positions[-1] - positions[0]) / (len(volume) - 1))


def _require_even(positions: NDArray[np.float64], names: Sequence[str], label: str) -> None:
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = float(np.median(distances))
    off = np.abs(distances - usual)
    if off.max() > _STEP_TOLERANCE * usual:
        at = int(np.argmax(off))
        elsewhere = "elsewhere" if np.sum(off > _STEP_TOLERANCE * usual) == 1 else "mostly"
        raise InputError(
            f"{label}: between slices {at + 1} and {at + 2} ({names[at]}, {names[at + 1]}) the "
            f"distance is {distances[at]:.4g} mm, {elsewhere} {usual:.4g} mm; wanted even distances, so "
            "fetch the missing slices or resample the series"
        )
    line = np.linspace(positions[0], positions[-1], len(positions))
    beside = np.linalg.norm(positions - line, axis=1)
    if beside.max() > _STEP_TOLERANCE * usual:
        at = int(np.argmax(beside))
        raise InputError(
            f"{label}: slice {at + 1} ({names[at]}) lies {beside[at]:.4g} mm away from where even "
            f"distances of {usual:.4g} mm would put it; resample the series first"
        )


def _normal(frame: Frame) -> NDArray[np.float64]:
    normal = np.cross(*frame.orientation)
    return np.asarray(normal / np.linalg.norm(normal))


def _tilt_degrees(step: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    along = float(step @ normal)
    return math.degrees(math.atan2(float(np.linalg.norm(step - along * normal)), along))


def _affine(first: Frame, step: NDArray[np.float64]) -> NDArray[np.float64]:
    between_rows, between_columns = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * between_columns
    affine[:3, 1] = first.orientation[1] * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.asarray(LPS_TO_RAS @ affine)
