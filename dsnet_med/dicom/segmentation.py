"""Label maps as DICOM segmentations (SEG) that point, frame by frame, at the images they are of.

One segment per class but the background; a segment's number is its class id. A binary segmentation, which every
viewer reads, has a frame for each class of a slice; a label map, of DICOM's edition of 2024, one for a slice.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import format_number_as_ds

from dsnet_med import __version__
from dsnet_med.dicom.derived import (
    Uids,
    building,
    complete,
    headers_of,
    moment,
    planes_of,
    require_references,
    series_number,
    short_text,
)
from dsnet_med.dicom.frames import Frame, frames_of
from dsnet_med.dicom.header import number as value
from dsnet_med.dicom.read import DicomVolume, SourceSlice
from dsnet_med.errors import InputError
from dsnet_med.files import written_whole
from dsnet_med.organs import organ_of

Kind = Literal["BINARY", "LABELMAP"]


def write_segmentation(
    path: Path,
    labels: NDArray[np.unsignedinteger[Any]],
    source: DicomVolume,
    class_names: Sequence[str],
    algorithm: tuple[str, str],
    *,
    kind: Kind = "BINARY",
) -> None:
    """Write class ids (X, Y, Z) on the grid of `source` as a DICOM segmentation of its series.

    `class_names[0]` is the background; `algorithm` is (name, version). Segments that may overlap are
    (R, X, Y, Z), number i + 1 alone in the i-th, which a label map cannot hold. Frames without a voxel of
    their class are left out; a map without any foreground gets one empty frame per class. A gantry
    tilt is kept, frame by frame: viewers that show segments on their images follow it, those that
    stack frames to a box may not. Written whole or not at all.

    Raises InputError for labels that do not fit the source or the class names, for a source that
    lacks what every segmentation must repeat, and when the file cannot be written.
    """
    planes = planes_of(labels, source, class_names)
    if planes.ndim == 4:  # a picture for each segment
        if kind == "LABELMAP":
            raise InputError(f"{source.path}: a DICOM label map holds no segments that overlap; use dicom-seg")
        planes = np.ascontiguousarray(np.moveaxis(planes > 0, 0, -1), np.uint8)
    with building(source):
        headers = headers_of(source)
        require_references(source, headers)
        names = (class_names, algorithm) if kind == "BINARY" else (class_names, algorithm, kind)
        uids = Uids(planes, headers.values(), *names)
        segments = list(_segments(class_names, algorithm, uids))
        built = _built(planes, source, headers, segments=segments, uids=uids, algorithm=algorithm, kind=kind)
        with written_whole(path) as temporary:
            built.save_as(temporary, enforce_file_format=True)


# ---------------------------------------------------------------- what is written


def _segments(
    class_names: Sequence[str], algorithm: tuple[str, str], uids: Uids
) -> Iterator[hd.seg.SegmentDescription]:
    name, version = (short_text(part) for part in algorithm)
    if not name or not version:
        raise InputError(f"algorithm {algorithm}: wanted a name and a version, neither empty")
    family = codes.DCM.ArtificialIntelligence
    identification = hd.AlgorithmIdentificationSequence(name=name, family=family, version=version)
    for number, organ in enumerate(map(organ_of, class_names[1:]), start=1):
        label = short_text(organ.label) or f"Class {number}"
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


def _built(
    planes: NDArray[Any],
    source: DicomVolume,
    headers: dict[Path, Dataset],
    *,
    segments: list[hd.seg.SegmentDescription],
    uids: Uids,
    algorithm: tuple[str, str],
    kind: Kind,
) -> hd.seg.Segmentation:
    found = bool(planes.any())
    slices = source.slices if found else source.slices[:1]  # without a frame it would be no image
    images, first = _images(slices, headers, source.affine)
    date, time = moment(first)
    name, first.PatientName = first.PatientName, ""  # highdicom has opinions on names
    built = hd.seg.Segmentation(
        source_images=images,
        pixel_array=planes[: len(slices)],
        segmentation_type=hd.seg.SegmentationTypeValues(kind),
        segment_descriptions=segments,
        series_instance_uid=uids.of("series"),
        series_number=series_number(first),
        sop_instance_uid=uids.of("instance"),
        instance_number=1,
        manufacturer="dsnet-med",
        manufacturer_model_name=short_text(algorithm[0]),
        software_versions=__version__,
        device_serial_number="none",  # must be there, and software has none
        series_description=short_text(f"Segmentation by {algorithm[0]}"),
        content_label="SEGMENTATION",
        content_description=short_text(f"Segmentation by {algorithm[0]}, version {algorithm[1]}"),
        content_date=date,
        content_time=time,
        specific_character_set="ISO_IR 192",  # UTF-8, for every name of the source and every class
        omit_empty_frames=found,
    )
    built.PatientName = name
    _refer(built, slices, headers)
    _make_repeatable(built, uids)
    return built


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


def _make_repeatable(built: hd.seg.Segmentation, uids: Uids) -> None:
    """Replace what highdicom drew at random; remove the (optional) times it took from the clock."""
    for item in (*built.DimensionOrganizationSequence, *built.DimensionIndexSequence):
        item.DimensionOrganizationUID = uids.of("dimensions")
    del built.InstanceCreationDate, built.InstanceCreationTime
    del built.ContributingEquipmentSequence[-1].ContributionDateTime  # highdicom's own entry


# ---------------------------------------------------------------- the source


def _images(
    slices: Sequence[SourceSlice], headers: dict[Path, Dataset], affine: NDArray[np.float64]
) -> tuple[list[Dataset], Dataset]:
    """The images of these slices, as highdicom takes them, and the first, which tells the patient."""
    first = headers[slices[0].file]
    complete(first)
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
