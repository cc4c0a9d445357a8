"""Why a DICOM object can be no volume, as far as its header tells."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.uid import UID

from dsnet_med.dicom.values import text, values, whole
from dsnet_med.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

# Objects that hold no image to be segmented, by their modality.
_KINDS = {
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
_PLACE = {
    "ImagePositionPatient": "does not say where in the patient it lies",
    "ImageOrientationPatient": "does not say how it lies in the patient",
    "PixelSpacing": "does not say how large its pixels are",
}


def class_of(header: "Dataset") -> str:
    """What kind of object it is, in words; the file meta information has it where anonymising emptied it."""
    named = text(header, "SOPClassUID"), text(header.file_meta, "MediaStorageSOPClassUID")
    kinds = [UID(uid).name for uid in named if uid]
    return next((kind for kind in kinds if kind not in named), kinds[0] if kinds else "")


def reason_against(file: Path, header: "Dataset") -> str | None:
    """Why the object of this header can be no volume, worded to follow its name, or None.

    Raises InputError for an image without a size, as of a file that is cut short.
    """
    modality, kind = text(header, "Modality"), class_of(header)
    if modality in _KINDS:
        return f"is {_KINDS[modality]} ({modality}), wanted an image series"
    if not values(header, "Rows") or not values(header, "Columns"):
        if "Image Storage" in kind or "SOPClassUID" not in header:
            raise InputError(f"{file}: its header has no Rows or Columns; fetch the file again")
        return f"holds no image ({kind or 'of no SOPClassUID'}), wanted an image series"
    return _against_values(header) or _against_place(header)


def _against_values(header: "Dataset") -> str | None:
    if "MOSAIC" in values(header, "ImageType"):
        return "packs all slices into each picture (Siemens MOSAIC); convert it with dcm2niix first"
    colours = text(header, "PhotometricInterpretation")
    if (whole(header, "SamplesPerPixel") or 1) != 1 or colours == "PALETTE COLOR":
        return f"is in colour ({colours}), wanted grey values; export the original series"
    if colours == "MONOCHROME1":
        return "has inverted grey values (MONOCHROME1), wanted MONOCHROME2; export it as that"
    if header.get("ModalityLUTSequence"):
        return "has a table of values (Modality LUT), wanted slope and intercept; convert it first"
    bits = whole(header, "BitsAllocated") or 0
    if bits not in {8, 16, 32}:
        return f"holds {bits} bits per pixel, wanted 8, 16 or 32; export the original series"
    return None


def _against_place(header: "Dataset") -> str | None:
    if header.get("PerFrameFunctionalGroupsSequence"):
        return None  # each frame is asked when it is read
    frames = whole(header, "NumberOfFrames") or 1
    if frames > 1:
        return (
            f"has files of {frames} frames without a position for each (no functional groups), "
            "wanted slices in space; export the original series"
        )
    for keyword, lack in _PLACE.items():
        if not values(header, keyword):
            return f"{lack} (no {keyword}), wanted slices in space; export the original series"
    return None
