"""The voxels of images: decoded, then rescaled into the smallest type that holds them all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dsnet_med.dicom.boundary import reading
from dsnet_med.dicom.frames import Frame
from dsnet_med.dicom.values import text, values, whole
from dsnet_med.errors import InputError, one_line

_UNDEFINED = 0xFFFFFFFF  # the length of pixels in pieces, that is compressed
_NATIVE = "fetch the file again"
_ENCODED = "fetch the file again, or decompress it first (gdcmconv --raw)"


def stored(file: Path, frames: Sequence[Frame]) -> list[NDArray[Any]]:
    """The images (rows, columns) of these frames of one file, as integers, before rescaling.

    Raises InputError where they are absent, damaged, cut short, of floating point or of a transfer
    syntax that nothing installed decodes.
    """
    with reading(file):
        content = pydicom.dcmread(file, force=True)
        _require_pixels(file, content)
        syntax = _syntax(file, content)
        _require_decoder(file, syntax)
        _set_length(file, content, frames, compressed=syntax.is_encapsulated)
        indices = [frame.number - 1 for frame in frames if frame.number is not None]
        try:
            images = list(iter_pixels(content, indices=indices or None, raw=True))
        except Exception as error:
            raise InputError(
                f"{file}: its pixels ({syntax.name}) are damaged or cut short "
                f"({one_line(error, 160)}); {_ENCODED if syntax.is_compressed else _NATIVE}"
            ) from error
    for image, frame in zip(images, frames, strict=True):
        if image.shape != frame.shape:
            raise InputError(
                f"{file}: holds pixels of shape {image.shape}, its header says {frame.shape}; export it again"
            )
    return images


def rescaled(images: Sequence[NDArray[Any]], frames: Sequence[Frame]) -> NDArray[Any]:
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
            f"{file}: is compressed as {syntax.name}, which nothing installed decodes; decompress it first"
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
