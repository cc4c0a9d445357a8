"""The header of a DICOM file: its attributes as their bytes have them, and errors that name the file.

pydicom would convert and judge each value on the way, with warnings for the whole process and exceptions for a
word such as REMOVED in a number that nobody needs. Here what is no number is absent; no logger, warning or
setting of the process is touched, for another thread would see it.
"""

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset, FileDataset, dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dsnet_med.errors import InputError, one_line, want_of_means

_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOST_READS = 1_000_000  # of one header, as of 10,000 frames that are described one by one
_LONGEST_VALUE = 1 << 16  # bytes of one attribute that are looked at
_DEFLATED_HEADER = 64 << 20  # bytes that may stand around the pixels of a deflated file
_ESCAPE = re.compile(r"\x1b[^A-Za-z]*[A-Za-z]")  # of character sets that change within a text


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Reads from `file` in here raise nothing but InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # pydicom has no one type for what it cannot read
        if means := want_of_means(error):
            raise InputError(f"{file}: cannot be read: {means}") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from error
        raise InputError(
            f"{file}: not a readable DICOM file ({one_line(error, 160)}); export it again"
        ) from error


def header(file: Path) -> FileDataset:
    """All that stands before the pixels. To be called, and looked into, within `reading`."""
    with _File(FileIO(file)) as stream:
        try:
            return dcmread(stream, stop_before_pixels=True, force=True)  # force: without preamble, too
        except _Deflated as found:
            return _inflated(file.read_bytes(), found.start, 0)


def whole_file(file: Path) -> FileDataset:
    """The file with its pixels, opened once. To be called, and looked into, within `reading`."""
    content = file.read_bytes()
    try:
        return dcmread(_Memory(content), force=True)
    except _Deflated as found:
        head = _inflated(content, found.start, 0)
        sizes = [max(0, whole(head, name) or 0) for name in ("Rows", "Columns", "BitsAllocated")]
        pixels = math.prod(sizes) // 8 * max(1, whole(head, "NumberOfFrames") or 1)
        return _inflated(content, found.start, pixels)


class _Deflated(Exception):
    """Everything from `start` on is packed, and could unpack to a thousand times as much."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


class _Bounded:
    """A stream for pydicom, which reads one to its end for no other reason than to unpack it.

    Every element and item takes a read or two, and 8 bytes of an item become 1.4 kB of objects.
    """

    reads = 0

    def read(self: Any, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise _Deflated(self.tell())
        self.reads += 1
        if self.reads > _MOST_READS:
            raise ValueError("its header has too many elements")
        return bytes(super().read(size))  # type: ignore[misc]


class _File(_Bounded, BufferedReader):
    pass


class _Memory(_Bounded, BytesIO):
    pass


def _inflated(content: bytes, start: int, pixels: int) -> FileDataset:
    """A deflated file, without its pixels where they have no bytes. Raises ValueError for more of them."""
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked = unpacking.decompress(content[start:], pixels + _DEFLATED_HEADER)
    if pixels and unpacking.unconsumed_tail:
        raise ValueError(f"it unpacks to more than the {pixels} bytes of pixels that its header names")
    if pixels and (not unpacking.eof or len(unpacking.unused_data) > 1):
        raise ValueError("what is packed ends too early")
    found = dcmread(_Memory(unpacked), stop_before_pixels=not pixels, force=True)
    found.file_meta = dcmread(BytesIO(content[:start]), force=True).file_meta
    return found


def values(holder: Dataset, keyword: str) -> list[Any]:
    """The values of an attribute: numbers of binary types, text of others; none where it is absent or empty."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in holder:
        return []
    element: Any = holder.get_item(tag)
    content = element.value
    if isinstance(content, bytes):
        content = content[:_LONGEST_VALUE]
    if isinstance(element, DataElement) or not isinstance(content, bytes):  # converted already
        several = [content] if isinstance(content, str) or not hasattr(content, "__iter__") else list(content)
        return [one for one in several if one is not None and one != ""]
    kind = element.VR if element.VR not in (None, "UN") else dictionary_VR(tag)
    if kind in _BINARY:
        dtype = np.dtype(_BINARY[kind]).newbyteorder("<" if element.is_little_endian else ">")
        return list(np.frombuffer(content, dtype, len(content) // dtype.itemsize).tolist())
    parts = [part.strip(" \0") for part in content.decode("latin-1").split("\\")]
    return parts if any(parts) else []


def text(holder: Dataset, keyword: str) -> str:
    """The first value in words, empty where there is none."""
    found = values(holder, keyword)
    return str(found[0]) if found else ""


def numbers(found: list[Any]) -> tuple[float, ...] | None:
    """Finite numbers, or None where a value is none, as after anonymising."""
    words = [str(one) for one in found]
    if not words or not all(_NUMBER.fullmatch(word) and math.isfinite(float(word)) for word in words):
        return None
    return tuple(float(word) for word in words)


def number(holder: Dataset, keyword: str) -> float | None:
    """The first value where it is a number."""
    found = numbers(values(holder, keyword)[:1])
    return found[0] if found else None


def whole(holder: Dataset, keyword: str) -> int | None:
    """The first value where it is a whole number."""
    found = number(holder, keyword)
    return int(found) if found is not None and found.is_integer() else None


def phrase(holder: Dataset, keyword: str) -> str:
    """A text for people, in the character set that the header names; signs that are none of it are replaced."""
    element = holder.get_item(keyword) if keyword in holder else None
    if element is None or not isinstance(element.value, bytes):
        return text(holder, keyword)
    sets = values(holder, "SpecificCharacterSet")
    encoding = python_encoding.get(sets[-1] if sets else "", "latin-1")
    return _ESCAPE.sub("", element.value.decode(encoding, "replace")).strip(" \0")


def identity(head: Any) -> str:
    """The SOPInstanceUID, of the file's own header where anonymising has emptied that of the image."""
    return text(head, "SOPInstanceUID") or text(head.file_meta, "MediaStorageSOPInstanceUID")
