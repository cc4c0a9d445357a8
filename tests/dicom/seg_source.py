"""Small DICOM series in any position, as files and as the volumes that they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian
from scipy.spatial.transform import Rotation

from dsnet_med.dicom.read import DicomVolume, SourceSlice

SHAPE = (7, 6, 5)  # columns, rows, slices
SPACING = (0.75, 0.5, 3.0)  # between columns, between rows, between slices
ORIGIN = (-12.5, 30.25, 101.5)
TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


def placed(row: Sequence[float], column: Sequence[float], step: Sequence[float] | None = None) -> NDArray:
    """The affine (4, 4), in DICOM's LPS+, of slices in these directions; `step` leads from one to the next."""
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = np.multiply(row, SPACING[0]), np.multiply(column, SPACING[1])
    affine[:3, 2] = np.multiply(np.cross(row, column), SPACING[2]) if step is None else step
    affine[:3, 3] = ORIGIN
    return affine


OBLIQUE = Rotation.from_euler("xyz", (11, -23, 5), degrees=True).as_matrix()
PLACES = {
    "axial": placed((1, 0, 0), (0, 1, 0)),
    "sagittal": placed((0, 1, 0), (0, 0, -1)),
    "coronal": placed((1, 0, 0), (0, 0, -1)),
    "oblique": placed(OBLIQUE[0], OBLIQUE[1]),
    "reversed slices": placed((1, 0, 0), (0, 1, 0), (0, 0, -3)),
    "seen from above": placed((-1, 0, 0), (0, 1, 0)),
    "tilted gantry": placed((1, 0, 0), (0, 1, 0), (0, 0.8, 3)),
}


def header(uid: str, kind: str = CTImageStorage) -> FileDataset:
    """What every image of the series says, but for its place."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, uid
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = kind, uid
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName, image.PatientID, image.PatientSex = "Müller^Jörg", "P-17", "M"
    image.PatientBirthDate, image.PatientAge = "19500102", "056Y"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "7", "A1", "Døe^Ann"
    image.StudyDate, image.StudyTime = "20060203", "101112"
    image.SeriesDate, image.SeriesTime = "20060203", "101500"
    image.Modality, image.Manufacturer, image.SeriesNumber = "CT", "Scanner & Söhne", 4
    image.Columns, image.Rows = SHAPE[:2]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    return image


def pixels(count: int = 1) -> bytes:
    """So many empty images."""
    return np.zeros((count, SHAPE[1], SHAPE[0]), np.uint16).tobytes()


def numbers(values: Sequence[float]) -> list[str]:
    """Decimal strings of the length that DICOM allows."""
    return [pydicom.valuerep.format_number_as_ds(float(value)) for value in values]


def volume(path: Path, slices: Sequence[SourceSlice], lps: NDArray) -> DicomVolume:
    """The volume of slices in this order; its voxels are not looked at."""
    shape = (SHAPE[0], SHAPE[1], len(slices))
    voxels = np.broadcast_to(np.int16(0), shape)
    affine = TO_RAS @ lps
    return DicomVolume(path=path, shape=shape, affine=affine, header=None, voxels=voxels, slices=tuple(slices))


def single_frames(folder: Path, lps: NDArray, count: int = SHAPE[2]) -> DicomVolume:
    """A series of one file per slice; the files' names do not follow the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = []
    for k in range(count):
        image = header(f"1.2.3.4.{k + 1}")
        image.ImageOrientationPatient = numbers([*lps[:3, 0] / SPACING[0], *lps[:3, 1] / SPACING[1]])
        image.ImagePositionPatient = numbers(lps[:3, 3] + k * lps[:3, 2])
        image.PixelSpacing = numbers([SPACING[1], SPACING[0]])
        image.SliceThickness, image.InstanceNumber = 2, k + 1
        image.PixelData = pixels()
        slices.append(SourceSlice(folder / f"{(k * 3) % 5}{k}.dcm", None))
        image.save_as(slices[-1].file, enforce_file_format=True)
    return volume(folder, slices, lps)


def multi_frame(file: Path, lps: NDArray, order: Sequence[int], uid: str = "1.2.3.4.1") -> DicomVolume:
    """One file whose n-th frame is slice `order[n]`; orientation and spacing lie in the frames' own groups."""
    image = header(uid, EnhancedCTImageStorage)
    image.NumberOfFrames, image.PixelData = len(order), pixels(len(order))
    image.SharedFunctionalGroupsSequence = [Dataset()]
    image.PerFrameFunctionalGroupsSequence = [_frame(lps, k) for k in order]
    image.save_as(file, enforce_file_format=True)
    slices = {k: SourceSlice(file, n + 1) for n, k in enumerate(order)}
    return volume(file, [slices[k] for k in sorted(slices)], lps)


def _frame(lps: NDArray, k: int) -> Dataset:
    position, orientation, measures, group = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = numbers(lps[:3, 3] + k * lps[:3, 2])
    orientation.ImageOrientationPatient = numbers([*lps[:3, 0] / SPACING[0], *lps[:3, 1] / SPACING[1]])
    measures.PixelSpacing, measures.SliceThickness = numbers([SPACING[1], SPACING[0]]), 2
    measures.SpacingBetweenSlices = 2.5  # wrong, as headers often are
    group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
    group.PixelMeasuresSequence = [measures]
    return group


def change(source: DicomVolume, edit) -> None:
    """Apply `edit(header, slice index)` to every file of a series."""
    for k, place in enumerate(source.slices):
        image = pydicom.dcmread(place.file)
        edit(image, k)
        image.save_as(place.file)
