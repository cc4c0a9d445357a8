"""DICOM segmentations (SEG), binary, fractional and label maps: their frames as pieces of named segments."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.extras import needed_for
from dsnet_med.geometry import LPS_TO_RAS
from dsnet_med.volumes import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_PLACE_MM = 1e-3
_REGULAR = 0.05  # of a step from slice to slice


class Piece(NamedTuple):
    """Voxels of one segment: a mask (I, J, K), most often a slice, and its affine to RAS+ millimetres."""

    mask: NDArray[Any]
    affine: NDArray[np.float64]


Named = tuple[dict[int, str], Iterator[tuple[int, Sequence[Piece]]], tuple[str, ...]]  # names, pieces, notes


class _Frame(NamedTuple):
    """One frame: its place in the file, its segment (None of a label map, which holds all), its affine."""

    place: int
    segment: int | None
    affine: NDArray[np.float64]


def segment_names(path: Path) -> dict[int, str]:
    """What the segments are called, by their numbers, the background left out. Raises InputError."""
    with reading(path):
        return _names(_opened(path, pixels=False))


def read_segments(path: Path) -> Named:
    """The names by number; the pieces of each segment, by number; notes. Raises InputError."""
    with reading(path):
        content = _opened(path, pixels=True)
        names, frames = _names(content), _frames(path, content)
        kind = str(content.get("SegmentationType", "BINARY"))
        half = "is a fractional segmentation: voxels of at least one half count"
        return names, _pieces(path, content, frames, kind, names), (half,) if kind == "FRACTIONAL" else ()


def lattice_of(paths: Sequence[Path]) -> Grid:
    """The smallest grid that holds the frames of all these segmentations. Raises InputError."""
    frames, sizes = [], set()
    for path in paths:
        with reading(path):
            content = _opened(path, pixels=False)
            frames += _frames(path, content)
            sizes.add((int(content.Columns), int(content.Rows)))
    first = frames[0].affine
    columns, rows = sizes.pop()
    turned = any(not np.allclose(frame.affine[:3, :2], first[:3, :2], atol=1e-4) for frame in frames)
    if sizes or turned:
        raise InputError(
            f"{paths[-1]}: its frames have other directions or sizes than those of {paths[0]}; give one of "
            "them as a label map of the whole image"
        )
    origins = np.array([frame.affine[:3, 3] for frame in frames])
    normal = np.cross(first[:3, 0], first[:3, 1])
    normal /= np.linalg.norm(normal)
    along = origins @ normal
    order = np.argsort(along, kind="stable")
    first_origin, last_origin = origins[order[0]], origins[order[-1]]
    apart = np.diff(along[order])
    apart = apart[apart > _SAME_PLACE_MM]
    stated = float(np.linalg.norm(first[:3, 2]))
    length = along[order[-1]] - along[order[0]]
    step = next(
        (s for s in (stated, *(apart.min(initial=np.inf) / n for n in (1, 2, 3))) if _fits(along, s)), None
    )
    if step is None:
        raise InputError(f"{paths[0]}: its frames are not evenly spaced; give a label map of the whole image")
    slices = 1 + round(length / step)
    affine = first.copy()
    affine[:3, 2] = normal * step if slices == 1 else (last_origin - first_origin) / (slices - 1)
    affine[:3, 3] = first_origin
    return Grid(paths[0], (columns, rows, slices), affine, None)


def _fits(along: NDArray[np.float64], step: float) -> bool:
    """Whether these positions lie whole steps apart."""
    if not 0 < step < np.inf:
        return False
    steps = (along - along.min()) / step
    return bool(np.abs(steps - np.rint(steps)).max() <= _REGULAR)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Reads from `path` in here raise nothing but InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom has no one type for what it cannot read
        if means := want_of_means(error):
            raise InputError(f"{path}: cannot be read: {means}") from error
        why = f"{type(error).__name__}: {one_line(error, 160)}"
        raise InputError(f"{path}: not a readable DICOM segmentation ({why}); export it again") from error


def _opened(path: Path, *, pixels: bool) -> "Dataset":
    with needed_for("reading DICOM segmentations"):
        from pydicom import dcmread  # noqa: PLC0415 -- takes long to load

    return dcmread(path, stop_before_pixels=not pixels, force=True)


def _names(content: "Dataset") -> dict[int, str]:
    numbered = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in content.SegmentSequence}
    return {number: name for number, name in sorted(numbered.items()) if number}


def _frames(path: Path, content: "Dataset") -> list[_Frame]:
    """Number and place of every frame."""
    shared = (content.get("SharedFunctionalGroupsSequence") or [{}])[0]
    is_map = content.get("SegmentationType") == "LABELMAP"
    found = []
    for index, own in enumerate(content.PerFrameFunctionalGroupsSequence):

        def said(group: str, own: Any = own) -> Any:
            return (own.get(group) or shared.get(group) or [None])[0]

        position, plane = said("PlanePositionSequence"), said("PlaneOrientationSequence")
        measures, segment = said("PixelMeasuresSequence"), said("SegmentIdentificationSequence")
        if position is None or plane is None or measures is None or (segment is None and not is_map):
            raise InputError(
                f"{path}: does not say where its frame {index + 1} lies, or of which segment it is"
            )
        row, column = np.reshape(np.array(plane.ImageOrientationPatient, np.float64), (2, 3))
        between_rows, between_columns = (float(size) for size in measures.PixelSpacing)
        apart = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1)
        lps = np.eye(4)
        lps[:3, 0], lps[:3, 1] = row * between_columns, column * between_rows
        lps[:3, 2] = np.cross(row, column) * (apart or 1)
        lps[:3, 3] = np.array(position.ImagePositionPatient, np.float64)
        number = None if is_map else int(segment.ReferencedSegmentNumber)
        found.append(_Frame(index, number, LPS_TO_RAS @ lps))
    if not found:
        raise InputError(f"{path}: has no frames; export it again")
    return found


def _pieces(
    path: Path, content: "Dataset", frames: Sequence[_Frame], kind: str, names: dict[int, str]
) -> Iterator[tuple[int, list[Piece]]]:
    from pydicom.pixels.utils import iter_pixels  # noqa: PLC0415

    with reading(path):
        if kind == "LABELMAP":
            stored = [
                (frame, np.array(plane).T[..., None])
                for frame, plane in zip(frames, iter_pixels(content, raw=True), strict=True)
            ]
            for number in names:
                masks = ((frame, plane == number) for frame, plane in stored)
                yield number, [Piece(mask, frame.affine) for frame, mask in masks if mask.any()]
            return
        least = 1 if kind != "FRACTIONAL" else (int(content.MaximumFractionalValue) + 1) // 2
        for number in names:
            own = [frame for frame in frames if frame.segment == number]
            planes = iter_pixels(content, indices=[frame.place for frame in own], raw=True) if own else ()
            pairs = zip(own, planes, strict=True)
            yield number, [Piece(np.array(plane).T[..., None] >= least, frame.affine) for frame, plane in pairs]
