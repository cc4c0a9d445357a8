"""Label maps as DICOM segmentations (SEG) that point, frame by frame, at the images they are of.

One binary segment per class but the background; a segment's number is its class id. Nothing is
drawn at random or taken from the clock: identifiers follow from the source and the labels, dates
are the source's own, so the same labels give the same bytes. What the source lacks is left empty
where DICOM allows that (type 2), and is an InputError where it does not.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DA, TM, format_number_as_ds

from dsnet_med import __version__
from dsnet_med.dicom.frames import Frame, frames_of
from dsnet_med.dicom.header import header, reading, whole
from dsnet_med.dicom.header import number as value
from dsnet_med.dicom.read import DicomVolume, SourceSlice
from dsnet_med.errors import InputError, one_line
from dsnet_med.files import written_whole
from dsnet_med.organs import organ_of

_ONE_FOR_ALL = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
_ONE_EACH = ("SOPClassUID", "SOPInstanceUID")
_MAY_BE_EMPTY = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName")
_EMPTY_UNLESS_VALID: dict[str, Callable[[str], Any]] = {
    "PatientBirthDate": DA,
    "PatientSex": hd.PatientSexValues,
    "StudyDate": DA,
    "StudyTime": TM,
}
_DATES = ("ContentDate", "SeriesDate", "StudyDate")
_NO_DATE, _NO_TIME = "19700101", "000000"  # a segmentation must have them, and the source has none
_LONGEST_TEXT = 64  # of DICOM's type LO
_LAST_SERIES = 2**31 - 1


def write_segmentation(
    path: Path,
    labels: NDArray[np.unsignedinteger[Any]],
    source: DicomVolume,
    class_names: Sequence[str],
    algorithm: tuple[str, str],
) -> None:
    """Write class ids (X, Y, Z) on the grid of `source` as a DICOM segmentation of its series.

    `class_names[0]` is the background; `algorithm` is (name, version). Frames without a voxel of
    their class are left out; a map without any foreground gets one empty frame per class. A gantry
    tilt is kept, frame by frame: viewers that show segments on their images follow it, those that
    stack frames to a box may not. Written whole or not at all.

    Raises InputError for labels that do not fit the source or the class names, for a source that
    lacks what every segmentation must repeat, and when the file cannot be written.
    """
    planes = _planes(labels, source, class_names)
    with _building(source):
        headers = _headers(source)
        _require_references(source, headers)
        uids = _Uids(planes, headers.values(), class_names, algorithm)
        segments = list(_segments(class_names, algorithm, uids))
        built = _built(planes, source, headers, segments=segments, uids=uids, algorithm=algorithm)
        with written_whole(path) as temporary:
            built.save_as(temporary, enforce_file_format=True)


@contextmanager
def _building(source: DicomVolume) -> Iterator[None]:
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


class _Uids:
    """Identifiers that follow from what is written, so that writing it again changes no byte."""

    def __init__(self, planes: NDArray[Any], images: Iterable[Dataset], *names: object) -> None:
        of_images = [(str(image.SeriesInstanceUID), str(image.SOPInstanceUID)) for image in images]
        content = hashlib.sha256(json.dumps([of_images, planes.shape, *names]).encode())
        content.update(planes.data)
        self.digest = content.hexdigest()

    def of(self, what: str) -> UID:
        """The identifier of one thing in the file."""
        return generate_uid(entropy_srcs=[self.digest, what])


# ---------------------------------------------------------------- what is written


def _planes(labels: NDArray[Any], source: DicomVolume, class_names: Sequence[str]) -> NDArray[Any]:
    """The labels (X, Y, Z) as pictures (Z, Y, X), in the smallest type for all class ids."""
    if labels.shape != source.shape:
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
    return np.ascontiguousarray(labels.transpose(2, 1, 0), dtype=dtype)


def _segments(
    class_names: Sequence[str], algorithm: tuple[str, str], uids: _Uids
) -> Iterator[hd.seg.SegmentDescription]:
    name, version = (_text(part) for part in algorithm)
    if not name or not version:
        raise InputError(f"algorithm {algorithm}: wanted a name and a version, neither empty")
    family = codes.DCM.ArtificialIntelligence
    identification = hd.AlgorithmIdentificationSequence(name=name, family=family, version=version)
    for number, organ in enumerate(map(organ_of, class_names[1:]), start=1):
        label = _text(organ.label) or f"Class {number}"
        segment = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=hd.sr.CodedConcept(*organ.category),
            segmented_property_type=hd.sr.CodedConcept(*organ.type),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
            tracking_uid=uids.of(f"segment {number}"),
            tracking_id=f"{label} {uids.digest[:16]}",
            display_color=hd.color.CIELabColor.from_rgb(*organ.colour),
        )
        if organ.modifier is not None:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(*organ.modifier)]
        yield segment


def _text(text: str) -> str:
    """Text that fits DICOM's type LO: one line, no backslash, not too long."""
    return one_line(text.replace("\\", "/"), _LONGEST_TEXT).strip()


