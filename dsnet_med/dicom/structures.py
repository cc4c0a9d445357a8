"""Label maps as DICOM structure sets (RTSTRUCT): closed contours on the images of a series.

Contours are made here: of the packages that write structure sets, rt-utils had its last release in January 2023
and exchanges the two sizes of pixels that are not square, and pydicomrt drops what is small; both need OpenCV.

A contour runs between the centres of the voxels of a class and of those around it, a hundredth of a voxel
nearer to its own. So all voxels of a class, and no others, are inside both for readers that take the centres of
voxels (Slicer, plastimatch, `evaluate`) and for those that round contours to voxels (rt-utils). A hole is a
contour of its own, and counts by the rule that an even number of contours around a voxel leaves it out.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ImplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

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
from dsnet_med.dicom.read import DicomVolume, SourceSlice
from dsnet_med.files import written_whole
from dsnet_med.geometry import LPS_TO_RAS, spacing_mm
from dsnet_med.organs import Code, Organ, organ_of

_LEVEL = 0.51  # between a voxel of the class, 1, and one around it, 0
_CONTOUR_DATA = Tag("ContourData")
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # what the study's UID is referenced as
_REPEATED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


def write_structures(
    path: Path,
    labels: NDArray[np.unsignedinteger[Any]],
    source: DicomVolume,
    class_names: Sequence[str],
    algorithm: tuple[str, str],
) -> None:
    """Write class ids (X, Y, Z) on the grid of `source` as a structure set of its series.

    One structure per class but the background, with the class id as its number; a class without voxels has no
    contour. Those that may overlap are (R, X, Y, Z), number i + 1 alone in the i-th.

    `algorithm` is (name, version). Raises InputError as `write_segmentation`.
    """
    planes = planes_of(labels, source, class_names)
    with building(source):
        headers = headers_of(source)
        require_references(source, headers)
        uids = Uids(planes, headers.values(), class_names, algorithm, "RTSTRUCT")
        built = _about(source, headers, uids, algorithm)
        organs = dict(enumerate(map(organ_of, class_names[1:]), start=1))
        contours: dict[int, list[Dataset]] = {}
        for layer in planes if planes.ndim == 4 else [planes]:
            contours |= _contours(layer, source, headers)
        frame_of_reference = next(iter(headers.values())).FrameOfReferenceUID
        built.StructureSetROISequence = [_structure(n, organs[n], frame_of_reference) for n in organs]
        built.ROIContourSequence = [_drawn(n, organs[n], contours.get(n, [])) for n in organs]
        built.RTROIObservationsSequence = [_observed(n, organs[n]) for n in organs]
        with written_whole(path) as temporary:
            built.save_as(temporary, enforce_file_format=True)


def _about(
    source: DicomVolume, headers: dict[Path, Dataset], uids: Uids, algorithm: tuple[str, str]
) -> FileDataset:
    """All but the structures: whose images they are of, and what made them."""
    first = headers[source.slices[0].file]
    complete(first)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # whose values may be longer than 65,534 bytes
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, uids.of("instance")
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    built = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    built.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, for every name of the source and every class
    built.SOPClassUID, built.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for keyword in _REPEATED:
        setattr(built, keyword, first.get(keyword, ""))
    built.Modality, built.SeriesInstanceUID = "RTSTRUCT", uids.of("series")
    built.SeriesNumber = series_number(first)
    built.SeriesDescription = short_text(f"Structures by {algorithm[0]}")
    built.OperatorsName, built.InstanceNumber = "", 1
    built.Manufacturer, built.ManufacturerModelName = "dsnet-med", short_text(algorithm[0])
    built.SoftwareVersions, built.ApprovalStatus = __version__, "UNAPPROVED"
    built.FrameOfReferenceUID, built.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    built.StructureSetLabel = "SEGMENTATION"
    built.StructureSetDescription = f"{algorithm[0]}, version {algorithm[1]}"[:1024]
    built.StructureSetDate, built.StructureSetTime = moment(first)
    series, study, space = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_reference(headers, place) for place in source.slices]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_MANAGEMENT, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    space.FrameOfReferenceUID, space.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    built.ReferencedFrameOfReferenceSequence = [space]
    return built


def _reference(headers: dict[Path, Dataset], place: SourceSlice) -> Dataset:
    """The image of a slice, as contours name it."""
    image, named = headers[place.file], Dataset()
    named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if place.frame is not None:
        named.ReferencedFrameNumber = place.frame
    return named


def _structure(number: int, organ: Organ, frame_of_reference: str) -> Dataset:
    made = Dataset()
    made.ROINumber, made.ROIName = number, short_text(organ.label) or f"Class {number}"
    made.ReferencedFrameOfReferenceUID = frame_of_reference
    made.ROIGenerationAlgorithm = "AUTOMATIC"
    return made


def _drawn(number: int, organ: Organ, contours: list[Dataset]) -> Dataset:
    made = Dataset()
    made.ReferencedROINumber, made.ROIDisplayColor = number, list(organ.colour)
    if contours:
        made.ContourSequence = contours
    return made


def _observed(number: int, organ: Organ) -> Dataset:
    made, kind = Dataset(), _coded(organ.type)
    if organ.modifier is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(organ.modifier)]
    made.ObservationNumber = made.ReferencedROINumber = number
    made.RTROIIdentificationCodeSequence = [kind]
    made.RTROIInterpretedType, made.ROIInterpreter = "ORGAN" if organ.is_anatomy else "", ""
    return made


def _coded(code: Code) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = code
    return made


# ---------------------------------------------------------------- contours


def _contours(
    planes: NDArray[Any], source: DicomVolume, headers: dict[Path, Dataset]
) -> dict[int, list[Dataset]]:
    """The contours of each class, slice by slice."""
    to_lps = LPS_TO_RAS @ source.affine
    digits = min(8, max(4, 3 + math.ceil(-math.log10(min(spacing_mm(source.affine))))))
    found: dict[int, list[Dataset]] = {}
    for index, (plane, place) in enumerate(zip(planes, source.slices, strict=True)):
        for number, points in polygons(plane):
            voxels = np.column_stack([points, np.full(len(points), index), np.ones(len(points))])
            contour = _contour((voxels @ to_lps.T)[:, :3], digits)
            contour.ContourImageSequence = [_reference(headers, place)]
            found.setdefault(number, []).append(contour)
    return found


def _contour(points: NDArray[np.float64], digits: int) -> Dataset:
    """A closed contour through these points (N, 3) of the patient, in millimetres."""
    made = Dataset()
    made.ContourGeometricType, made.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    words = "\\".join(f"{value:.{digits}f}" for value in points.ravel().tolist())
    # In the form that it is written in: of a million numbers pydicom would make an object each.
    made[_CONTOUR_DATA] = DataElement(_CONTOUR_DATA, "DS", words, already_converted=True)
    return made


def polygons(plane: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The outlines of each value but 0 in a picture (rows, columns), with points (N, 2) as column and row.

    The outline of a hole is one of its own. The last point leads to the first, which is not repeated.
    """
    for number, box in enumerate(ndimage.find_objects(plane), start=1):
        if box is None:
            continue
        inside = np.pad((plane[box] == number).astype(np.float64), 1)
        corner = np.array([box[1].start - 1, box[0].start - 1], np.float64)
        for line in contour_generator(z=inside, line_type="Separate").lines(_LEVEL):
            yield number, _turns(np.asarray(line, np.float64)[:-1]) + corner


def _turns(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points of a closed line at which it turns."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turning = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return points[turning]
