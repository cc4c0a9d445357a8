"""One record per image: one for a single-frame file, one per frame of any other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dsnet_med.dicom.boundary import header, reading
from dsnet_med.errors import InputError


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a series, as its header describes it, in DICOM's LPS+ millimetres.

    `number` counts the frames of a multi-frame file from 1. `shape` is (rows, columns), `position`
    (3,) the centre of the first pixel, `orientation` (2, 3) the directions along a row and along a
    column, `spacing` the distances between rows and between columns, `thickness` that to the next
    slice where the header says it. `order` sorts the images of one place, and `kind` is what the
    images of one volume share.
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

    def value(self, group: str, *keywords: str) -> Any:
        """The first of these attributes that is there, or None."""
        for holder in (*(item for one in self._groups for item in one.get(group) or ()), self.head):
            for keyword in keywords:
                found = holder.get(keyword)
                if found is not None and found != "":
                    return found
        return None

    def numbers(self, count: int, group: str, keyword: str) -> tuple[float, ...]:
        """So many finite numbers. Raises InputError."""
        found = self.value(group, keyword)
        if found is None:
            raise InputError(f"{self.where} has no {keyword}, wanted one; export it again")
        values = tuple(float(one) for one in ([found] if isinstance(found, str | int | float) else found))
        if len(values) != count or not all(math.isfinite(one) for one in values):
            raise InputError(
                f"{self.where} has {keyword} {list(values)}, wanted {count} finite numbers; export it again"
            )
        return values

    def number(self, group: str, keyword: str, default: float) -> float:
        """One finite number, or the default where there is none. Raises InputError."""
        if self.value(group, keyword) is None:
            return default
        return self.numbers(1, group, keyword)[0]


def frames_of(file: Path) -> list[Frame]:
    """The images of one file, from its header alone. Raises InputError."""
    with reading(file):
        head = header(file)
        each, shared = head.get("PerFrameFunctionalGroupsSequence"), head.get("SharedFunctionalGroupsSequence")
        count = int(head.get("NumberOfFrames") or 1)
        if not each:
            if count > 1:
                raise InputError(f"{file}: holds {count} frames without positions; split it first")
            return [_frame(file, _Fields(file, head, (), None), None)]
        if len(each) != count:
            raise InputError(f"{file}: names {count} frames and describes {len(each)}; export it again")
        numbers = range(1, count + 1)
        every = [_Fields(file, head, (own, *(shared or ())), n) for n, own in zip(numbers, each, strict=True)]
        return [_frame(file, fields, n) for n, fields in zip(numbers, every, strict=True)]


def _frame(file: Path, fields: _Fields, number: int | None) -> Frame:
    head = fields.head
    rows, columns = fields.numbers(2, "PixelMeasuresSequence", "PixelSpacing")
    directions = fields.numbers(6, "PlaneOrientationSequence", "ImageOrientationPatient")
    return Frame(
        file=file,
        number=number,
        uid=str(head.get("SOPInstanceUID") or ""),
        shape=(int(head.Rows), int(head.Columns)),
        position=np.array(fields.numbers(3, "PlanePositionSequence", "ImagePositionPatient")),
        orientation=np.reshape(directions, (2, 3)),
        spacing=(rows, columns),
        thickness=_thickness(fields),
        slope=fields.number("PixelValueTransformationSequence", "RescaleSlope", 1.0),
        intercept=fields.number("PixelValueTransformationSequence", "RescaleIntercept", 0.0),
        order=_order(fields, number),
        kind=_kind(fields),
        lossy=str(head.get("LossyImageCompression") or "") == "01",
    )


def _thickness(fields: _Fields) -> float | None:
    """The distance between slices, in millimetres; some writers leave it at zero or negative."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        size = fields.number("PixelMeasuresSequence", keyword, 0.0)
        if size > 0:
            return size
    return None


def _order(fields: _Fields, number: int | None) -> tuple[float, ...]:
    content = "FrameContentSequence"
    keys = (
        fields.value(content, "TemporalPositionIndex", "TemporalPositionIdentifier"),
        fields.value(content, "FrameAcquisitionNumber", "AcquisitionNumber"),
        fields.head.get("InstanceNumber"),
        number,
    )
    return tuple(float(key or 0) for key in keys)


def _kind(fields: _Fields) -> dict[str, str]:
    found = {
        "temporal position": fields.value(
            "FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"
        ),
        "image type": fields.value("MRImageFrameTypeSequence", "FrameType", "ImageType"),
        "echo time": fields.value("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
        "b-value": fields.value("MRDiffusionSequence", "DiffusionBValue"),
    }
    return {name: str(value) for name, value in found.items()}
