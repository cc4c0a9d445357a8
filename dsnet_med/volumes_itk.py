"""Reading NRRD and MetaImage volumes through SimpleITK, in the axis order and world (RAS+) of NIfTI."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dsnet_med.errors import InputError, SeveralVolumesError, one_line
from dsnet_med.geometry import LPS_TO_RAS

_AXES = re.compile(rb"NDims[^=\n]*=([^\n]*)")
_DATA_FILE = {  # as ITK reads them
    "nrrd": re.compile(rb"^[ \t]*data ?file[ \t]*:(?!=)([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
    "meta": re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:]([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
}
_SPACE = re.compile(rb"^space( dimension)? *:", re.MULTILINE)
_SEGMENT = re.compile(rb"^(Segment\d+_(?:Name|LabelValue)):=(.*)$", re.MULTILINE)
_LONGEST_HEADER = 1 << 20


def read(path: Path, volume_index: int | None = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The voxels (X, Y, Z) as stored and the affine (4, 4) to RAS+ millimetres.

    `volume_index` takes one of several numbers per voxel, or one volume along a fourth axis. Raises InputError.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    _require_axes(path)
    with reading(path):
        image = sitk.ReadImage(str(path))
    return converted(path, image, volume_index)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """In here ITK says nothing, and what it cannot read of `path` becomes an InputError."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters is raised, in one line
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).rsplit("itk::ERROR:", 1)[-1]
        raise InputError(f"{path}: not a readable volume ({one_line(reason, 160)}); export it again") from error


def data_file(path: Path) -> Path | None:
    """The file that holds the voxels of a header file; None where they are in the header's own file.

    Raises InputError for voxels spread over several files, or in one that is not there.
    """
    found = _DATA_FILE["nrrd" if _is_nrrd(path) else "meta"].search(_header(path))
    name = found[1].decode("utf-8", "surrogateescape").strip() if found else "LOCAL"
    if name.upper() == "LOCAL":
        return None
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path}: its voxels lie in several files ({name}); save it as one .nrrd or .mha file")
    if not (voxels := path.parent / name).is_file():
        raise InputError(f"{path}: its voxels, {one_line(name)}, are not there")
    return voxels


def segment_names(path: Path) -> dict[int, str]:
    """What 3D Slicer's segmentation file (.seg.nrrd) calls its values; nothing for other files."""
    said = {key.decode(): _text(value) for key, value in _SEGMENT.findall(_header(path))}
    values = {key[:-11]: value for key, value in said.items() if key.endswith("_LabelValue")}
    return {
        int(value): said[f"{segment}_Name"]
        for segment, value in values.items()
        if value.isdecimal() and f"{segment}_Name" in said
    }


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip()


def says_where(path: Path) -> bool:
    """Whether the header says in which space it counts; NRRD files may leave it out."""
    return not _is_nrrd(path) or _SPACE.search(_header(path)) is not None


def _is_nrrd(path: Path) -> bool:
    return path.name.lower().endswith((".nrrd", ".nhdr"))


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(_LONGEST_HEADER)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if _is_nrrd(path):  # whose header ends with an empty line
        return re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    return start


def _require_axes(path: Path) -> None:
    """Raise InputError for a MetaImage of an odd number of axes, for which ITK writes beyond its memory."""
    for named in _AXES.findall(_header(path) if path.name.lower().endswith((".mha", ".mhd")) else b""):
        if named.strip() not in (b"2", b"3", b"4"):
            said = one_line(named.decode("latin-1"), 40)
            raise InputError(f"{path}: has NDims {said}, wanted 3; export it again")


def converted(
    path: Path, image: Any, volume_index: int | None = None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """As `read`, for an image that SimpleITK holds; `path` is its name in errors. Raises InputError."""
    _check_choice(path, image, volume_index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        voxels = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = voxels[..., volume_index]
    voxels = voxels.T
    if voxels.ndim == 4:
        voxels = voxels[..., volume_index or 0]
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path}: holds {voxels.dtype}, wanted one number per voxel")
    return voxels, _affine(image)


def _check_choice(path: Path, image: Any, volume_index: int | None) -> None:
    """Refuse what is not one volume, or an index that names none."""
    size, parts = image.GetSize(), image.GetNumberOfComponentsPerPixel()
    count = parts * (size[3] if len(size) == 4 else 1)
    if len(size) not in (3, 4) or (len(size) == 4 and parts > 1):
        raise InputError(
            f"{path}: is {len(size)}-D {size} with {parts} numbers per voxel, wanted one 3-D volume"
        )
    if volume_index is not None and not 0 <= volume_index < count:
        raise InputError(f"{path}: got volume index {volume_index}, wanted 0 to {count - 1}")
    if count == 1 or volume_index is not None:
        return
    if parts > 1:
        raise SeveralVolumesError(
            f"{path}: holds {parts} numbers per voxel, wanted one; "
            "export overlapping segments as one label map each",
            count,
        )
    raise SeveralVolumesError(f"{path}: is 4-D {size}, wanted one 3-D volume; split it first", count)


def _affine(image: Any) -> NDArray[np.float64]:
    axes = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), (axes, axes)) * image.GetSpacing())[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return np.asarray(LPS_TO_RAS @ affine)
