"""DICOM files of an upload: whether what they ask for is bounded."""

from collections.abc import Iterable
from pathlib import Path

from dsnet_med.dicom.boundary import reading
from dsnet_med.errors import InputError
from dsnet_med.server.headers import require_shape
from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import Refused

_DEFLATED = "1.2.840.10008.1.2.1.99"  # unpacked whole in memory, whatever comes out
_SIZES = ("Rows", "Columns", "NumberOfFrames")


def require_bounded_dicom(files: Iterable[Path], limits: Limits) -> None:
    """Raise Refused where the images have too many pixels together, InputError for what cannot be read."""
    from pydicom import dcmread  # noqa: PLC0415 -- takes long to load, and few inputs are DICOM

    pixels = 0
    for file in files:
        if _syntax(file) == _DEFLATED:
            raise InputError(f"{file}: its header is compressed (deflated); send it uncompressed")
        with reading(file):
            head = dcmread(file, stop_before_pixels=True, specific_tags=list(_SIZES))
            rows, columns, frames = (int(head.get(name) or 1) for name in _SIZES)
        require_shape((columns, rows, frames), limits)
        pixels += rows * columns * frames
        if pixels > limits.most_voxels:
            raise Refused(413, f"holds more than the {limits.most_voxels} pixels that are taken")


def _syntax(file: Path) -> str:
    """The transfer syntax of a DICOM file."""
    from pydicom.filereader import read_file_meta_info  # noqa: PLC0415 -- as above

    with reading(file):
        return str(read_file_meta_info(file).get("TransferSyntaxUID", ""))
