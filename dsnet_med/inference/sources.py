"""From what a user names (files, folders, patterns, DICOM series) to one source per case, and to its volume."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dsnet_med.dicom.series import choose, find_series, is_dicom, over_folders
from dsnet_med.errors import InputError, SeveralVolumesError
from dsnet_med.volumes import Volume, case_name, files_of, is_volume, read_image

# What lies among volumes and is one, but cannot be read: to be refused by name rather than passed over.
_OTHER_VOLUMES = (".img", ".mgz", ".mgh", ".mnc", ".par", ".rec", ".dcm", ".ima")
RESERVED = ("labels", "run", "statistics")


@dataclass(frozen=True)
class Source:
    """One case: a volume file, or the DICOM files of a folder, of which a series is chosen on reading."""

    case: str
    kind: Literal["file", "dicom"]
    files: tuple[Path, ...]
    where: Path = field(compare=False)  # the file, or the folder of the files


def find_sources(paths: Sequence[Path], leave_out: Path | None = None) -> list[Source]:
    """The cases named by `paths`: files, folders (searched with all that they hold), patterns like `*.nii`.

    A case has the name of its file, or of its DICOM folder; below a given folder, the way there is put before
    it: `patient1/ct.nii` is `patient1_ct`. `leave_out` is a folder not to search, the one to write to. Raises
    InputError for what does not exist, for folders without a volume, and for two cases of one name.
    """
    sources: list[Source] = []
    out = leave_out.resolve() if leave_out else None
    for path in _expanded(paths):
        if path.is_dir():
            if path.resolve() == out:
                raise InputError(f"{path}: is the folder to write to; choose another --out")
            found = list(_below(path, path, out, set()))
            if not found:
                raise InputError(f"{path}: holds no .nii, .nii.gz, .nrrd, .mha or DICOM file")
            sources += found
        elif path.is_file():
            sources.append(_single(path))
        elif path.exists():
            raise InputError(f"{path}: neither a file nor a folder; give a volume")
        else:
            raise InputError(f"{path}: no such file or folder")
    return _named_apart(_reunited(_grouped(sources)))


def load(source: Source, volume_index: int | None = None, series: str | None = None) -> Volume:
    """The volume of a source. Raises InputError."""
    if source.kind == "file":
        if series is not None:
            raise InputError(f"{source.where}: got --series {series} for a file; it picks among DICOM series")
        files_of(source.where)  # what it refuses could change unseen: only its header would be looked at
        try:
            return read_image(source.where, volume_index)
        except SeveralVolumesError as error:
            hint = f"take one with --volume-index 0 to {error.count - 1}"
            raise InputError(f"{str(error).rpartition(';')[0]}; {hint}") from error
    from dsnet_med.dicom.read import read_series  # noqa: PLC0415 -- its decoders take time to load

    chosen, notice = choose(find_series(source.files), series, source.where)
    volume = read_series(chosen, volume_index)
    return volume if notice is None else volume.noted(notice)


def _expanded(paths: Sequence[Path]) -> Iterator[Path]:
    """`paths` with patterns replaced by what they match, for shells that do not do it."""
    for path in paths:
        if path.exists() or not glob.has_magic(str(path)):
            yield path
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 -- takes absolute patterns
        if not matches:
            raise InputError(f"{path}: matches no file or folder")
        yield from map(Path, matches)


def _single(path: Path) -> Source:
    if is_dicom(path):
        return Source(_bare(path), "dicom", (path,), path)
    header = _header_of(path)
    return Source(case_name(path), "file", _files_of(header), header)


def _header_of(path: Path) -> Path:
    """The .hdr of an .img, where there is one: the pair is one volume."""
    header = path.with_suffix(".hdr")
    return header if path.suffix.lower() == ".img" and header.is_file() else path


def _below(folder: Path, top: Path, leave_out: Path | None, seen: set[Path]) -> Iterator[Source]:
    """The sources in a folder and below; `seen` are the folders searched so far: links may lead back."""
    place = folder.resolve()
    if place == leave_out or place in seen:
        return
    seen.add(place)
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    # A link that leads nowhere is somebody's volume too, which has not been fetched.
    files = [entry for entry in entries if entry.is_file() or (entry.is_symlink() and not entry.exists())]
    prefix = "".join(f"{part}_" for part in folder.relative_to(top).parts)
    dicom = []
    for file in files:
        if is_volume(file):
            yield Source(prefix + case_name(file), "file", _files_of(file), file)
        elif is_dicom(file):
            dicom.append(file)
        elif file.name.lower().endswith(_OTHER_VOLUMES) and _header_of(file) == file:
            yield Source(prefix + _bare(file), "file", (file,), file)
    if dicom:
        yield Source(prefix.removesuffix("_") or _own_name(folder), "dicom", tuple(dicom), folder)
    for entry in entries:
        if entry.is_dir():
            yield from _below(entry, top, leave_out, seen)


def _files_of(path: Path) -> tuple[Path, ...]:
    try:
        return files_of(path)
    except InputError:  # which reading it will raise
        return (path,)


def _own_name(folder: Path) -> str:
    return folder.resolve().name or "case"


def _bare(file: Path) -> str:
    return file.name.removesuffix(file.suffix) if file.suffix.lower() in _OTHER_VOLUMES else file.name


def _grouped(sources: Sequence[Source]) -> list[Source]:
    """DICOM files of one folder that were named one by one, `ct/*.dcm`, are one case with the folder's name."""
    loose: dict[Path, list[Source]] = {}
    for source in sources:
        if _is_loose(source):
            loose.setdefault(source.where.parent, []).append(source)
    grouped = []
    for source in sources:
        group = loose.get(source.where.parent, []) if _is_loose(source) else []
        if len(group) < 2:
            grouped.append(source)
        elif source is group[0]:
            folder = source.where.parent
            files = tuple(dict.fromkeys(file for one in group for file in one.files))
            grouped.append(Source(_own_name(folder), "dicom", files, folder))
    return grouped


def _reunited(sources: Sequence[Source]) -> list[Source]:
    """Folders beside each other that hold pieces of one DICOM stack are one case, with the name of theirs."""
    beside: dict[Path, list[Source]] = {}
    for source in sources:
        if source.kind == "dicom" and source.where.is_dir():
            beside.setdefault(source.where.parent, []).append(source)
    found = list(sources)
    for folder, pieces in beside.items():
        for group in _torn(pieces):
            case = group[0].case.removesuffix(group[0].where.name).rstrip("_") or _own_name(folder)
            whole = Source(case, "dicom", tuple(file for one in group for file in one.files), folder)
            found[found.index(group[0])] = whole
            found = [source for source in found if source not in group]
    return found


def _torn(pieces: Sequence[Source]) -> list[list[Source]]:
    try:
        groups = over_folders([piece.files for piece in pieces]) if len(pieces) > 1 else []
    except InputError:  # which reading the file will raise
        groups = []
    return [[pieces[index] for index in group] for group in groups]


def _is_loose(source: Source) -> bool:
    return source.kind == "dicom" and source.files == (source.where,)


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, each once. Raises InputError where two have one name, or one that is taken."""
    by_case: dict[str, Source] = {}
    for source in sources:
        other = by_case.setdefault(source.case, source)
        if source.case in RESERVED:
            raise InputError(
                f"{source.where}: a case cannot be called '{source.case}', which is a file in --out; rename it"
            )
        if other is not source and [f.resolve() for f in other.files] != [f.resolve() for f in source.files]:
            raise InputError(
                f"two inputs are called '{source.case}': {other.where} and {source.where}; rename one"
            )
    return list(by_case.values())
