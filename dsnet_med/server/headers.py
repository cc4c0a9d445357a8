"""What a volume's header asks for, looked at before anything takes memory for it or follows it elsewhere.

A header can name more voxels than any memory holds, a compressed file can unpack to a thousand times its size,
and NRRD and MetaImage headers can name another file, anywhere on the server, to take the voxels from.
"""

import re
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, cast

import nibabel as nib
from isal import igzip, isal_zlib

from dsnet_med.errors import InputError, one_line
from dsnet_med.server.kinds import WANTED, Kind
from dsnet_med.server.limits import Limits
from dsnet_med.server.metaimage import shape_of_metaimage
from dsnet_med.server.refusal import Refused
from dsnet_med.sniff import LONGEST_START, is_nifti, is_pair_header

A_PAIR = "the upload is of a pair of files, .hdr and .img; make one .nii or .nii.gz file of them and send that"
_CHUNK = 1 << 20
_TRAILING = 1 << 20  # bytes after the voxels that nobody minds
_LONGEST_TEXT = 1 << 16
_BLANK_LINE = re.compile(rb"\n\r?\n")
_NRRD_DATA_FILE = re.compile(rb"data\s*file\s*:", re.IGNORECASE)
_DAMAGED = (EOFError, OSError, zlib.error, cast(type[Exception], isal_zlib.error))


def require_bounded(path: Path, kind: Kind, limits: Limits) -> None:
    """Raise Refused for a volume file that is too large once read, InputError for what cannot be read."""
    if kind == "gzip":
        _require_bounded_gzip(path, limits)
    elif kind == "nifti":
        with path.open("rb") as stream:
            _bytes_named(path, stream.read(LONGEST_START), limits)
    elif kind == "metaimage":
        require_shape(shape_of_metaimage(path), limits)
    elif kind == "nrrd":
        _require_own_voxels(path)
        _require_bounded_itk(path, limits)


def require_shape(shape: Sequence[int], limits: Limits) -> None:
    """Raise Refused for a shape with too many voxels or slices."""
    if prod(shape) > limits.most_voxels:
        raise Refused(413, f"its header names {prod(shape)} voxels, at most {limits.most_voxels} are taken")
    if max(shape, default=0) > limits.most_per_axis:
        raise Refused(413, f"its header names {max(shape)} slices, at most {limits.most_per_axis} are taken")


def _require_bounded_gzip(path: Path, limits: Limits) -> None:
    """Unpack once, holding nothing, up to what the header names."""
    try:
        with igzip.open(path, "rb") as stream:
            start = stream.read(LONGEST_START)
            if not is_nifti(start):
                raise Refused(
                    415, f"a gzip file without a NIfTI header inside, as the .img.gz of a pair; {WANTED}"
                )
            left = _bytes_named(path, start, limits) + _TRAILING - len(start)
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise Refused(413, "unpacks to more bytes than its header names")
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged or cut short ({one_line(error)}); send it again") from error


def _bytes_named(path: Path, start: bytes, limits: Limits) -> int:
    """How long a NIfTI file is, unpacked, by its header."""
    if is_pair_header(start):
        raise Refused(415, A_PAIR)
    kind = nib.Nifti1Header if nib.Nifti1Header.may_contain_header(start) else nib.Nifti2Header
    try:
        header = kind(start[: kind.sizeof_hdr], check=False)
        shape = [int(length) for length in header.get_data_shape()]
        bytes_each = int(header.get_data_dtype().itemsize)
    except Exception as error:  # nibabel has no one type for a header that it cannot read
        raise InputError(f"{path}: not a readable NIfTI file ({one_line(error)}); export it again") from error
    require_shape([max(length, 0) for length in shape], limits)
    named = int(header["vox_offset"]) + prod(shape) * bytes_each
    if named > limits.most_unpacked:
        raise Refused(413, f"its header names {named} bytes, at most {limits.most_unpacked} are taken")
    return named


def _require_own_voxels(path: Path) -> None:
    """Raise InputError unless the voxels of a NRRD file lie in the file itself."""
    with path.open("rb") as stream:
        text = stream.read(_LONGEST_TEXT)
    end = _BLANK_LINE.search(text)
    if end is None or _NRRD_DATA_FILE.search(text[: end.end()]):
        raise InputError(
            f"{path}: has its voxels in another file, or a header that does not end; send one file"
        )


def _require_bounded_itk(path: Path, limits: Limits) -> None:
    import SimpleITK as sitk  # noqa: PLC0415 -- takes long to load, and few need it

    from dsnet_med.volumes_itk import reading  # noqa: PLC0415 -- as above

    reader: Any = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with reading(path):
        reader.ReadImageInformation()
    require_shape((*reader.GetSize(), reader.GetNumberOfComponents()), limits)
