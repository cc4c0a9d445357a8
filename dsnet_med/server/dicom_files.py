"""DICOM files of an upload: whether what they ask for is bounded."""

from collections.abc import Iterable
from pathlib import Path

from dsnet_med.dicom.header import reading
from dsnet_med.errors import InputError
from dsnet_med.server.headers import require_shape
from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import Refused

_DEFLATED = "1.2.840.10008.1.2.1.99"  # unpacked whole in memory, whatever comes out
_META = 2  # the group of what describes the file itself
_SIZES = ("Rows", "Columns", "NumberOfFrames")


def require_bounded_dicom(files: Iterable[Path], limits: Limits) -> None:
    """Raise Refused where the images have too many pixels together, InputError for what cannot be read."""
    from pydicom import dcmread  # noqa: PLC0415 -- takes long to load, and few inputs are DICOM

    from dsnet_med.dicom.header import whole  # noqa: PLC0415

    pixels = 0
    for file in files:
        if _syntax(file) == _DEFLATED:
            raise InputError(f"{file}: its header is compressed (deflated); send it uncompressed")
        with reading(file):
            head = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_SIZES))
            rows, columns, frames = (max(1, whole(head, name) or 1) for name in _SIZES)
        require_shape((columns, rows, frames), limits)
        pixels += rows * columns * frames
        if pixels > limits.most_voxels:
            raise Refused(413, f"holds more than the {limits.most_voxels} pixels that are taken")


def _syntax(file: Path) -> str:
    """The transfer syntax of a DICOM file, empty where it has no meta information; nothing is unpacked."""
    from pydicom.filereader import read_dataset, read_preamble  # noqa: PLC0415 -- as above

    from dsnet_med.dicom.header import text  # noqa: PLC0415

    with reading(file), file.open("rb") as stream:
        read_preamble(stream, force=True)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != _META)
        return text(meta, "TransferSyntaxUID")
