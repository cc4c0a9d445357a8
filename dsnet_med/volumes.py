"""Reading and writing volumes, with one clear line for every kind of bad file.

NIfTI is read and written (volumes_nifti.py); NRRD and MetaImage are read, by SimpleITK (volumes_itk.py).
DICOM series are read in dsnet_med.dicom.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from dsnet_med.errors import InputError, SeveralVolumesError
from dsnet_med.files import sha256, written_whole
from dsnet_med.geometry import corner_distance, corner_voxels, same_grid, spacing_mm
from dsnet_med.sniff import content_of, refusal
from dsnet_med.volumes_nifti import (
    NiftiFile,
    changed,
    doubts,
    header_of,
    header_on,
    is_header,
    open_nifti,
    part_of,
    read_voxels,
    require_millimetres,
    says_unit,
    unstated,
    voxels_of,
)

_ITK = {".nrrd": "NRRD", ".nhdr": "NRRD", ".mha": "MetaImage", ".mhd": "MetaImage"}
_SMALLEST_SPACING_MM = 1e-4
_PLAUSIBLE_MM = (0.01, 50.0)  # voxels of a header that names no unit
_LABEL_ROUNDING = 1e-3
_HASHERS = 4  # threads
_LEVEL = 2  # of isal's four; higher ones take longer and gain little on label maps


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

    `notes` say what a reader of its masks has to know: a doubtful header, a lossy compression. `unstated` are
    those on what the header does not say of where the volume lies and how large it is, and was guessed.
    `digests` has the SHA-256 of each of its files, of the very bytes that were read, where it was asked for.
    """

    voxels: NDArray[Any]
    notes: tuple[str, ...] = ()
    unstated: tuple[str, ...] = ()
    digests: Mapping[Path, str] = field(default_factory=dict)

    def noted(self, note: str) -> Self:
        """The same volume with one note more."""
        return replace(self, notes=(*self.notes, note))

    def require_geometry(self) -> None:
        """Raise InputError where something of its geometry was guessed."""
        if self.unstated:
            raise InputError(
                f"{self.path}: {'; '.join(self.unstated)}; correct the header, or leave out --require-geometry"
            )


def read_grid(path: Path, volume_index: int | None = None) -> Grid:
    """The shape and place of a volume, from its header alone; `volume_index` as for `read_image`.

    Raises InputError.
    """
    if _by_itk(path):
        from dsnet_med.volumes_itk import read_grid as read  # noqa: PLC0415 -- SimpleITK takes long to load

        (x, y, z), affine = read(path, volume_index)
        return Grid(path, (x, y, z), checked_affine(path, affine), None)
    file = _open(path)
    return Grid(path, _shape(path, file.header, volume_index), _affine(path, file.header), file.header)


def read_image(path: Path, volume_index: int | None = None, *, hashed: bool = False) -> Volume:
    """A three-dimensional image with finite voxels, integers kept as integers; `hashed` gives it its digests.

    `volume_index` takes one volume of a 4-D file. Raises InputError; SeveralVolumesError, which is one, for a
    4-D file without it.
    """
    return _finite(_read(path, volume_index, hashed=hashed))


def read_channels(path: Path, channels: Sequence[str], *, hashed: bool = False) -> tuple[Volume, ...]:
    """The 3-D volumes of a 4-D file, one for each of `channels`, as `read_image` reads each.

    Raises InputError, also for a file of more or fewer volumes.
    """
    if _by_itk(path):
        _require_channels(path, _itk_volumes(path), channels)
        return tuple(read_image(path, index, hashed=hashed) for index in range(len(channels)))
    file = _open(path)
    shape = file.shape
    _require_channels(path, math.prod(shape[3:]), channels)
    grid = Grid(path, _shape(path, file.header, 0), _affine(path, file.header), file.header)
    require_millimetres(path, file.header)
    voxels, digests = read_voxels(file, None, hashed=hashed)
    every = voxels.reshape((*grid.shape, len(channels)), order="F")
    return tuple(
        _finite(_volume(grid, every[..., index], digests, file.notes)) for index in range(len(channels))
    )


def _require_channels(path: Path, volumes: int, channels: Sequence[str]) -> None:
    if volumes != len(channels):
        raise InputError(
            f"{path}: holds {volumes} volume{'s' if volumes > 1 else ''}, wanted {len(channels)}, one for each "
            f"channel ({', '.join(channels)})"
        )


def _itk_volumes(path: Path) -> int:
    """How many volumes a file that ITK reads holds."""
    try:
        read_grid(path)
    except SeveralVolumesError as error:
        return error.count
    return 1


def of_image(path: Path, image: Any, volume_index: int | None = None) -> Volume:
    """The volume of a NIfTI image that nibabel holds; `path` is its name in errors. Raises as `read_image`."""
    affine = checked_affine(path, np.asarray(image.affine, np.float64))
    grid = Grid(path, _shape(path, image.header, volume_index), affine, image.header)
    require_millimetres(path, image.header)
    return _finite(_volume(grid, part_of(image.dataobj, image.shape, volume_index), {}))


