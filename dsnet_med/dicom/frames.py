"""One record per image: one for a single-frame file, one per frame of any other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dsnet_med.dicom.decoding import get_ready
from dsnet_med.dicom.header import header, identity, number, numbers, reading, text, values, whole
from dsnet_med.errors import InputError, one_line


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a series, as its header describes it, in DICOM's LPS+ millimetres.

    `number` counts the frames of a multi-frame file from 1. `shape` is (rows, columns), `position`
    (3,) the centre of the first pixel, `orientation` (2, 3) the directions along a row and along a
    column, `spacing` the distances between rows and between columns, `thickness` that to the next
    slice where the header says it. `order` sorts the images of one place, and `kind` is what the
    images of one volume share. `elsewhere`: another process decodes it.
    """

    file: Path
    number: int | None
    uid: str
    shape: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    order: tuple[float, ...]
    kind: dict[str, str]
    lossy: bool
    elsewhere: bool = False

    @property
    def name(self) -> str:
        """How messages name it: the file's name, with the frame's number where it has several."""
        return self.file.name if self.number is None else f"{self.file.name} frame {self.number}"


class _Fields:
    """The attributes of one image: its functional groups, the shared ones, then the header itself."""

    def __init__(self, file: Path, head: Dataset, groups: Sequence[Dataset], number: int | None) -> None:
        self.head = head
        self._groups = groups
        self.where = f"{file}" if number is None else f"{file}: frame {number}"

    def values(self, group: str, keyword: str) -> list[Any]:
        """Those of the first holder that has any."""
        for holder in (*(item for one in self._groups for item in one.get(group) or ()), self.head):
            if found := values(holder, keyword):
                return found
        return []

    def needed(self, count: int, group: str, keyword: str) -> tuple[float, ...]:
        """So many finite numbers. Raises InputError."""
        found = self.values(group, keyword)
        if not found:
            raise InputError(f"{self.where} has no {keyword}, wanted one; export it again")
        known = numbers(found)
        if known is None or len(known) != count:
            said = one_line("\\".join(str(one) for one in found), 60)
            raise InputError(
                f"{self.where} has {keyword} {said}, wanted {count} finite numbers; export it again"
            )
        return known

    def number(self, group: str, *keywords: str) -> float | None:
        """The first of these attributes that is there and a number."""
        for keyword in keywords:
            if found := numbers(self.values(group, keyword)[:1]):
                return found[0]
        return None

    def scale(self, keyword: str, default: float) -> float:
        """How stored values become real ones: a word there is no default. Raises InputError."""
        group = "PixelValueTransformationSequence"
        return self.needed(1, group, keyword)[0] if self.values(group, keyword) else default

    def words(self, group: str, *keywords: str) -> str:
        """The first of these attributes that is there."""
        return next(
            (
                one_line(", ".join(map(str, found)), 80)
                for word in keywords
                if (found := self.values(group, word))
            ),
            "",
        )


def frames_of(file: Path) -> list[Frame]:
    """The images of one file, from its header alone. Raises InputError."""
    with reading(file):
        head = header(file)
        each, shared = head.get("PerFrameFunctionalGroupsSequence"), head.get("SharedFunctionalGroupsSequence")
        count = whole(head, "NumberOfFrames") or 1
        elsewhere = get_ready(head.file_meta.get("TransferSyntaxUID"))
        if not each:
            if count > 1:
                raise InputError(f"{file}: holds {count} frames without positions; split it first")
            return [_frame(file, _Fields(file, head, (), None), None, elsewhere)]
        if len(each) != count:
            raise InputError(f"{file}: names {count} frames and describes {len(each)}; export it again")
        numbers = range(1, count + 1)
        every = [_Fields(file, head, (own, *(shared or ())), n) for n, own in zip(numbers, each, strict=True)]
        return [_frame(file, fields, n, elsewhere) for n, fields in zip(numbers, every, strict=True)]


def _frame(file: Path, fields: _Fields, number: int | None, elsewhere: bool) -> Frame:
    head = fields.head
    rows, columns = fields.needed(2, "PixelMeasuresSequence", "PixelSpacing")
    directions = fields.needed(6, "PlaneOrientationSequence", "ImageOrientationPatient")
    return Frame(
        file=file,
        number=number,
        uid=identity(head),
        shape=(_size(file, head, "Rows"), _size(file, head, "Columns")),
        position=np.array(fields.needed(3, "PlanePositionSequence", "ImagePositionPatient")),
        orientation=np.reshape(directions, (2, 3)),
        spacing=(rows, columns),
        thickness=_thickness(fields),
        slope=fields.scale("RescaleSlope", 1.0),
        intercept=fields.scale("RescaleIntercept", 0.0),
        order=_order(fields, number),
        kind=_kind(fields),
        lossy=text(head, "LossyImageCompression") == "01",
        elsewhere=elsewhere,
    )


def _size(file: Path, head: Dataset, keyword: str) -> int:
    size = whole(head, keyword)
    if size is None or size < 1:
        said = one_line(text(head, keyword), 60) or "no value"
        raise InputError(f"{file}: has {keyword} {said}, wanted a whole number above 0; export it again")
    return size


def _thickness(fields: _Fields) -> float | None:
    """The distance between slices, in millimetres; some writers leave it at zero or negative."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        size = fields.number("PixelMeasuresSequence", keyword)
        if size is not None and size > 0:
            return size
    return None


def _order(fields: _Fields, frame: int | None) -> tuple[float, ...]:
    content = "FrameContentSequence"
    keys = (
        fields.number(content, "TemporalPositionIndex", "TemporalPositionIdentifier"),
        fields.number(content, "FrameAcquisitionNumber", "AcquisitionNumber"),
        number(fields.head, "InstanceNumber"),
        frame,
    )
    return tuple(float(key or 0) for key in keys)


def _kind(fields: _Fields) -> dict[str, str]:
    return {
        "temporal position": fields.words(
            "FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"
        ),
        "image type": fields.words("MRImageFrameTypeSequence", "FrameType", "ImageType"),
        "echo time": fields.words("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
        "b-value": fields.words("MRDiffusionSequence", "DiffusionBValue"),
    }