def _built(
    planes: NDArray[Any],
    source: DicomVolume,
    headers: dict[Path, Dataset],
    *,
    segments: list[hd.seg.SegmentDescription],
    uids: _Uids,
    algorithm: tuple[str, str],
) -> hd.seg.Segmentation:
    found = bool(planes.any())
    slices = source.slices if found else source.slices[:1]  # without a frame it would be no image
    images, first = _images(slices, headers, source.affine)
    date, time = _moment(first)
    name, first.PatientName = first.PatientName, ""  # highdicom has opinions on names
    number = max(0, whole(first, "SeriesNumber") or 0) + 1000  # behind the scanner's own series
    built = hd.seg.Segmentation(
        source_images=images,
        pixel_array=planes[: len(slices)],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=uids.of("series"),
        series_number=number if number <= _LAST_SERIES else 1000,
        sop_instance_uid=uids.of("instance"),
        instance_number=1,
        manufacturer="dsnet-med",
        manufacturer_model_name=_text(algorithm[0]),
        software_versions=__version__,
        device_serial_number="none",  # must be there, and software has none
        series_description=_text(f"Segmentation by {algorithm[0]}"),
        content_label="SEGMENTATION",
        content_description=_text(f"Segmentation by {algorithm[0]}, version {algorithm[1]}"),
        content_date=date,
        content_time=time,
        specific_character_set="ISO_IR 192",  # UTF-8, for every name of the source and every class
        omit_empty_frames=found,
    )
    built.PatientName = name
    _refer(built, slices, headers)
    _make_repeatable(built, uids)
    return built


def _moment(image: Dataset) -> tuple[str, str]:
    """Date and time of the content: the source's own, for the clock's would differ by run."""
    for keyword in _DATES:
        date, time = image.get(keyword), image.get(keyword.replace("Date", "Time"))
        if date and _is_valid(date, DA):
            return str(date), str(time) if time and _is_valid(time, TM) else _NO_TIME
    return _NO_DATE, _NO_TIME


def _refer(built: hd.seg.Segmentation, slices: Sequence[SourceSlice], headers: dict[Path, Dataset]) -> None:
    """Name every image of the series as a source, and of multi-frame files the slices' frames."""
    named = [Dataset() for _ in headers]
    for reference, image in zip(named, headers.values(), strict=True):
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    built.SourceImageSequence = named
    built.ReferencedSeriesSequence[0].ReferencedInstanceSequence = named
    derivations = (frame.DerivationImageSequence[0] for frame in built.PerFrameFunctionalGroupsSequence)
    sources = (item for derivation in derivations for item in derivation.SourceImageSequence)
    # One slice's item is shared by its frames of all classes, and must be changed once.
    for item in {id(item): item for item in sources if "ReferencedFrameNumber" in item}.values():
        place = slices[int(item.ReferencedFrameNumber) - 1]
        item.ReferencedSOPInstanceUID = headers[place.file].SOPInstanceUID
        item.ReferencedFrameNumber = place.frame or 1


