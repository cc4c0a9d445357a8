"""MetaImage headers, read strictly before ITK sees them.

ITK's reader writes beyond its memory for an odd number of axes, and takes voxels from any file that a header
names. So only headers of this form reach it: one line a field, each field once, numbers where numbers belong,
and the voxels in the file itself.
"""

import mmap
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dsnet_med.errors import InputError

_LONGEST_HEADER = 1 << 16
_LONGEST_VALUE = 1000
_LINE = re.compile(r"([\w|.]{1,80})[ \t]*=[ \t]*([ -~\t]*)")
_LAST = "ElementDataFile"
_AXES = ("2", "3", "4")
_NUMBER = re.compile(r"[+-]?(\d{1,20}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?")
_COUNT = re.compile(r"[1-9]\d{0,9}")
_TYPE = re.compile(r"MET_[A-Z_]{1,30}")
_NUMBERS: Mapping[str, Callable[[int], int]] = {
    "TransformMatrix": lambda axes: axes * axes,
    "Rotation": lambda axes: axes * axes,
    "Orientation": lambda axes: axes * axes,
    "Offset": lambda axes: axes,
    "Position": lambda axes: axes,
    "Origin": lambda axes: axes,
    "CenterOfRotation": lambda axes: axes,
    "ElementSpacing": lambda axes: axes,
    "ElementSize": lambda axes: axes,
    "DimSize": lambda axes: axes,
    "SequenceID": lambda axes: axes,
    "Color": lambda _: 4,
    "ElementMin": lambda _: 1,
    "ElementMax": lambda _: 1,
    "ElementNumberOfChannels": lambda _: 1,
    "CompressedDataSize": lambda _: 1,
    "CompressionLevel": lambda _: 1,
    "ID": lambda _: 1,
    "ParentID": lambda _: 1,
}
_COUNTS = ("DimSize", "ElementNumberOfChannels")
_REFUSED = ("HeaderSize",)  # where voxels begin: at once, here


def shape_of_metaimage(path: Path) -> tuple[int, ...]:
    """The sizes that a MetaImage header names, and the numbers per voxel. Raises InputError."""
    fields = _fields(path)
    if fields[_LAST] not in ("LOCAL", "Local", "local") or not _says_once(path):
        raise InputError(f"{path}: has its voxels in another file; send one .mha file that holds them")
    if fields.get("NDims") not in _AXES or "DimSize" not in fields:
        raise InputError(f"{path}: has NDims {fields.get('NDims')}, wanted 3 and a DimSize; export it again")
    axes = int(fields["NDims"])
    for name, value in fields.items():
        if not _fits(name, value, axes) or _too_early(name, fields):
            raise InputError(f"{path}: its header has {name} = {value[:80]}, which cannot be; export it again")
    if float(fields.get("CompressedDataSize", 0)) > path.stat().st_size:
        raise InputError(f"{path}: cut short, its header names more bytes than it holds; send it again")
    return *map(int, fields["DimSize"].split()), int(fields.get("ElementNumberOfChannels", "1"))


def _says_once(path: Path) -> bool:
    """Whether the whole file names but one place for its voxels, however it is read."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        first = content.find(_LAST.encode())
        return content.find(_LAST.encode(), first + 1) < 0


def _fields(path: Path) -> dict[str, str]:
    """The fields of the header, the last of which says where the voxels are."""
    with path.open("rb") as stream:
        start = stream.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    for line in start.split(b"\n"):
        found = _LINE.fullmatch(line.removesuffix(b"\r").decode("latin-1"))
        if found is None or found[1] in fields or len(found[2]) > _LONGEST_VALUE:
            break
        fields[found[1]] = found[2].strip()
        if found[1] == _LAST:
            return fields
    raise InputError(f"{path}: its header is not one line for each field up to {_LAST}; export it again")


def _too_early(name: str, fields: Mapping[str, str]) -> bool:
    """Whether a field comes before the number of axes, on which its length depends."""
    names = list(fields)
    return name in _NUMBERS and names.index(name) < names.index("NDims")


def _fits(name: str, value: str, axes: int) -> bool:
    if name in _REFUSED or not value:
        return False
    if name == "ElementType":
        return _TYPE.fullmatch(value) is not None
    if name not in _NUMBERS:
        return True
    parts = value.split()
    pattern = _COUNT if name in _COUNTS else _NUMBER
    return len(parts) == _NUMBERS[name](axes) and all(pattern.fullmatch(part) for part in parts)
