"""What every object derived from a DICOM series has in common: labels as pictures, references, identities.

Nothing is drawn at random or taken from the clock: identifiers follow from the source and the labels, dates are
the source's own, so the same labels give the same bytes. What the source lacks is left empty where DICOM allows
that (type 2), and is an InputError where it does not.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DA, TM

from dsnet_med.dicom.header import header, reading, whole
from dsnet_med.dicom.read import DicomVolume
from dsnet_med.errors import InputError, one_line

_ONE_FOR_ALL = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
_ONE_EACH = ("SOPClassUID", "SOPInstanceUID")
_MAY_BE_EMPTY = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName")
_EMPTY_UNLESS_VALID: dict[str, Callable[[str], Any]] = {
    "PatientBirthDate": DA,
    "PatientSex": {"M": 1, "F": 1, "O": 1}.__getitem__,
    "StudyDate": DA,
    "StudyTime": TM,
}
_DATES = ("ContentDate", "SeriesDate", "StudyDate")
_NO_DATE, _NO_TIME = "19700101", "000000"  # a segmentation must have them, and the source has none
_LONGEST_TEXT = 64  # of DICOM's type LO
_LAST_SERIES = 2**31 - 1


@contextmanager
def building(source: DicomVolume) -> Iterator[None]:
    """In here what pydicom and highdicom raise becomes an InputError."""
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom and highdicom have no one type for what they refuse
        raise InputError(
            f"{source.path}: cannot be the source of a DICOM segmentation "
            f"({type(error).__name__}: {one_line(error, 160)}); write NIfTI instead"
        ) from error


class Uids:
    """Identifiers that follow from what is written, so that writing it again changes no byte."""

    def __init__(self, planes: NDArray[Any], images: Iterable[Dataset], *names: object) -> None:
        of_images = [(str(image.SeriesInstanceUID), str(image.SOPInstanceUID)) for image in images]
        content = hashlib.sha256(json.dumps([of_images, planes.shape, *names]).encode())
        content.update(planes.data)
        self.digest = content.hexdigest()

    def of(self, what: str) -> UID:
        """The identifier of one thing in the file."""
        return generate_uid(entropy_srcs=[self.digest, what])


def planes_of(labels: NDArray[Any], source: DicomVolume, class_names: Sequence[str]) -> NDArray[Any]:
    """The labels (..., X, Y, Z) as pictures (..., Z, Y, X), in the smallest type for all class ids."""
    if labels.shape[-3:] != source.shape:
        raise InputError(
            f"{source.path}: label map of shape {labels.shape} for a series of shape "
            f"{source.shape}; a label map must lie on its series' grid"
        )
    if labels.dtype.kind != "u":
        raise InputError(f"{source.path}: label map of type {labels.dtype}, wanted unsigned integers")
    if len(class_names) < 2:
        raise InputError(f"{source.path}: class names {list(class_names)}, wanted background and one more")
    highest = int(labels.max())
    if highest >= len(class_names):
        raise InputError(
            f"{source.path}: label map holds class {highest}, and there are names for 0 to "
            f"{len(class_names) - 1}; give the class names of the model that made it"
        )
    dtype = np.uint8 if len(class_names) <= 256 else np.uint16
    return np.ascontiguousarray(labels.swapaxes(-1, -3), dtype=dtype)


def short_text(text: str) -> str:
    """Text that fits DICOM's type LO: one line, no backslash, not too long."""
    return one_line(text.replace("\\", "/"), _LONGEST_TEXT).strip()


def moment(image: Dataset) -> tuple[str, str]:
    """Date and time of the content: the source's own, for the clock's would differ by run."""
    for keyword in _DATES:
        date, time = image.get(keyword), image.get(keyword.replace("Date", "Time"))
        if date and _is_valid(date, DA):
            return str(date), str(time) if time and _is_valid(time, TM) else _NO_TIME
    return _NO_DATE, _NO_TIME


def series_number(image: Dataset) -> int:
    """Behind the scanner's own series."""
    number = max(0, whole(image, "SeriesNumber") or 0) + 1000
    return number if number <= _LAST_SERIES else 1000


def headers_of(source: DicomVolume) -> dict[Path, Dataset]:
    """The headers of the files of a series, in the order of its slices. Raises InputError."""
    headers: dict[Path, Dataset] = {}
    for file in dict.fromkeys(place.file for place in source.slices):
        with reading(file):
            headers[file] = header(file)
    return headers


def require_references(source: DicomVolume, headers: dict[Path, Dataset]) -> None:
    """Raise InputError unless the images have, and where due share, what must be repeated."""
    for keyword in (*_ONE_FOR_ALL, *_ONE_EACH):
        for file, image in headers.items():
            if not image.get(keyword):
                raise InputError(
                    f"{file}: has no {keyword}, which a DICOM segmentation must repeat; "
                    "export the series again, or write NIfTI instead"
                )
    for keyword in _ONE_FOR_ALL:
        values = sorted({str(image[keyword].value) for image in headers.values()})
        if len(values) > 1:
            raise InputError(
                f"{source.path}: its images differ in {keyword} ({one_line(', '.join(values[:3]), 99)}), "
                "wanted one for all; split the series first, or write NIfTI instead"
            )
    if len({image.SOPInstanceUID for image in headers.values()}) < len(headers):
        raise InputError(
            f"{source.path}: several of its images have one SOPInstanceUID, so a segmentation "
            "cannot point at them; export the series again, or write NIfTI instead"
        )


def complete(image: Dataset) -> None:
    """Leave empty what the source lacks or spells in a way of its own, where DICOM allows it."""
    _leave_out_unreadable(image)
    image.decode()  # what sequences hold would be copied as bytes of another character set
    for keyword in (*_MAY_BE_EMPTY, *_EMPTY_UNLESS_VALID):
        if image.get(keyword) is None:
            setattr(image, keyword, "")
    for keyword, kind in _EMPTY_UNLESS_VALID.items():
        if not _is_valid(image[keyword].value, kind):
            setattr(image, keyword, "")


def _leave_out_unreadable(image: Dataset) -> None:
    for tag in list(image.keys()):
        try:
            element = image[tag]
        except Exception:  # of no one type: damaged or private, and cannot be repeated
            del image[tag]
            continue
        for item in element.value or () if element.VR == "SQ" else ():
            _leave_out_unreadable(item)


def _is_valid(value: Any, kind: Callable[[str], Any]) -> bool:
    """Whether an empty value or one that `kind` accepts."""
    try:
        return value == "" or kind(value) is not None
    except (TypeError, ValueError, KeyError):
        return False
