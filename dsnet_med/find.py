"""Which files there are: what lies in a folder and below, what bears a volume's name, what is not there.

Hidden entries are left out everywhere. A link that leads nowhere is somebody's file that has not been fetched
(git-annex, DVC): a case that fails when it is opened, not one that is not there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dsnet_med.errors import InputError, cannot_read

_PACKED = (".gz", ".bz2", ".xz", ".zst", "")  # the last two are known to be volumes, and refused by content
NIFTI = tuple(f"{ending}{packed}" for packed in _PACKED for ending in (".nii", ".hdr"))
VOXELS = tuple(f".img{packed}" for packed in _PACKED)  # of a pair, which has the name of its header
FORMS = {  # of a mask that `infer` writes, by what --format calls them: the ending of a case's file
    "nifti": ".nii.gz",
    "seg.nrrd": ".seg.nrrd",
    "dicom-seg": ".dcm",
    "dicom-labelmap": ".labelmap.dcm",
    "rtstruct": ".rtstruct.dcm",
}
NRRD, METAIMAGE = (".nrrd", ".nhdr"), (".mha", ".mhd")


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without what is hidden. Raises InputError where it cannot be listed."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise cannot_read(folder, error, f"cannot be listed ({error})") from error


def files_in(folder: Path) -> list[Path]:
    """The files of a folder by name, links that lead nowhere among them. Raises InputError."""
    return [entry for entry in entries_of(folder) if is_file_or_dangling(entry)]


def folders_in(folder: Path) -> list[Path]:
    """The folders of a folder by name. Raises InputError."""
    return [entry for entry in entries_of(folder) if is_folder(entry)]


def volumes_in(folder: Path) -> list[Path]:
    """The entries of a folder that bear a volume's name. Raises InputError."""
    return [entry for entry in entries_of(folder) if is_volume(entry)]


def folders_below(folder: Path, levels: int | None = None) -> Iterator[Path]:
    """The folders in a folder, in those, and so on, the nearest first, each once though links may lead back.

    Those that cannot be listed are yielded, and not looked into.
    """
    nearest, seen = [folder], {folder.resolve()}
    while nearest and levels != 0:
        inside: list[Path] = []
        for outer in nearest:
            try:
                inside += [inner for inner in folders_in(outer) if inner.resolve() not in seen]
            except InputError:
                continue
            seen.update(inner.resolve() for inner in inside)
        yield from inside
        nearest = inside
        levels = None if levels is None else levels - 1


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; of what may not be looked at, False."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path's raises where it may not look


def is_file_or_dangling(path: Path) -> bool:
    """Whether `path` is a file, or stands for one: a link that leads nowhere."""
    return os.path.isfile(path) or is_dangling(path)  # noqa: PTH113 -- as above


def is_dangling(path: Path) -> bool:
    """Whether `path` is a link that leads nowhere."""
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114 -- as above


def absent(path: Path) -> InputError:
    """The error for a file that is not there; of a link that leads nowhere it says where to."""
    if is_dangling(path):
        target = os.readlink(path)  # noqa: PTH115 -- a str, with the bytes that are no text
        return InputError(
            f"{path}: no such file, it is a link to {target}, which is not there; "
            "fetch the data (git annex get, dvc pull) or mend the link"
        )
    if path.exists() and not path.is_dir():
        return InputError(f"{path}: is a pipe, a socket or a device, wanted a file")
    return InputError(f"{path}: no such file")


def require_file(path: Path) -> None:
    """Raise InputError unless `path` is a file; a link that leads nowhere is called one."""
    try:
        if path.is_file():
            return
    except OSError as error:
        raise cannot_read(path, error, f"cannot be read ({error})") from error
    raise absent(path)


def unreadable(file: Path) -> str | None:
    """Why a file cannot be opened, or None."""
    if is_dangling(file):
        return str(absent(file))
    return None if os.access(file, os.R_OK) else f"{file}: cannot be read (permission denied)"


def is_nifti(path: Path) -> bool:
    """Whether the file's name is that of a NIfTI volume."""
    return path.name.lower().endswith(NIFTI)


def is_volume(path: Path) -> bool:
    """Whether the file's name is that of a volume; a pair has that of its header."""
    return path.name.lower().endswith((*NIFTI, *NRRD, *METAIMAGE))


def case_name(path: Path) -> str:
    """The file's name without `.nii.gz`, `.nrrd` and the like."""
    for suffix in (*NIFTI, *VOXELS, *NRRD, *METAIMAGE):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def mask_case(path: Path) -> str:
    """The case of a mask that `infer` wrote in any of its forms; of other files as `case_name`."""
    for ending in sorted(FORMS.values(), key=len, reverse=True):
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return case_name(path)


def the_volume(path: Path) -> Path:
    """`path` or, of a folder that bears a volume's name, as some unpackers make, the one volume in it."""
    inside = [file for file in files_in(path) if is_volume(file)] if is_folder(path) else []
    return inside[0] if len(inside) == 1 else path
