"""One DICOM series as a volume, in the axis order of its images and the world (RAS+) of NIfTI."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsnet_med.dicom.frames import Frame, frames_of
from dsnet_med.dicom.pixels import rescaled, stored
from dsnet_med.dicom.series import Series, require_usable
from dsnet_med.dicom.slice_stack import stack_of
from dsnet_med.errors import InputError
from dsnet_med.volumes import Volume


@dataclass(frozen=True)
class SourceSlice:
    """Where one slice came from: the file, and the frame, from 1, where the file is multi-frame."""

    file: Path
    frame: int | None


@dataclass(frozen=True)
class DicomVolume(Volume):
    """A volume read from DICOM: voxels (X, Y, Z), X along the rows of its images, Y along columns.

    `slices` holds the source of each index of the third axis.
    """

    slices: tuple[SourceSlice, ...] = ()


def read_series(series: Series, volume_index: int | None = None) -> DicomVolume:
    """The volume of a series, rescaled: int16 or int32 where that is exact, else float32.

    Voxels are in Fortran order. `volume_index`, from 0, picks one of a series with several volumes.
    Raises InputError for everything that is no whole, evenly spaced volume of readable images.
    """
    folder = series.files[0].parent
    require_usable(series, folder)
    every = [frame for file in series.files for frame in frames_of(file)]
    frames = _without_copies(every)
    stack = stack_of(frames, f"{folder}: series {series.label}", volume_index)
    voxels = rescaled(_images(stack.frames), stack.frames).transpose(2, 1, 0)
    x, y, z = voxels.shape
    return DicomVolume(
        path=series.files[0] if len(series.files) == 1 else folder,
        shape=(x, y, z),
        affine=stack.affine,
        header=None,
        voxels=voxels,
        notes=_notes(_joined(series), len(every) - len(frames), stack.tilt_note, stack.frames),
        slices=tuple(SourceSlice(frame.file, frame.number) for frame in stack.frames),
    )


def _without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """Each image once. A copy has another's identity and place; InputError unless it has its voxels."""
    kept: dict[object, Frame] = {}
    for frame in frames:
        identity = (frame.uid, frame.order, frame.position.tobytes())
        other = kept.setdefault(identity if frame.uid else frame, frame)
        if other is frame:
            continue
        first, second = _images((other, frame))
        if not np.array_equal(first, second):
            raise InputError(
                f"{frame.file}: has the SOPInstanceUID of {other.file} and other voxels; remove one of them"
            )
    return list(kept.values())


def _images(frames: Sequence[Frame]) -> list[NDArray[Any]]:
    """The stored images of these frames, in their order; every file is opened once."""
    of_file: dict[Path, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        of_file[frame.file].append(index)
    images: dict[int, NDArray[Any]] = {}
    for file, indices in of_file.items():
        images.update(zip(indices, stored(file, [frames[index] for index in indices]), strict=True))
    return [images[index] for index in range(len(frames))]


def _joined(series: Series) -> str | None:
    """What its images were gathered from."""
    folders = len({file.parent for file in series.files})
    return f"its images lie in {folders} folders" if folders > 1 and not series.note else series.note


def _notes(joined: str | None, copies: int, tilt: str | None, frames: Sequence[Frame]) -> tuple[str, ...]:
    notes = [note for note in (joined, tilt) if note is not None]
    if copies:
        notes.append(f"left out {copies} cop{'y' if copies == 1 else 'ies'} of images")
    lossy = sum(frame.lossy for frame in frames)
    if lossy:
        notes.append(f"{lossy} of {len(frames)} slices were compressed with loss")
    return tuple(notes)
