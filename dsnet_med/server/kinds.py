"""What a file is, by its first bytes: names come from strangers and say nothing."""

import re
from pathlib import Path
from typing import Literal

import nibabel as nib

from dsnet_med.dicom.sniff import START, starts_dicom

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
LONGEST_START = int(nib.Nifti2Header.sizeof_hdr)
_METAIMAGE = re.compile(rb"\s*(ObjectType|ObjectSubType|Comment|NDims)\s*=")


def kind_of(path: Path) -> Kind | None:
    """The kind of a file's content; None for what cannot be a volume."""
    with path.open("rb") as stream:
        start = stream.read(LONGEST_START)
    if starts_dicom(start[:START]):  # before the others: the 128 bytes in front may hold anything
        return "dicom"
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if start[:4] == b"NRRD":
        return "nrrd"
    if is_nifti(start):
        return "nifti"
    return "metaimage" if _METAIMAGE.match(start) else None


def is_nifti(start: bytes) -> bool:
    """Whether these first bytes are those of a NIfTI-1 or NIfTI-2 header."""
    return any(kind.may_contain_header(start) for kind in (nib.Nifti1Header, nib.Nifti2Header))
