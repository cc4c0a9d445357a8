"""Reading and writing volumes, with one clear line for every kind of bad file.

NIfTI is read and written; NRRD and MetaImage label maps and images are read, by SimpleITK (volumes_itk.py).
DICOM series are read in dsnet_med.dicom.
"""

import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from dsnet_med.errors import InputError, SeveralVolumesError, one_line
from dsnet_med.files import absent, written_whole
from dsnet_med.geometry import same_grid, spacing_mm

_NIFTI = (".nii.gz", ".nii", ".hdr")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
_ISAL_ERROR = cast(type[Exception], isal_zlib.error)
_DAMAGED = (
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    zlib.error,
    _ISAL_ERROR,
    ImageFileError,
    HeaderDataError,
)
_SMALLEST_SPACING_MM = 1e-4
_CHUNK = 1 << 20
_NIFTI1_AT_MOST = 32767  # voxels along an axis
_LEVEL = 2  # of isal's four; higher ones take longer and gain little on label maps
GZIP_AT_MOST = 1100  # DEFLATE cannot compress better


@dataclass(frozen=True)
class Grid:
    """A volume's place in the world: shape (X, Y, Z) and affine (4, 4) from voxels to RAS+ millimetres."""

    path: Path
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    header: Any

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return spacing_mm(self.affine)

    @property
    def voxel_mm3(self) -> float:
        """The volume of a voxel; on a sheared grid it is less than the product of its edges."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


@dataclass(frozen=True)
class Volume(Grid):
    """A volume with its voxels, in the axis order and data type of its file.

    `notes` say what a reader of its masks has to know: a doubtful header, a lossy compression.
    """

    voxels: NDArray[Any]
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> Self:
        """The same volume with one note more."""
        return replace(self, notes=(*self.notes, note))


class Memory:
    """Memory for the voxels of one file after another: to take it anew each time costs more than decoding."""

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, size: int) -> memoryview:
        """`size` bytes, overwritten by whoever takes them next."""
        if len(self._held) < size:
            self._held = bytearray()  # let go first: never both at a time
            self._held = bytearray(size)
        return memoryview(self._held)[:size]


def is_nifti(path: Path) -> bool:
    """Whether the file's name is that of a NIfTI volume."""
    return path.name.lower().endswith(_NIFTI)


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def is_volume(path: Path) -> bool:
    """Whether the file's name is that of a volume that can be read."""
    return path.name.lower().endswith(_NIFTI + _ITK)


def case_name(path: Path) -> str:
    """The file's name without `.nii.gz`, `.nrrd` and the like."""
    for suffix in _NIFTI + _ITK:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def read_grid(path: Path) -> Grid:
    """The shape and place of a NIfTI volume, from its header alone. Raises InputError."""
    image = _open(path)
    return Grid(path, _shape(path, image), _affine(path, image), image.header)


def read_image(path: Path, volume_index: int | None = None) -> Volume:
    """A three-dimensional image with finite voxels, integers kept as integers.

    `volume_index` takes one volume of a 4-D file. Raises InputError; SeveralVolumesError, which is one, for a
    4-D file without it.
    """
    return _finite(_read(path, volume_index=volume_index))


def of_image(path: Path, image: Any, volume_index: int | None = None) -> Volume:
    """The volume of a NIfTI image that nibabel holds; `path` is its name in errors. Raises as `read_image`."""
    return _finite(_volume(path, image, None, volume_index))


def _finite(volume: Volume) -> Volume:
    if volume.voxels.dtype.kind == "f" and not np.isfinite(volume.voxels).all():
        bad = int((~np.isfinite(volume.voxels)).sum())
        raise InputError(
            f"{volume.path}: {bad} voxels are NaN or infinite; replace them with a finite value first"
        )
    return volume