def _finite(volume: Volume) -> Volume:
    if volume.voxels.dtype.kind == "f" and not np.isfinite(volume.voxels).all():
        bad = int((~np.isfinite(volume.voxels)).sum())
        raise InputError(
            f"{volume.path}: {bad} voxels are NaN or infinite; replace them with a finite value first"
        )
    return volume


def read_labels(path: Path, volume_index: int | None = None, *, hashed: bool = False) -> Volume:
    """A label map as unsigned integers (uint8 where it fits, else uint16), with its digests where `hashed`.

    Floating-point files are accepted when every voxel is a whole number, to a thousandth. `volume_index` takes
    one of several maps. Raises InputError.
    """
    volume = _read(path, volume_index, hashed=hashed)
    voxels, note = _whole_numbers(path, volume.voxels)
    try:
        dtype = _label_type(voxels)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    volume = replace(volume, voxels=voxels.astype(dtype, copy=False))
    return volume.noted(note) if note else volume


def _whole_numbers(path: Path, voxels: NDArray[Any]) -> tuple[NDArray[Any], str | None]:
    """Label values without the rounding that scaling and resampling leave, and a note where there was some."""
    if voxels.dtype.kind != "f":
        return voxels, None
    whole = np.rint(voxels)
    off = float(np.abs(voxels - whole).max(initial=0)) if np.isfinite(voxels).all() else math.nan
    if not off <= _LABEL_ROUNDING:
        raise InputError(f"{path}: a label map needs whole numbers, this one has fractions or NaN")
    return whole, f"label values are off whole numbers by up to {off:.1g}; they were rounded" if off else None


def require_same_grid(image: Grid, label: Grid) -> None:
    """Raise InputError, naming both files, unless they share shape and affine."""
    if image.shape != label.shape:
        raise InputError(
            f"{label.path}: shape {label.shape} differs from {image.shape} of {image.path}; "
            "a label map must lie on its image's grid"
        )
    if not same_grid(image.shape, image.affine, label.shape, label.affine):
        raise InputError(
            f"{label.path}: its affine places voxels elsewhere than that of {image.path}, "
            f"{_apart(image, label)}; resample the label map to its image or correct the header"
        )


def _apart(image: Grid, label: Grid) -> str:
    """How far apart two grids of one shape lie."""
    distance = corner_distance(image.shape, image.affine, label.affine)
    voxels = corner_voxels(image.shape, image.affine, label.affine)
    words = f"up to {distance:.3g} mm or {voxels:.2g} voxels away"
    axes = ["".join(nib.aff2axcodes(grid.affine)) for grid in (label, image)]
    return words if axes[0] == axes[1] else f"{words}, with its axes {axes[0]} instead of {axes[1]}"


def write_labels(path: Path, voxels: NDArray[Any], like: Grid) -> None:
    """Write an integer label map (X, Y, Z) as NIfTI in the exact grid of `like`: shape, affine, header codes.

    Nothing else of that header is in it. Written whole or not at all; uint8 where the values fit, else uint16.
    Raises InputError for a name that is not .nii or .nii.gz and when it cannot be written, ValueError for
    voxels of another shape or outside 0 to 65535.
    """
    require_nifti_name(path)
    if voxels.shape != like.shape:
        raise ValueError(f"label map of shape {voxels.shape} for a grid of shape {like.shape}")
    dtype = _label_type(voxels)
    _write(path, voxels.astype(dtype, copy=False), header_on(like.shape, like.affine, like.header))


def write_image(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write an image (X, Y, Z) with its `affine` (4, 4) to RAS+ millimetres as NIfTI, in the type it has.

    Several volumes on one grid, (X, Y, Z, C), make a 4-D file.

    Written whole or not at all. Raises InputError as `write_labels`.
    """
    require_nifti_name(path)
    _write(path, voxels, header_on(voxels.shape[:3], affine, None))


def _write(path: Path, voxels: NDArray[Any], header: Any) -> None:
    header.set_data_dtype(voxels.dtype)
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content = image_class(voxels, None, header).to_bytes()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        if path.suffix.lower() == ".gz":  # no file name and no time in it: the same mask is the same bytes
            with igzip.IGzipFile("", "wb", _LEVEL, stream, 0) as packed:
                packed.write(content)
        else:
            stream.write(content)


def require_nifti_name(path: Path) -> None:
    """Raise InputError for a name under which nobody expects a single NIfTI file."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: masks are written as NIfTI; give it a name that ends in .nii or .nii.gz")


