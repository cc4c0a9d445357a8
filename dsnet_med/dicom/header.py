"""The header of a DICOM file: its attributes as their bytes have them, and errors that name the file.

pydicom would convert and judge each value on the way, with warnings for the whole process and exceptions for a
word such as REMOVED in a number that nobody needs. Here what is no number is absent; no logger, warning or
setting of the process is touched, for another thread would see it.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset, FileDataset, dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dsnet_med.errors import InputError, one_line

_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ESCAPE = re.compile(r"\x1b[^A-Za-z]*[A-Za-z]")  # of character sets that change within a text


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Reads from `file` in here raise nothing but InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # pydicom has no one type for what it cannot read
        raise InputError(
            f"{file}: not a readable DICOM file ({one_line(error, 160)}); export it again"
        ) from error


def header(file: Path) -> FileDataset:
    """All that stands before the pixels. To be called, and looked into, within `reading`."""
    return dcmread(file, stop_before_pixels=True, force=True)  # force: without preamble, too


def values(holder: Dataset, keyword: str) -> list[Any]:
    """The values of an attribute: numbers of binary types, text of others; none where it is absent or empty."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in holder:
        return []
    element: Any = holder.get_item(tag)
    content = element.value
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