def read_labels(path: Path, memory: Memory | None = None) -> Volume:
    """A label map as unsigned integers (uint8 where it fits, else uint16). Raises InputError.

    Floating-point files are accepted when every voxel is a whole number. With `memory` the voxels may lie
    there: they are gone when it is used again.
    """
    volume = _read(path, memory)
    voxels = volume.voxels
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()):
        raise InputError(f"{path}: a label map needs whole numbers, this one has fractions or NaN")
    try:
        dtype = _label_type(voxels)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return replace(volume, voxels=voxels.astype(dtype, copy=False))


def require_same_grid(image: Grid, label: Grid) -> None:
    """Raise InputError, naming both files, unless they share shape and affine."""
    if image.shape != label.shape:
        raise InputError(
            f"{label.path}: shape {label.shape} differs from {image.shape} of {image.path}; "
            "a label map must lie on its image's grid"
        )
    if not same_grid(image.shape, image.affine, label.shape, label.affine):
        raise InputError(
            f"{label.path}: its affine places voxels elsewhere than that of {image.path}; "
            "resample the label map to its image or correct the header"
        )


def write_labels(path: Path, voxels: NDArray[Any], like: Grid) -> None:
    """Write an integer label map (X, Y, Z) in the exact grid of `like`: shape, affine and header codes.

    Written whole or not at all; uint8 where the values fit, else uint16. Raises InputError when it cannot
    be written, ValueError for voxels of another shape or outside 0 to 65535.
    """
    if voxels.shape != like.shape:
        raise ValueError(f"label map of shape {voxels.shape} for a grid of shape {like.shape}")
    dtype = _label_type(voxels)
    header = _new_header(like) if like.header is None else _single_file(like.header)
    header.set_data_shape(like.shape)  # that of one volume, of a 4-D file too
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content = image_class(voxels.astype(dtype, copy=False), None, header).to_bytes()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        if _is_gzip(path):  # no file name and no time in it: the same mask is the same bytes
            with igzip.IGzipFile("", "wb", _LEVEL, stream, 0) as packed:
                packed.write(content)
        else:
            stream.write(content)


def _single_file(header: Any) -> Any:
    """The header of a single file with all that `header` says, which may be that of a .hdr/.img pair."""
    if header.is_single:
        return header.copy()
    kind = nib.Nifti2Header if isinstance(header, nib.nifti2.Nifti2PairHeader) else nib.Nifti1Header
    single = kind(header.binaryblock, header.endianness, check=False)
    single["magic"], single["vox_offset"] = kind.single_magic, kind.single_vox_offset
    single.extensions.extend(header.extensions)
    return single


def _new_header(grid: Grid) -> Any:
    """A header for a grid that came without one; a sheared grid has no qform."""
    header = nib.Nifti2Header() if max(grid.shape) > _NIFTI1_AT_MOST else nib.Nifti1Header()
    header.set_data_shape(grid.shape)
    header.set_xyzt_units("mm")
    edges = grid.affine[:3, :3] / grid.spacing_mm
    orthogonal = np.allclose(edges.T @ edges, np.eye(3), atol=1e-5)
    header.set_qform(grid.affine, 1 if orthogonal else 0, strip_shears=True)
    header.set_sform(grid.affine, 1)
    return header


def _label_type(voxels: NDArray[Any]) -> type[np.unsignedinteger[Any]]:
    """The smallest type of label map that holds every value; ValueError where none does."""
    if voxels.dtype == np.uint8:
        return np.uint8
    low, high = (voxels.min(), voxels.max()) if voxels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ValueError(f"label values run from {low:g} to {high:g}; wanted 0 to 65535")
    return np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16


def _open(path: Path) -> Any:
    if not path.is_file():
        raise absent(path)
    try:
        _require_plain_header(path)
        with LoggingOutputSuppressor():  # what matters is raised, in one line
            image = nib.load(path)
    except _DAMAGED as error:
        raise InputError(
            f"{path}: not a readable NIfTI file ({one_line(error, 160)}); export it again"
        ) from error
    if not isinstance(image, nib.nifti1.Nifti1Pair):  # single files and NIfTI-2 are subclasses
        kind = {"Spm2AnalyzeImage": "Analyze 7.5, which does not tell left from right"}.get(
            type(image).__name__, type(image).__name__
        )
        raise InputError(f"{path}: is {kind}, wanted NIfTI; convert it first")
    return image