def label_type(highest: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type of label map for values up to `highest`; ValueError where none holds it."""
    return _label_type(np.array([highest]))


def _label_type(voxels: NDArray[Any]) -> type[np.unsignedinteger[Any]]:
    """The smallest type of label map that holds every value; ValueError where none does."""
    if voxels.dtype == np.uint8:
        return np.uint8
    low, high = (voxels.min(), voxels.max()) if voxels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise ValueError(f"label values run from {low:g} to {high:g}; wanted 0 to 65535")
    return np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16


def _open(path: Path) -> NiftiFile:
    header = header_of(path)
    return open_nifti(header, content_of(header))


def _by_itk(path: Path) -> bool:
    """Whether ITK reads the file, by its name. Raises InputError for what is known to be something else."""
    wanted = _ITK.get(path.suffix.lower())
    if wanted is None or (content := content_of(path)).kind == "nifti":
        return False
    if content.kind != wanted.lower() and (known := refusal(path, content, wanted)):
        raise known
    return True


def _read(path: Path, volume_index: int | None = None, *, hashed: bool) -> Volume:
    if _by_itk(path):
        with unchanged(files_of(path) if hashed else ()) as digests:
            return replace(_read_itk(path, volume_index), digests=digests)
    file = _open(path)
    grid = Grid(path, _shape(path, file.header, volume_index), _affine(path, file.header), file.header)
    require_millimetres(path, file.header)
    return _volume(grid, *read_voxels(file, volume_index, hashed=hashed), file.notes)


@contextmanager
def unchanged(files: Sequence[Path]) -> Iterator[dict[Path, str]]:
    """The SHA-256 of each file, for a reader that opens them itself: a reader of bytes hashes what it takes.

    Raises InputError where one is another afterwards.
    """
    before = digests_of(files)
    yield before
    after = digests_of(files)
    for file in files:
        if before[file] != after[file]:
            raise changed(file)


def digests_of(files: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file. Raises InputError."""
    try:
        with ThreadPoolExecutor(_HASHERS) as pool:  # hashing lets other threads work
            return dict(zip(files, pool.map(sha256, files), strict=True))
    except RuntimeError:  # no thread can be had
        return {file: sha256(file) for file in files}


def _volume(
    grid: Grid, voxels: NDArray[Any], digests: Mapping[Path, str], notes: tuple[str, ...] = ()
) -> Volume:
    """The volume of what a NIfTI header says and of its voxels."""
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False).reshape(grid.shape, order="F")
    guessed = (*unstated(grid.header), *_odd_unit(grid.affine, says_unit(grid.header)))
    notes = (*notes, *guessed, *doubts(grid.header, grid.affine, grid.shape))
    return Volume(grid.path, grid.shape, grid.affine, grid.header, native, notes, guessed, digests)


def _odd_unit(affine: NDArray[np.float64], said: bool) -> tuple[str, ...]:
    """A note on voxels of a size that is hardly one in millimetres, where the header does not say so."""
    sizes = spacing_mm(affine)
    if said or (_PLAUSIBLE_MM[0] <= min(sizes) and max(sizes) <= _PLAUSIBLE_MM[1]):
        return ()
    shown = " x ".join(f"{size:.3g}" for size in sizes)
    return (f"the header names no unit and has voxels of {shown}: that they are millimetres is a guess",)


def _read_itk(path: Path, volume_index: int | None) -> Volume:
    from dsnet_med import volumes_itk  # noqa: PLC0415 -- SimpleITK takes long to load

    voxels, affine = volumes_itk.read(path, volume_index)
    x, y, z = voxels.shape
    affine = checked_affine(path, affine)
    guessed = (*volumes_itk.unstated(path), *_odd_unit(affine, volumes_itk.says_unit(path)))
    return Volume(path, (x, y, z), affine, None, voxels, guessed, guessed)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that hold the volume `path`: of some formats, a header and its voxels. Raises InputError."""
    header = header_of(path)
    if is_header(header):
        return tuple(dict.fromkeys((header, voxels_of(header))))
    if path.name.lower().endswith(tuple(_ITK)):
        from dsnet_med.volumes_itk import data_file  # noqa: PLC0415

        voxels_elsewhere = data_file(path)
        return (path,) if voxels_elsewhere is None else (path, voxels_elsewhere)
    return (path,)


def _shape(path: Path, header: Any, volume_index: int | None = None) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3:
        raise InputError(
            f"{path}: is {len(shape)}-D {shape}, wanted a 3-D volume; put its slices into one file"
        )
    if min(shape) < 1:
        axis = next(number for number, length in enumerate(shape, 1) if length < 1)
        raise InputError(
            f"{path}: has no voxels, its header gives axis {axis} the length {shape[axis - 1]}; "
            f"correct dim[{axis}] (an axis that is not used has the length 1)"
        )
    if len(shape) > 3 or volume_index is not None:
        one_of(path, shape, volume_index)
    kind = header.get_data_dtype()
    if kind.fields or kind.kind == "c":
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


def _affine(path: Path, header: Any) -> NDArray[np.float64]:
    return checked_affine(path, np.asarray(header.get_best_affine(), np.float64))


def checked_affine(path: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """`affine` itself; InputError, which names `path`, where it is not finite or has no volume."""
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine is not finite; correct the header's sform or qform")
    sizes = spacing_mm(affine)
    # Unit edges: the determinant is the volume of the voxel's shape, whatever its size.
    if min(sizes) < _SMALLEST_SPACING_MM or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise InputError(f"{path}: its affine is singular (spacing {sizes} mm); correct the header")
    return affine
