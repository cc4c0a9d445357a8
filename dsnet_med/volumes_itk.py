"""Reading NRRD and MetaImage volumes through SimpleITK, in the axis order and world (RAS+) of NIfTI."""

import locale
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dsnet_med.errors import InputError, SeveralVolumesError, cannot_read, one_line
from dsnet_med.geometry import LPS_TO_RAS

_AXES = re.compile(rb"NDims[^=\n]*=([^\n]*)")
_DATA_FILE = {  # as ITK reads them
    "nrrd": re.compile(rb"^[ \t]*data ?file[ \t]*:(?!=)([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
    "meta": re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:]([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
}
_FIELD = {
    "nrrd": re.compile(rb"^([\w ]+?)[ \t]*:(?!=)[ \t]*([^\r\n]*)", re.MULTILINE),
    "meta": re.compile(rb"^[ \t]*(\w+)[ \t]*[=:][ \t]*([^\r\n]*)", re.MULTILINE),
}
# What says where a volume lies, under the names that ITK knows: of MetaImage, in these letters alone.
_SPACING = {"nrrd": ("spacings", "spacedirections"), "meta": ("ElementSpacing", "ElementSize")}
_ORIGIN = {"nrrd": ("spaceorigin", "axismins"), "meta": ("Offset", "Position", "Origin")}
_DIRECTIONS = ("TransformMatrix", "Orientation", "Rotation")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SIDES = re.compile(r"(right|left)-(anterior|posterior)-superior|ras|las|lps")
_WITH_TIME = re.compile(r"(right|left)-(anterior|posterior)-superior-time|rast|last|lpst")
_MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres")
_SPATIAL = ("domain", "space")
_NO_UNIT = ("", "?", "???", "none", "unknown")
_BEFORE_REASON = re.compile(r".*ERROR:\s*(\w+\(\w+\):\s*)?", re.DOTALL)
_SEGMENT = re.compile(rb"^(Segment\d+)_(Name|LabelValue|Layer):=(.*)$", re.MULTILINE)
_LONGEST_HEADER = 1 << 20
_ONE_READER = Lock()


def read(path: Path, volume_index: int | None = None) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The voxels (X, Y, Z) as stored and the affine (4, 4) to RAS+ millimetres.

    `volume_index` takes one of several numbers per voxel, or one volume along a fourth axis. Raises InputError.
    """
    _require_readable(path)
    with reading(path):
        image = _reader(path).Execute()
    return converted(path, image, volume_index)


def read_grid(path: Path, volume_index: int | None = None) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """The shape of the one volume in a file and its affine, as `read`, from the header alone."""
    _require_readable(path)
    with reading(path):
        reader = _reader(path)
        reader.ReadImageInformation()
    _check_choice(path, reader.GetSize(), reader.GetNumberOfComponents(), volume_index)
    return reader.GetSize()[:3], _affine(reader)


def _reader(path: Path) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if _is_nrrd(path) else "MetaImageIO")  # which know no ending in capitals
    reader.SetFileName(str(path))
    return reader


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """In here ITK says nothing and a decimal point is a point; what it cannot read becomes an InputError.

    Both are settings of the process, put back afterwards, so one thread reads at a time. In a locale with a
    decimal comma ITK's NRRD reader takes 3.5 for 3.
    """
    with _ONE_READER:
        warns, numbers = sitk.ProcessObject.GetGlobalWarningDisplay(), locale.setlocale(locale.LC_NUMERIC)
        sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters is raised, in one line
        locale.setlocale(locale.LC_NUMERIC, "C")
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            reason = _BEFORE_REASON.sub("", str(error))
            raise cannot_read(
                path, error, f"not a readable volume ({one_line(reason, 160)}); export it again"
            ) from error
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(warns)
            locale.setlocale(locale.LC_NUMERIC, numbers)


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


def segments_of(path: Path) -> list[tuple[int, int, str]]:
    """Layer, value and name of the segments in 3D Slicer's segmentation file (.seg.nrrd); none of others."""
    said: dict[bytes, dict[bytes, str]] = {}
    for segment, key, value in _SEGMENT.findall(_header(path)):
        said.setdefault(segment, {})[key] = _text(value)
    found = []
    for own in said.values():
        value, layer = own.get(b"LabelValue", ""), own.get(b"Layer", "0")
        if value.isdecimal() and int(value) and layer.isdecimal() and own.get(b"Name"):
            found.append((int(layer), int(value), own[b"Name"]))
    return sorted(found)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip()


def unstated(path: Path) -> Iterator[str]:
    """What a header does not say of where the volume lies, and ITK fills in without a word."""
    fields = _fields(path)
    if _is_nrrd(path):
        space = fields.get("space")
        if space is None and "spacedimension" not in fields:
            yield "the header names no space: left and right are a guess"
        elif space is None or not (_SIDES.fullmatch(space.lower()) or _WITH_TIME.fullmatch(space.lower())):
            said = one_line(space or f"of {fields['spacedimension']} dimensions", 40)
            yield f"the header's space, {said}, names no side: left and right are a guess"
    else:
        fields = _fields(path, exact=True)
        if not any(name in fields for name in _DIRECTIONS):
            yield "the header gives no directions of its axes: left and right are a guess"
    kind = "nrrd" if _is_nrrd(path) else "meta"
    if not any(_numbers(fields.get(name, "")) for name in _SPACING[kind]):
        yield "the header gives no spacing that ITK reads: voxels of 1 mm are a guess"
    if not any(_numbers(fields.get(name, "")) for name in _ORIGIN[kind]):
        yield "the header gives no origin that ITK reads: where the volume lies is a guess"


def _numbers(text: str) -> bool:
    """Whether a field has finite numbers, or vectors of them, for three axes at least."""
    vectors = re.findall(r"\(([^)]*)\)", text)
    if len(vectors) > 1:
        return sum(all(_NUMBER.fullmatch(part.strip()) for part in each.split(",")) for each in vectors) >= 3
    parts = re.split(r"[\s,()]+", text.strip())
    return sum(_NUMBER.fullmatch(part) is not None and math.isfinite(float(part)) for part in parts) >= 3


def says_unit(path: Path) -> bool:
    """Whether the header names its unit of length."""
    return any(unit in _MILLIMETRES for unit in _units(path))


def _require_readable(path: Path) -> None:
    """Raise InputError for what ITK reads otherwise than the header says."""
    fields = _fields(path)
    _require_millimetres(path, _units(path))
    if _is_nrrd(path):
        space = fields.get("space", "").lower()
        if _WITH_TIME.fullmatch(space) and not space.startswith(("left-posterior", "lps")):
            raise InputError(f"{path}: its space, {space}, has an axis of time; save one 3-D volume of it")
        return
    for axes in _AXES.findall(_header(path)):  # of an odd number of axes ITK writes beyond its memory
        if axes.strip() not in (b"2", b"3", b"4"):
            said = one_line(axes.decode("latin-1"), 40)
            raise InputError(f"{path}: has NDims {said}, wanted 3; export it again")
    slope, offset = (fields.get(f"elementtointensityfunction{part}") for part in ("slope", "offset"))
    if not _equals(slope or "1", 1) or not _equals(offset or "0", 0):
        raise InputError(
            f"{path}: its header scales its voxels by {one_line(f'{slope or 1} and {offset or 0}', 40)}, "
            "which is not applied; save the scaled values"
        )


def _require_millimetres(path: Path, units: Sequence[str]) -> None:
    for unit in units:
        if unit not in (*_MILLIMETRES, *_NO_UNIT):
            raise InputError(
                f"{path}: its header counts in '{one_line(unit, 20)}', wanted millimetres; "
                "correct spacing, origin and units"
            )


def _equals(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def _units(path: Path) -> list[str]:
    """The units of length that the header names, in lower case."""
    fields = _fields(path)
    if not _is_nrrd(path):
        return [fields.get("distanceunits", "").strip('"').lower()]
    of_axes, kinds = _quoted(fields.get("units", "")), fields.get("kinds", "").lower().split()
    spatial = [unit for unit, kind in zip(of_axes, kinds or ["domain"] * 3, strict=False) if kind in _SPATIAL]
    return [*_quoted(fields.get("spaceunits", ""))[:3], *spatial]


def _quoted(text: str) -> Sequence[str]:
    return [part.strip().lower() for part in re.findall(r'"([^"]*)"', text)] or text.lower().split()


def _fields(path: Path, *, exact: bool = False) -> dict[str, str]:
    """The header's fields, their names in lower case and without spaces: `space units` is `spaceunits`.

    `exact` leaves the names as they are.
    """
    header = _header(path)
    if not _is_nrrd(path):
        header = header[: end.start()] if (end := _DATA_FILE["meta"].search(header)) else header
    pattern = _FIELD["nrrd" if _is_nrrd(path) else "meta"]
    found = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in pattern.findall(header))
    return {name if exact else "".join(name.lower().split()): value.strip() for name, value in found}


def _is_nrrd(path: Path) -> bool:
    return path.name.lower().endswith((".nrrd", ".nhdr"))


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(_LONGEST_HEADER)
    except OSError as error:
        raise cannot_read(path, error, str(error)) from error
    if _is_nrrd(path):  # whose header ends with an empty line
        return re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    return start


def converted(
    path: Path, image: Any, volume_index: int | None = None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """As `read`, for an image that SimpleITK holds; `path` is its name in errors. Raises InputError."""
    if image.HasMetaDataKey("ITK_VoxelUnits"):  # that a MetaImage file said
        _require_millimetres(path, [image.GetMetaData("ITK_VoxelUnits")])
    parts = image.GetNumberOfComponentsPerPixel()
    _check_choice(path, image.GetSize(), parts, volume_index)
    voxels = sitk.GetArrayViewFromImage(image)
    if parts > 1:
        voxels = voxels[..., volume_index]
    voxels = voxels.T
    if voxels.ndim == 4:
        voxels = voxels[..., volume_index or 0]
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path}: holds {voxels.dtype}, wanted one number per voxel")
    return np.array(voxels, order="F"), _affine(image)  # of this volume alone: the others can go


def _check_choice(path: Path, size: tuple[int, ...], parts: int, volume_index: int | None) -> None:
    """Refuse what is not one volume, or an index that names none."""
    if len(size) == 2:
        raise InputError(f"{path}: is 2-D {size}, wanted a 3-D volume; put its slices into one file")
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