def _require_plain_header(path: Path) -> None:
    """Raise ValueError for what nibabel would mend by a guess: a damaged start, voxels inside the header, a
    spacing of zero."""
    with igzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if len(start) < kind.sizeof_hdr or not kind.may_contain_header(start):
            continue
        header = kind(start[: kind.sizeof_hdr], check=False)
        length, magic = int(header["sizeof_hdr"]), header["magic"].item()
        if length != kind.sizeof_hdr:
            raise ValueError(f"its header says that it is {length} bytes long, not {kind.sizeof_hdr}")
        if magic == kind.pair_magic and path.suffix.lower() != ".hdr":
            raise ValueError("its header is that of a pair of files, .hdr and .img")
        begin, spacing = int(header["vox_offset"]), header["pixdim"][1:4]
        if magic == kind.single_magic and begin < kind.single_vox_offset:
            raise ValueError(f"its header puts the voxels at byte {begin}, inside itself; correct vox_offset")
        if header["sform_code"] == 0 and not (spacing > 0).all():
            kind_of = "a spacing of zero" if not spacing.all() else "a spacing below zero"
            raise ValueError(f"its header has {kind_of}, {spacing.tolist()} mm; correct pixdim")


def _read(path: Path, memory: Memory | None = None, volume_index: int | None = None) -> Volume:
    if path.name.lower().endswith(_ITK):
        return _read_itk(path, volume_index)
    return _volume(path, _open(path), memory or Memory(), volume_index)


def _volume(path: Path, image: Any, memory: Memory | None, volume_index: int | None) -> Volume:
    """The volume of an image; with `memory`, its voxels are read from its file there."""
    shape, affine = _shape(path, image, volume_index), _affine(path, image)
    _require_millimetres(path, image.header)
    try:
        voxels = _voxels(path, image, memory) if memory else np.asarray(image.dataobj)
    except (MemoryError, *_DAMAGED) as error:
        raise InputError(
            f"{path}: damaged or cut short ({one_line(error, 160)}); fetch the file again"
        ) from error
    if volume_index is not None:
        voxels = voxels.reshape((*shape, -1), order="F")[..., volume_index]
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    notes = tuple(_doubts(image))
    return Volume(path, shape, affine, image.header, native.reshape(shape, order="F"), notes)


def _require_millimetres(path: Path, header: Any) -> None:
    unit = {1: "metres", 3: "micrometres"}.get(int(header["xyzt_units"]) & 7)
    if unit:
        raise InputError(f"{path}: its header counts in {unit}, wanted millimetres; correct affine and units")


def _doubts(image: Any) -> Iterator[str]:
    """What a header leaves open about where the volume lies."""
    header = image.header
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes == (0, 0):
        yield "the header has neither sform nor qform: left and right are a guess"
    if all(codes):
        try:
            other = header.get_qform()
        except (HeaderDataError, ValueError):  # a quaternion that is none; the sform rules anyhow
            return
        if not same_grid(image.shape[:3], image.affine, image.shape[:3], other, tolerance_mm=1.0):
            yield "the header's sform and qform disagree; the sform was used"


