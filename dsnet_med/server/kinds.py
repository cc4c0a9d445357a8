"""What a file is, by its first bytes: names come from strangers and say nothing."""

from pathlib import Path
from typing import Literal

from dsnet_med.sniff import LONGEST_START, is_nifti, known_as, starts_dicom
from dsnet_med.sniff import kind_of as sniffed

Kind = Literal["gzip", "zip", "dicom", "nrrd", "nifti", "metaimage"]

WANTED = "wanted NIfTI, NRRD, MetaImage or DICOM, or a zip of a DICOM series or of one of the others"
SUFFIXES: dict[Kind, str] = {
    "gzip": ".nii.gz",
    "nifti": ".nii",
    "nrrd": ".nrrd",
    "metaimage": ".mha",
    "zip": ".zip",
    "dicom": "",
}


def kind_of(path: Path) -> Kind | None:
    """The kind of a file's content; None for what cannot be a volume."""
    with path.open("rb") as stream:
        start = stream.read(LONGEST_START)
    if starts_dicom(start):  # before the others: the 128 bytes in front may hold anything
        return "dicom"
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[:4] == b"NRRD":
        return "nrrd"
    if is_nifti(start):
        return "nifti"
    return "metaimage" if sniffed(start) == "metaimage" else None


def no_kind(path: Path) -> str:
    """What is said of a file whose kind is None."""
    with path.open("rb") as stream:
        known = known_as(stream.read(LONGEST_START))
    return f"the upload is {known[0]}" if known else "the upload's content is of no known kind"
