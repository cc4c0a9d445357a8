"""Reading and writing NIfTI: what a file is comes from its bytes, nibabel knows what they mean."""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from dsnet_med.errors import InputError, cannot_read, one_line
from dsnet_med.find import case_name, require_file
from dsnet_med.geometry import corner_distance, corner_voxels, is_sheared, right_angled, spacing_mm
from dsnet_med.sniff import (
    DECODING_ERRORS,
    GZIP_AT_MOST,
    Content,
    Once,
    Packing,
    content_of,
    filled,
    looks,
    misnamed,
    opened,
    refusal,
    skipped,
)

_DAMAGED = (*DECODING_ERRORS, OverflowError, ValueError, ImageFileError, HeaderDataError)
_NIFTI1_AT_MOST = 32767  # voxels along an axis
_QFORM_WITHIN = 0.1  # voxels, at every corner
_MOST_UNPACKED: dict[Packing | None, int] = {None: 1, "gzip": GZIP_AT_MOST, "bzip2": 1_200_000}
_CIFTI = range(3000, 3100)  # intent codes
_LONGEST_QUATERNION = 1 + 1e-3  # squared; more is no rounding
_FORMS_AGREE_MM = 1.0
_PLACE = (  # all that says where a volume lies; the rest of a header may be about the patient
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_PAIR = re.compile(r"(?P<stem>.*)\.(?P<half>hdr|img)(?P<packing>\.gz|\.bz2)?", re.IGNORECASE)
_UNHEARD = logging.Logger("nibabel")  # what matters is raised, in one line
_UNHEARD.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file, or a pair, whose header has been read; `voxels` is the file that holds the voxels.

    `start` are the bytes of the header as they lie in the file, `packings` those of header and voxels.
    """

    path: Path
    header: Any
    start: bytes
    voxels: Path
    packings: tuple[Packing | None, Packing | None]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(length) for length in self.header.get_data_shape())


def header_of(path: Path) -> Path:
    """The .hdr of an .img, where it lies beside: the pair is one volume. Any other file itself."""
    return _other_half(path, "img", "hdr")


def voxels_of(path: Path) -> Path:
    """The .img of a .hdr, compressed alike or not, where it lies beside. Any other file itself."""
    return _other_half(path, "hdr", "img")


def is_header(path: Path) -> bool:
    """Whether the name is that of the header of a pair."""
    return _half(path) == "hdr"


def _half(path: Path) -> str | None:
    name = _PAIR.fullmatch(path.name)
    return name["half"].lower() if name else None


def _other_half(path: Path, half: str, other: str) -> Path:
    name = _PAIR.fullmatch(path.name)
    if name is None or name["half"].lower() != half:
        return path
    packings = (name["packing"] or "", "", ".gz", ".bz2")
    names = (f"{name['stem']}.{form}{packing}" for packing in packings for form in (other, other.upper()))
    return next((file for file in map(path.with_name, names) if file.is_file()), path)


def open_nifti(path: Path, content: Content) -> NiftiFile:
    """The file with its header read. Raises InputError."""
    if content.kind != "nifti":
        raise _not_nifti(path, content)
    try:
        notes = list(_require_plain_header(path, content.start))
        kind = _header_class(path, content.start)
        with opened(path, content.packing) as stream:
            header = kind.from_fileobj(stream, check=False)
        header.check_fix(logger=_UNHEARD)
        notes += _with_unit_quaternion(header)
        header.get_best_affine()  # raises for what places no volume
    except _DAMAGED as error:
        raise cannot_read(
            path, error, f"not a readable NIfTI file ({one_line(error, 160)}); export it again"
        ) from error
    if isinstance(header, nib.Nifti2Header) and int(header["intent_code"]) in _CIFTI:
        raise InputError(f"{path}: is Cifti2Image, wanted NIfTI; convert it first")
    voxels, packing = path, content.packing
    if not header.is_single:
        voxels, packing = _voxels_file(path)
    names = (misnamed(file, kind) for file, kind in {path: content.packing, voxels: packing}.items())
    start = content.start[: header.sizeof_hdr]
    return NiftiFile(path, header, start, voxels, (content.packing, packing), (*filter(None, names), *notes))


def _not_nifti(path: Path, content: Content) -> InputError:
    half = _half(path)
    if half and nib.AnalyzeHeader.may_contain_header(content.start):
        return InputError(
            f"{path}: is Analyze 7.5, which does not tell left from right, wanted NIfTI; convert it first"
        )
    if known := refusal(path, content, "NIfTI"):
        return known
    if half == "img":
        return InputError(f"{path}: its header, {case_name(path)}.hdr, is not there; fetch it too")
    return InputError(f"{path}: not a readable NIfTI file ({looks(content.start)}); export it again")


def _header_class(path: Path, start: bytes) -> Any:
    first = nib.Nifti1Header.may_contain_header(start)
    if is_header(path):
        return nib.nifti1.Nifti1PairHeader if first else nib.nifti2.Nifti2PairHeader
    return nib.Nifti1Header if first else nib.Nifti2Header


def _voxels_file(path: Path) -> tuple[Path, Packing | None]:
    voxels = voxels_of(path)
    if voxels == path:
        wanted = path.with_name(path.name.replace(".hdr", ".img").replace(".HDR", ".IMG"))
        if wanted.is_symlink():
            require_file(wanted)
        raise InputError(
            f"{path}: damaged or cut short (its voxels, {wanted.name}, are not there); fetch the file again"
        )
    return voxels, content_of(voxels).packing


def _require_plain_header(path: Path, start: bytes) -> Iterator[str]:
    """Raise ValueError for what nibabel would mend by a guess: a damaged start, voxels inside the header, a
    spacing of zero. Yields notes."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if len(start) < kind.sizeof_hdr or not kind.may_contain_header(start):
            continue
        header = kind(start[: kind.sizeof_hdr], check=False)
        length, magic = int(header["sizeof_hdr"]), header["magic"].item()
        if length != kind.sizeof_hdr:
            raise ValueError(f"its header says that it is {length} bytes long, not {kind.sizeof_hdr}")
        if magic == kind.pair_magic and not is_header(path):
            raise ValueError("its header is that of a pair of files, .hdr and .img")
        begin, spacing = int(header["vox_offset"]), header["pixdim"][1:4]
        if magic == kind.single_magic and begin < kind.single_vox_offset:
            raise ValueError(f"its header puts the voxels at byte {begin}, inside itself; correct vox_offset")
        if header["sform_code"] == 0 and not (spacing > 0).all():
            kind_of = "a spacing of zero" if not spacing.all() else "a spacing below zero"
            raise ValueError(f"its header has {kind_of}, {spacing.tolist()} mm; correct pixdim")
        for form in ("sform", "qform"):
            if (code := int(header[f"{form}_code"])) not in nib.nifti1.xform_codes.value_set("code"):
                yield f"the header's {form}_code {code} is none that NIfTI defines; its {form} was not used"


def _with_unit_quaternion(header: Any) -> Iterator[str]:
    """Shorten a quaternion that is longer than 1 by rounding; nibabel refuses what it takes for damage."""
    fields = ("quatern_b", "quatern_c", "quatern_d")
    quaternion = np.array([header[field] for field in fields], np.float64)
    squared = float(quaternion @ quaternion)
    if header["qform_code"] > 0 and 1 + header.quaternion_threshold <= squared <= _LONGEST_QUATERNION:
        for field, part in zip(fields, quaternion / math.sqrt(squared), strict=True):
            header[field] = part
        yield f"the quaternion of the header's qform is longer than 1, by {squared - 1:.1g}; it was shortened"


def require_millimetres(path: Path, header: Any) -> None:
    """Raise InputError for a header that counts in another unit."""
    unit = {1: "metres", 3: "micrometres"}.get(int(header["xyzt_units"]) & 7)
    if unit:
        raise InputError(f"{path}: its header counts in {unit}, wanted millimetres; correct affine and units")


def says_unit(header: Any) -> bool:
    """Whether the header names its unit of length."""
    return (int(header["xyzt_units"]) & 7) == 2


def unstated(header: Any) -> Iterator[str]:
    """What a header does not say of where the volume lies."""
    if not header["sform_code"] and not header["qform_code"]:
        sizes = ", and voxels of 1 mm may be one" if (header["pixdim"][1:4] == 1).all() else ""
        yield f"the header has neither sform nor qform: left and right are a guess{sizes}"


def doubts(header: Any, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Iterator[str]:
    """What a header contradicts itself about."""
    if not header["sform_code"] or not header["qform_code"]:
        return
    try:
        other = header.get_qform()
    except (HeaderDataError, ValueError):
        yield "the header's qform is damaged; the sform was used"
        return
    apart = corner_distance(shape, affine, other)
    if not apart <= min(_FORMS_AGREE_MM, *spacing_mm(affine)):
        yield f"the header's sform and qform disagree by up to {apart:.2g} mm; the sform was used"


def read_voxels(
    file: NiftiFile, volume_index: int | None, *, hashed: bool = False
) -> tuple[NDArray[Any], dict[Path, str]]:
    """The voxels of one volume as the header scales them; those of other volumes are not kept.

    The second result has the SHA-256 of each file where it is `hashed`: of the bytes that the voxels are from,
    read in one go, and whose header is still that of `file`. They are read to the last one, so that damage
    anywhere is seen. nibabel would decompress by the standard library: isal takes a third of that time for a
    CT, a sixth for its label map. Raises InputError.
    """
    digests: dict[Path, str] = {}
    kind, begin = file.header.get_data_dtype(), int(file.header.get_data_offset())
    wanted = begin + math.prod(file.shape) * kind.itemsize
    shape = file.shape if volume_index is None else file.shape[:3]
    begin += (volume_index or 0) * math.prod(shape) * kind.itemsize
    try:
        size = file.voxels.stat().st_size
        if size * _MOST_UNPACKED[file.packings[1]] < wanted:  # before any memory is taken
            raise EOFError(f"{size} bytes cannot hold the {wanted} that its header names")
        content = np.empty(math.prod(shape) * kind.itemsize, np.uint8)
        if file.voxels != file.path:
            with Once(file.path, file.packings[0], hashed=hashed) as header:
                _require_start(file, header.unpacked)
                digests[file.path] = header.digest() or ""
        with Once(file.voxels, file.packings[1], hashed=hashed) as stream:
            at = _require_start(file, stream.unpacked) if file.voxels == file.path else 0
            at += skipped(stream.unpacked, begin - at)
            at += filled(stream.unpacked, content.data)
            if (read := at + skipped(stream.unpacked)) < wanted:  # on to the checksum at the end
                raise EOFError(f"{read} bytes of {wanted}")
            digests[file.voxels] = stream.digest() or ""
        voxels = _scaled(content.view(kind).reshape(shape, order="F"), file.header)
        return voxels, digests if hashed else {}
    except MemoryError as error:
        raise InputError(
            f"{file.path}: does not fit into memory, {wanted} bytes; close other programs"
        ) from error
    except InputError:
        raise
    except _DAMAGED as error:
        raise cannot_read(
            file.path, error, f"damaged or cut short ({one_line(error, 160)}); fetch the file again"
        ) from error


def _require_start(file: NiftiFile, stream: Any) -> int:
    """The length of the header that the stream begins with. InputError where it is no longer that of `file`."""
    start = bytearray(len(file.start))
    filled(stream, memoryview(start))
    if start != file.start:
        raise changed(file.path)
    return len(start)


def changed(path: Path) -> InputError:
    """The error for a file that is another one than it was when reading it began."""
    return InputError(f"{path}: changed while it was read; run the same command again")


def _scaled(voxels: NDArray[Any], header: Any) -> NDArray[Any]:
    """Stored values as the header's slope and intercept mean them, in nibabel's arithmetic."""
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1, 0):
        return voxels
    return np.asarray(apply_read_scaling(voxels, np.asanyarray(slope), np.asanyarray(intercept)))


def part_of(stored: Any, shape: tuple[int, ...], volume_index: int | None) -> NDArray[Any]:
    """All of an array, or a copy of one of the volumes along its fourth and later axes."""
    if volume_index is None or len(shape) < 4:
        return np.asarray(stored)
    chosen = np.unravel_index(volume_index, shape[3:], order="F")
    return np.array(stored[(..., *map(int, chosen))], order="F")


def header_on(shape: tuple[int, int, int], affine: NDArray[np.float64], like: Any) -> Any:
    """The header of a single-file label map on a grid; of `like`, the header of its image, only the place.

    Without such a header, or where it is about another grid, a grid that no quaternion describes has no qform.
    """
    if like is None or not np.allclose(like.get_best_affine(), affine, atol=1e-6):
        return _new_header(shape, affine)
    kind = nib.Nifti2Header if isinstance(like, nib.Nifti2Header) else nib.Nifti1Header
    header = kind(endianness=like.endianness)
    header.set_data_shape(shape)
    for field in _PLACE:
        header[field] = like[field]
    header["pixdim"][:4] = like["pixdim"][:4]
    return header


def _new_header(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Any:
    header = nib.Nifti2Header() if max(shape) > _NIFTI1_AT_MOST else nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(right_angled(affine), 0 if is_sheared(shape, affine) else 1)
    if corner_voxels(shape, affine, header.get_qform()) > _QFORM_WITHIN:  # half a turn, in single precision
        header["qform_code"] = 0
    header.set_sform(affine, 1)
    return header