def _read_itk(path: Path, volume_index: int | None) -> Volume:
    from dsnet_med.volumes_itk import read, says_where  # noqa: PLC0415 -- SimpleITK takes long to load

    voxels, affine = read(path, volume_index)
    x, y, z = voxels.shape
    notes = () if says_where(path) else ("the header names no space: left and right are a guess",)
    return Volume(path, (x, y, z), checked_affine(path, affine), None, voxels, notes)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that hold the volume `path`: of some formats, a header and its voxels. Raises InputError."""
    name = path.name.lower()
    if name.endswith(".hdr"):
        voxels = path.with_suffix(".img")
        return (path, voxels) if voxels.is_file() else (path,)
    if name.endswith(_ITK):
        from dsnet_med.volumes_itk import data_file  # noqa: PLC0415

        voxels_elsewhere = data_file(path)
        return (path,) if voxels_elsewhere is None else (path, voxels_elsewhere)
    return (path,)


def _voxels(path: Path, image: Any, memory: Memory) -> NDArray[Any]:
    """The voxels as the header scales them, read to the last byte so that damage anywhere is seen.

    No well-kept decoder is faster than isal. Where the file lies and how it is scaled is asked of `dataobj`:
    nibabel clears both in the header of an image that it has loaded.
    """
    stored, compressed = image.dataobj, _is_gzip(path)
    wanted = stored.offset + math.prod(image.shape) * stored.dtype.itemsize
    file = Path(image.file_map["image"].filename)  # the .img of a pair
    if not file.is_file():
        raise EOFError(f"its voxels, {file.name}, are not there")
    size = file.stat().st_size
    if size * (GZIP_AT_MOST if compressed else 1) < wanted:  # before any memory is taken
        raise EOFError(f"{size} bytes cannot hold the {wanted} that its header names")
    if not compressed:
        return np.asarray(stored)
    content = memory.take(wanted)
    with igzip.open(io.BytesIO(path.read_bytes()), "rb") as stream:  # one read from the disk, not a hundred
        filled = 0
        while count_read := stream.readinto(content[filled : filled + _CHUNK]):
            filled += count_read
        while stream.read(_CHUNK):  # on to the checksum at the end
            pass
    if filled < wanted:
        raise EOFError(f"{filled} bytes of {wanted}")
    if (stored.slope, stored.inter) != (1, 0):
        return np.asarray(type(image).from_bytes(bytes(content)).dataobj)
    voxels = np.frombuffer(content, stored.dtype, offset=stored.offset, count=math.prod(image.shape))
    return voxels.reshape(image.shape, order="F")


def _shape(path: Path, image: Any, volume_index: int | None = None) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3 or (volume_index is not None and len(shape) == 3):
        one_of(path, shape, volume_index)
        shape = shape[:3]
    if len(shape) != 3:
        raise InputError(f"{path}: is {len(shape)}-D {shape}, wanted one 3-D volume; split it first")
    if min(shape) < 1:
        raise InputError(f"{path}: has no voxels, shape {shape}")
    if image.get_data_dtype().fields or image.get_data_dtype().kind == "c":
        raise InputError(f"{path}: holds colours or complex numbers, wanted one number per voxel")
    return shape[0], shape[1], shape[2]


def one_of(path: Path, shape: tuple[int, ...], volume_index: int | None) -> None:
    """Check that `volume_index` names one of the 3-D volumes in `shape` (X, Y, Z, ...).

    Raises SeveralVolumesError where there is a choice to make, InputError for an index that is not there.
    """
    count = math.prod(shape[3:])
    if volume_index is None:
        raise SeveralVolumesError(
            f"{path}: is {len(shape)}-D {shape}, wanted one 3-D volume; split it first", count
        )
    if not 0 <= volume_index < count:
        raise InputError(f"{path}: got volume index {volume_index}, wanted 0 to {count - 1}")


def _affine(path: Path, image: Any) -> NDArray[np.float64]:
    return checked_affine(path, np.asarray(image.affine, np.float64))


def checked_affine(path: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """`affine` itself; InputError, which names `path`, where it is not finite or has no volume."""
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine is not finite; correct the header's sform or qform")
    sizes = spacing_mm(affine)
    # Unit edges: the determinant is the volume of the voxel's shape, whatever its size.
    if min(sizes) < _SMALLEST_SPACING_MM or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise InputError(f"{path}: its affine is singular (spacing {sizes} mm); correct the header")
    return affine
