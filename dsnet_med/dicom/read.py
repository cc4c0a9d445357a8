"""One DICOM series as a volume, in the axis order of its images and the world (RAS+) of NIfTI.

Another process decodes compressed pixels (decoding.py). SimpleITK (GDCM) gives the same volume for every whole,
straight series in the tests and reads others without a word: a missing slice, a lean, several volumes in one.
highdicom refuses a missing slice, several volumes and series without a FrameOfReferenceUID, which anonymising
leaves. So which images are a volume is told here.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dsnet_med.dicom.codestream import Image
from dsnet_med.dicom.decoding import PROCESSES, UnsupportedError, images_of
from dsnet_med.dicom.frames import Frame, frames_of
from dsnet_med.dicom.header import reading, text, values, whole, whole_file
from dsnet_med.dicom.series import Series, require_usable
from dsnet_med.dicom.slice_stack import stack_of
from dsnet_med.errors import InputError, one_line, want_of_means
from dsnet_med.volumes import Volume

_UNDEFINED = 0xFFFFFFFF  # the length of pixels in pieces, that is compressed
_NATIVE = "fetch the file again"
_ENCODED = "fetch the file again, or decompress it first (gdcmconv --raw)"


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
    _require_memory(stack.frames, folder)
    voxels = _rescaled(_images(stack.frames), stack.frames).transpose(2, 1, 0)
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


def _require_memory(frames: Sequence[Frame], folder: Path) -> None:
    """Some bytes of compressed pixels can name any number of them."""
    pixels = sum(frame.shape[0] * frame.shape[1] for frame in frames)
    wanted = 4 * pixels  # of 16 bits, as stored and as rescaled
    free = psutil.virtual_memory().available
    if wanted > free:
        rows, columns = frames[0].shape
        raise InputError(
            f"{folder}: {len(frames)} images of {rows} x {columns} need {wanted / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free; close other programs, or use a machine with more"
        )


def _images(frames: Sequence[Frame]) -> list[NDArray[Any]]:
    """The stored images of these frames, in their order; every file is opened once."""
    of_file: dict[Path, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        of_file[frame.file].append(index)
    images: dict[int, NDArray[Any]] = {}
    with ThreadPoolExecutor(PROCESSES if frames[0].elsewhere else 1) as pool:  # Python alone gains nothing
        try:
            wanted = [[frames[index] for index in indices] for indices in of_file.values()]
            for indices, stored in zip(of_file.values(), pool.map(_stored, of_file, wanted), strict=True):
                images.update(zip(indices, stored, strict=True))
        finally:
            pool.shutdown(cancel_futures=True)
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


# ---------------------------------------------------------------- voxels


def _stored(file: Path, frames: Sequence[Frame]) -> list[NDArray[Any]]:
    """The images (rows, columns) of these frames of one file, as integers, before rescaling.

    Raises InputError where they are absent, damaged, cut short, of floating point or of a transfer
    syntax that nothing installed decodes.
    """
    with reading(file):
        content = whole_file(file)
        _require_pixels(file, content)
        syntax = _syntax(file, content)
        kind = one_line(syntax.name, 80)
        _require_decoder(file, syntax)
        _set_length(file, content, frames, compressed=syntax.is_encapsulated)
        indices = [0 if frame.number is None else frame.number - 1 for frame in frames]
        try:
            if not syntax.is_encapsulated:
                images = list(iter_pixels(content, indices=indices, raw=True))
            else:
                count = whole(content, "NumberOfFrames") or 1
                images = images_of(content, _image(content, syntax, frames[0].shape), count, indices)
        except UnsupportedError as error:
            raise InputError(
                f"{file}: is compressed as {kind}, of a kind that nothing installed decodes "
                f"({one_line(error, 160)}); decompress it first"
            ) from error
        except Exception as error:
            if means := want_of_means(error):
                raise InputError(f"{file}: its pixels cannot be decoded: {means}") from error
            raise InputError(
                f"{file}: its pixels ({kind}) are damaged or cut short "
                f"({one_line(error, 160)}); {_ENCODED if syntax.is_compressed else _NATIVE}"
            ) from error
    for image, frame in zip(images, frames, strict=True):
        if image.shape != frame.shape:
            raise InputError(
                f"{file}: holds pixels of shape {image.shape}, its header says {frame.shape}; export it again"
            )
    return images


def _image(content: pydicom.Dataset, syntax: UID, shape: tuple[int, int]) -> Image:
    """What the header says of every frame. Raises ValueError for what it lacks."""
    allocated, stored = whole(content, "BitsAllocated") or 0, whole(content, "BitsStored") or 0
    signed = whole(content, "PixelRepresentation")
    size = whole(content, "Rows"), whole(content, "Columns")
    if size != shape or allocated not in (8, 16, 32) or not 1 <= stored <= allocated or signed not in (0, 1):
        raise ValueError(
            f"Rows, Columns, BitsAllocated, BitsStored and PixelRepresentation are {size[0]}, {size[1]}, "
            f"{allocated}, {stored} and {signed}"
        )
    return Image(str(syntax), *shape, allocated, stored, signed, text(content, "PhotometricInterpretation"))


def _rescaled(images: Sequence[NDArray[Any]], frames: Sequence[Frame]) -> NDArray[Any]:
    """Images (rows, columns) after slope and intercept, as one array (slices, rows, columns).

    int16, else int32, where slopes and intercepts are whole numbers and the values fit; else
    float32. Raises InputError for a slope of zero and for values that float32 does not hold.
    """
    for frame in frames:
        if frame.slope == 0:
            raise InputError(f"{frame.file}: has RescaleSlope 0, wanted another; export it again")
    dtype = _smallest_type(images, frames)
    between = np.int64 if dtype.kind == "i" else np.float64
    voxels = np.empty((len(images), *images[0].shape), dtype)
    for index, (image, frame) in enumerate(zip(images, frames, strict=True)):
        with np.errstate(over="ignore"):
            voxels[index] = image.astype(between) * between(frame.slope) + between(frame.intercept)
        if dtype.kind == "f" and not np.isfinite(voxels[index]).all():
            raise InputError(f"{frame.file}: rescaled voxels are too large; export it again")
    return voxels


def _require_pixels(file: Path, content: pydicom.Dataset) -> None:
    if "FloatPixelData" in content or "DoubleFloatPixelData" in content:
        raise InputError(f"{file}: holds floating-point pixels, wanted integers; convert it to NIfTI first")
    if "PixelData" not in content:
        raise InputError(f"{file}: has no pixels (PixelData), or is cut short; fetch the file again")


def _syntax(file: Path, content: pydicom.FileDataset) -> UID:
    """The transfer syntax; of a file without meta information, as its elements are written."""
    if "TransferSyntaxUID" not in content.file_meta:
        if getattr(content.get_item("PixelData"), "length", 0) == _UNDEFINED:
            raise InputError(f"{file}: does not say how its pixels are compressed; export it again")
        implicit, little = content.original_encoding
        content.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return content.file_meta.TransferSyntaxUID


def _set_length(file: Path, content: pydicom.Dataset, frames: Sequence[Frame], *, compressed: bool) -> None:
    """Bring the number of frames and the bytes of native pixels to what they must be: some writers pad them."""
    count = whole(content, "NumberOfFrames")
    if compressed:
        size = 0
    else:
        bits = (whole(content, "BitsAllocated") or 0) * (whole(content, "SamplesPerPixel") or 1)
        size = frames[0].shape[0] * frames[0].shape[1] * bits // 8
    if count is None:
        if values(content, "NumberOfFrames") and (compressed or len(content.PixelData) >= 2 * size):
            said = one_line(text(content, "NumberOfFrames"), 60)
            raise InputError(f"{file}: has NumberOfFrames {said}, wanted a whole number; export it again")
        content.pop("NumberOfFrames", None)
        count = 1
    if 0 < size * count < len(content.PixelData):
        content.PixelData = content.PixelData[: size * count + size * count % 2]


def _require_decoder(file: Path, syntax: UID) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"{file}: is compressed as {one_line(syntax.name, 80)}, which nothing installed decodes; "
            "decompress it first"
        )


def _smallest_type(images: Sequence[NDArray[Any]], frames: Sequence[Frame]) -> np.dtype[Any]:
    if not all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in frames):
        return np.dtype(np.float32)
    ends = [
        int(value) * int(frame.slope) + int(frame.intercept)
        for image, frame in zip(images, frames, strict=True)
        for value in (image.min(), image.max())
    ]
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= min(ends) and max(ends) <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float32)
