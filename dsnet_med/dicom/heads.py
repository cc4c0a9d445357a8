"""What the header of one DICOM file says of its series and of itself, and why it can be no volume."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, FileDataset
from pydicom.uid import UID

from dsnet_med.dicom.header import header, identity, number, numbers, phrase, reading, text, values, whole
from dsnet_med.errors import InputError, one_line

Grid = tuple[object, ...]
_NO_IMAGE = {  # objects that hold nothing to be segmented, by their modality
    "SEG": "a segmentation",
    "RTSTRUCT": "a set of contours",
    "RTDOSE": "a dose distribution",
    "RTPLAN": "a treatment plan",
    "RTRECORD": "a treatment record",
    "SR": "a report",
    "DOC": "a document",
    "PR": "a presentation state",
    "KO": "a selection of images",
    "REG": "a registration",
    "FID": "a set of fiducials",
    "RWV": "a table of values",
    "M3D": "a surface model",
    "ANN": "a set of annotations",
}
_BOUNDS = {  # what a number must lie within, where there is one
    "Rows": (1, 65535),
    "Columns": (1, 65535),
    "NumberOfFrames": (1, 2**31 - 1),
    "SamplesPerPixel": (1, 4),
    "BitsAllocated": (1, 64),
    "PixelRepresentation": (0, 1),
}
_PLACE = {
    "ImagePositionPatient": "does not say where in the patient it lies",
    "ImageOrientationPatient": "does not say how it lies in the patient",
    "PixelSpacing": "does not say how large its pixels are",
}


@dataclass(frozen=True)
class Head:
    """`series` is empty where anonymising has taken it; `grid` is what the images of one stack share, None for
    what has no place of its own; `reason` is why it can be no volume, worded to follow its name."""

    file: Path
    series: str
    instance: str
    number: int | None
    description: str
    modality: str
    patient: str
    frames: int
    localizer: bool
    reason: str | None
    grid: Grid | None


def head_of(file: Path) -> Head:
    """Raises InputError, naming the file, for a header that is damaged."""
    with reading(file):
        found = header(file)
        directions = numbers(values(found, "ImageOrientationPatient"))
        spacing = numbers(values(found, "PixelSpacing"))
        reason = _reason_against(file, found)
        grid: Grid | None = None
        if directions and spacing and reason is None:
            size = whole(found, "Rows"), whole(found, "Columns")
            grid = (*size, *(round(one, 3) + 0.0 for one in (*directions, *spacing)))
        return Head(
            file=file,
            series=text(found, "SeriesInstanceUID"),
            instance=f"{identity(found) or file} {text(found, 'InstanceNumber')}",
            number=whole(found, "SeriesNumber"),
            description=one_line(phrase(found, "SeriesDescription")),
            modality=text(found, "Modality"),
            patient=text(found, "PatientID"),
            frames=max(1, whole(found, "NumberOfFrames") or 1),
            localizer="LOCALIZER" in values(found, "ImageType"),
            reason=reason,
            grid=grid,
        )


def _reason_against(file: Path, head: FileDataset) -> str | None:
    """Raises InputError for an image without a size, as of a file that is cut short."""
    modality, kind = text(head, "Modality"), _class_of(head)
    if modality in _NO_IMAGE:
        return f"is {_NO_IMAGE[modality]} ({modality}), wanted an image series"
    if not values(head, "Rows") or not values(head, "Columns"):
        if "Image Storage" in kind or "SOPClassUID" not in head:
            raise InputError(f"{file}: its header has no Rows or Columns; fetch the file again")
        return f"holds no image ({one_line(kind, 60) or 'of no SOPClassUID'}), wanted an image series"
    return _against_values(head) or _against_numbers(head) or _against_place(head)


def _class_of(head: FileDataset) -> str:
    """What kind of object it is, in words; the file meta information has it where anonymising emptied it."""
    named = text(head, "SOPClassUID"), text(head.file_meta, "MediaStorageSOPClassUID")
    kinds = [UID(uid).name for uid in named if uid]
    return next((kind for kind in kinds if kind not in named), kinds[0] if kinds else "")


def _against_numbers(head: Dataset) -> str | None:
    for keyword, (least, most) in _BOUNDS.items():
        found = number(head, keyword)
        if found is not None and not least <= found <= most:
            return (
                f"has {keyword} {one_line(text(head, keyword), 40)}, wanted {least} to {most}; export it again"
            )
    allocated, stored = number(head, "BitsAllocated"), number(head, "BitsStored")
    if allocated and stored is not None and not 1 <= stored <= allocated:
        return f"has BitsStored {stored:.12g}, wanted 1 to BitsAllocated {allocated:.12g}; export it again"
    return None


def _against_values(head: Dataset) -> str | None:
    if "MOSAIC" in values(head, "ImageType"):
        return "packs all slices into each picture (Siemens MOSAIC); convert it with dcm2niix first"
    colours = text(head, "PhotometricInterpretation")
    if (whole(head, "SamplesPerPixel") or 1) != 1 or colours == "PALETTE COLOR":
        return f"is in colour ({one_line(colours, 60)}), wanted grey values; export the original series"
    if colours == "MONOCHROME1":
        return "has inverted grey values (MONOCHROME1), wanted MONOCHROME2; export it as that"
    if head.get("ModalityLUTSequence"):
        return "has a table of values (Modality LUT), wanted slope and intercept; convert it first"
    bits = whole(head, "BitsAllocated") or 0
    if bits not in {8, 16, 32}:
        return f"holds {bits} bits per pixel, wanted 8, 16 or 32; export the original series"
    return None


def _against_place(head: Dataset) -> str | None:
    if head.get("PerFrameFunctionalGroupsSequence"):
        return None  # each frame is asked when it is read
    frames = whole(head, "NumberOfFrames") or 1
    if frames > 1:
        return (
            f"has files of {frames} frames without a position for each (no functional groups), "
            "wanted slices in space; export the original series"
        )
    for keyword, lack in _PLACE.items():
        if not values(head, keyword):
            return f"{lack} (no {keyword}), wanted slices in space; export the original series"
    return None
