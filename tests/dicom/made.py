"""Small DICOM series, valid unless a test spoils them: images as data sets, a multi-frame form, and files."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def oblique(seed: int) -> NDArray[np.float64]:
    """Two perpendicular directions (2, 3), anywhere in space."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turn[:2]


def image(pixels: NDArray[Any], position: Any, orientation: Any, spacing: Any, **attributes: Any) -> Dataset:
    """One CT image of these pixels (rows, columns); attributes of None are taken away."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.Modality, made.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.ImagePositionPatient = [f"{value:.10g}" for value in np.asarray(position)]
    made.ImageOrientationPatient = [f"{value:.10g}" for value in np.ravel(orientation)]
    made.PixelSpacing = list(spacing)
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.add_new("PixelData", "OW", pixels.tobytes())
    for name, value in attributes.items():
        if value is None:
            made.pop(name, None)
        else:
            setattr(made, name, value)
    return made


def images(
    count: int = 5,
    shape: tuple[int, int] = (6, 8),
    orientation: Any = AXIAL,
    spacing: tuple[float, float] = (0.7, 0.9),
    step: Any = None,
    origin: Any = (-20.0, 15.0, 100.0),
    seed: int = 0,
    dtype: Any = np.uint16,
    **attributes: Any,
) -> list[Dataset]:
    """A series of `count` images, `step` (3,) apart: 3 mm along the normal unless told otherwise."""
    orientation = np.asarray(orientation)
    step = np.cross(*orientation) * 3 if step is None else np.asarray(step)
    pixels = np.random.default_rng(seed).integers(0, 4000, (count, *shape)).astype(dtype)
    shared = {"SeriesInstanceUID": generate_uid(), "SeriesNumber": 4, "SeriesDescription": "ABD"} | attributes
    return [
        image(pixels[k], np.asarray(origin) + k * step, orientation, spacing, InstanceNumber=k + 1, **shared)
        for k in range(count)
    ]


def multi_frame(frames: list[Dataset], in_shared: bool = True) -> Dataset:
    """The same images as one enhanced MR object; what they share stands once or at every frame."""
    first = frames[0]
    made = deepcopy(first)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = EnhancedMRImageStorage, generate_uid(), "MR"
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(made, name)
    del made.RescaleIntercept
    made.NumberOfFrames = len(frames)
    made.PixelData = b"".join(frame.PixelData for frame in frames)
    made.SharedFunctionalGroupsSequence = Sequence([_plane(first) if in_shared else Dataset()])
    made.PerFrameFunctionalGroupsSequence = Sequence(_own(frame, in_shared) for frame in frames)
    return made


def write(folder: Path, made: list[Dataset], reverse: bool = False) -> list[Path]:
    """One file each, without suffix, named in the order of the images or against it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, one in enumerate(made):
        file = folder / f"IM{len(made) - index if reverse else index + 1:03d}"
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def hounsfield(made: list[Dataset]) -> NDArray[np.float64]:
    """What the voxels (X, Y, Z) of these native images must be, by the formula of the standard."""
    kind = {0: "u", 1: "i"}[made[0].PixelRepresentation]
    dtype = np.dtype(f"{kind}{made[0].BitsAllocated // 8}")
    planes = [
        np.frombuffer(one.PixelData, dtype).reshape(one.Rows, one.Columns) * float(one.RescaleSlope)
        + float(one.RescaleIntercept)
        for one in made
    ]
    return np.stack(planes).transpose(2, 1, 0)


def _plane(frame: Dataset) -> Dataset:
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = frame.ImageOrientationPatient
    measures.PixelSpacing = frame.PixelSpacing
    made = Dataset()
    made.PlaneOrientationSequence, made.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    return made


def _own(frame: Dataset, in_shared: bool) -> Dataset:
    made = Dataset() if in_shared else _plane(frame)
    position, values = Dataset(), Dataset()
    position.ImagePositionPatient = frame.ImagePositionPatient
    values.RescaleSlope, values.RescaleIntercept = frame.RescaleSlope, frame.RescaleIntercept
    made.PlanePositionSequence = Sequence([position])
    made.PixelValueTransformationSequence = Sequence([values])
    return made


def bare(file: Path) -> None:
    """Take preamble and meta information from a file, as old scanners leave them out."""
    content = file.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    file.write_bytes(content[144 + length :])


def as_words(files: list[Path], tag: tuple[int, int], kind: str, value: bytes) -> None:
    """Write bytes where an attribute of every file is, whatever its type allows."""
    for file in files:
        read = dcmread(file)
        with config.disable_value_validation():
            read._dict[Tag(tag)] = RawDataElement(Tag(tag), kind, len(value), value, 0, False, True, True)
            read.save_as(file)