def _make_repeatable(built: hd.seg.Segmentation, uids: _Uids) -> None:
    """Replace what highdicom drew at random; remove the (optional) times it took from the clock."""
    for item in (*built.DimensionOrganizationSequence, *built.DimensionIndexSequence):
        item.DimensionOrganizationUID = uids.of("dimensions")
    del built.InstanceCreationDate, built.InstanceCreationTime
    del built.ContributingEquipmentSequence[-1].ContributionDateTime  # highdicom's own entry


# ---------------------------------------------------------------- the source


def _headers(source: DicomVolume) -> dict[Path, Dataset]:
    headers: dict[Path, Dataset] = {}
    for file in dict.fromkeys(place.file for place in source.slices):
        with reading(file):
            headers[file] = header(file)
    return headers


def _require_references(source: DicomVolume, headers: dict[Path, Dataset]) -> None:
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


def _images(
    slices: Sequence[SourceSlice], headers: dict[Path, Dataset], affine: NDArray[np.float64]
) -> tuple[list[Dataset], Dataset]:
    """The images of these slices, as highdicom takes them, and the first, which tells the patient."""
    first = headers[slices[0].file]
    _complete(first)
    by_file = {file: frames_of(file) for file in dict.fromkeys(place.file for place in slices)}
    frames = [by_file[place.file][(place.frame or 1) - 1] for place in slices]
    normal = np.cross(*frames[0].orientation)
    step_lps = affine[:3, 2] * (-1, -1, 1)
    apart = format_number_as_ds(round(abs(float(normal @ step_lps)), 6))
    if slices[0].frame is not None or _is_of_many_frames(first):
        _gather(first, frames, apart)
        return [first], first
    for place in slices:
        for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            headers[place.file].pop(groups, None)  # empty, and no part of an image of one frame
        # Headers may differ in the last digit, which the reader allows and highdicom does not.
        headers[place.file].ImageOrientationPatient = first.ImageOrientationPatient
    first.SpacingBetweenSlices = apart  # what positions say; headers are often wrong
    if not value(first, "SliceThickness"):
        first.SliceThickness = apart
    return [headers[place.file] for place in slices], first


def _is_of_many_frames(image: Dataset) -> bool:
    """Whether images of this kind have frames, be it one."""
    return any(word in image.SOPClassUID.name for word in ("Enhanced", "Multi-frame", "3D", "Tomosynthesis"))


def _gather(image: Dataset, frames: Sequence[Frame], apart: str) -> None:
    """Turn a multi-frame header into that of these frames alone, in their order, of any file."""
    shared = Dataset()
    shared.PlaneOrientationSequence = hd.PlaneOrientationSequence(
        "PATIENT", list(frames[0].orientation.ravel())
    )
    shared.PixelMeasuresSequence = hd.PixelMeasuresSequence(
        pixel_spacing=frames[0].spacing,
        slice_thickness=_thickness(image, frames[0].number) or float(apart),
        spacing_between_slices=float(apart),
    )
    image.SharedFunctionalGroupsSequence = [shared]
    each = []
    for frame in frames:
        group = Dataset()
        group.PlanePositionSequence = hd.PlanePositionSequence("PATIENT", frame.position.tolist())
        each.append(group)
    image.PerFrameFunctionalGroupsSequence = each
    image.NumberOfFrames = len(frames)


def _thickness(image: Dataset, number: int | None) -> float:
    """The SliceThickness of a frame of a multi-frame image in millimetres, else 0."""
    index = (number or 1) - 1
    each = list(image.get("PerFrameFunctionalGroupsSequence") or ())[index : index + 1]
    for groups in (*each, *(image.get("SharedFunctionalGroupsSequence") or ())):
        for measures in groups.get("PixelMeasuresSequence") or ():
            if (thickness := value(measures, "SliceThickness")) and thickness > 0:
                return thickness
    return 0.0


def _complete(image: Dataset) -> None:
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
    except (TypeError, ValueError):
        return False
