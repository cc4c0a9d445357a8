"""From what a user names (files, folders, patterns, DICOM series) to one source per case."""

import filecmp
import glob
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from dsnet_med.errors import InputError, SeveralVolumesError, first_of
from dsnet_med.find import (
    absent,
    case_name,
    entries_of,
    folders_below,
    is_dangling,
    is_file_or_dangling,
    is_volume,
    require_file,
    unreadable,
)
from dsnet_med.inference.case_table import CSV, read_table
from dsnet_med.inference.channel_groups import by_channel, of_parts
from dsnet_med.inference.output_folder import masks_among
from dsnet_med.inference.settings import ONE_CHANNEL
from dsnet_med.inference.source import Source as Source  # noqa: PLC0414 -- for those who find them
from dsnet_med.inference.source import own_name
from dsnet_med.sniff import is_dicom
from dsnet_med.volumes import Volume, files_of, read_image, unchanged
from dsnet_med.volumes_nifti import header_of

_OF_DICOM = (".dcm", ".ima")
# What lies among volumes and is one, but cannot be read: to be refused by name rather than passed over.
_OTHER_VOLUMES = (".img", ".img.gz", ".img.bz2", ".mgz", ".mgh", ".mnc", ".par", ".rec", *_OF_DICOM)
_RESERVED = ("labels", "run", "statistics")
_SHOWN = 3
_SLICER = ".seg.nrrd"
_NO_IMAGE = "{}: is a segmentation of 3D Slicer, wanted an image; move it elsewhere"
Note = Callable[[str], None]


def find_sources(
    paths: Sequence[Path],
    leave_out: Path | None = None,
    note: Note = lambda _: None,
    channels: Sequence[str] = (ONE_CHANNEL,),
) -> list[Source]:
    """The cases named by `paths`: files, folders (searched with all that they hold), patterns like `*.nii`.

    Of several `channels` a case may be one file or series for each, called CASE_t1, t1_CASE or CASE_0000
    (`channel_names.py`), given as one path, `a.nii,b.nii`, in their order, or as a row of a CSV file
    (`case_table.py`).

    A case has the name of its file, or of its DICOM folder; below a given folder, the way there is put before
    it: `patient1/ct.nii` is `patient1_ct`. `leave_out` is a folder not to search, the one to write to. Masks
    that `infer` wrote are passed over, which `note` is told. Cases of one name, links that lead nowhere and
    the like are sources that are `refused`. Raises InputError for what does not exist, and for folders without
    a volume, and for DICOM alone where the extra `dicom` is not installed.
    """
    sources: list[Source] = []
    out = leave_out.resolve() if leave_out else None
    for path in _expanded(paths):
        if path.suffix.lower() == CSV and path.is_file():
            sources += [_listed(row.case, row.files, channels) for row in read_table(path, channels)]
        elif "," in str(path) and not path.exists():
            sources.append(_listed("", [Path(part) for part in str(path).split(",")], channels))
        elif path.is_dir():
            if path.resolve() == out:
                raise InputError(f"{path}: is the folder to write to; choose another --out")
            sources += _searched(path, out, note)
        elif is_file_or_dangling(path):
            sources.append(_single(path))
        elif path.exists():
            raise InputError(f"{path}: neither a file nor a folder; give a volume")
        else:
            _refuse_absent(path)
    if sources and all(source.kind == "dicom" for source in sources):
        import dsnet_med.dicom  # noqa: F401, PLC0415 -- among others, each fails by itself
    return _named_apart(by_channel(_reunited(_grouped(sources)), channels))


def load(
    source: Source, volume_index: int | None = None, series: str | None = None, *, hashed: bool = False
) -> Volume:
    """The volume of a source, with the digests of its files where `hashed`. Raises InputError."""
    if source.refused is not None:
        raise InputError(source.refused)
    if source.kind == "file":
        if series is not None:
            raise InputError(f"{source.where}: got --series {series} for a file; it picks among DICOM series")
        files_of(source.where)  # what it refuses could change unseen: only its header would be looked at
        try:
            return read_image(source.where, volume_index, hashed=hashed)
        except SeveralVolumesError as error:
            hint = f"take one with --volume-index 0 to {error.count - 1}"
            raise InputError(f"{str(error).rpartition(';')[0]}; {hint}") from error
    from dsnet_med.dicom.read import read_series  # noqa: PLC0415 -- an extra, and its decoders take time to load
    from dsnet_med.dicom.series import choose, find_series  # noqa: PLC0415

    with unchanged(source.files if hashed else ()) as digests:
        chosen, notice = choose(find_series(source.files), series, source.where)
        volume = replace(read_series(chosen, volume_index), digests=digests)
    return volume if notice is None else volume.noted(notice)


# ---------------------------------------------------------------- what is named


def require_there(paths: Sequence[Path]) -> None:
    """Raise InputError for what does not exist, at once; lists of files are not looked at."""
    for path in _expanded(paths):
        if not (path.exists() or is_file_or_dangling(path) or "," in str(path)):
            _refuse_absent(path)


def _refuse_absent(path: Path) -> NoReturn:
    if path.is_symlink():
        require_file(path)  # says where it leads
    raise InputError(f"{path}: no such file or folder")


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
    if is_dangling(path):
        return Source(
            case_name(path) if is_volume(path) else _bare(path), "file", (path,), path, str(absent(path))
        )
    masks = masks_among(path.parent, [path])
    if path in masks.written:
        refused = f"{path}: is a mask that infer wrote, wanted an image"
        return Source(case_name(path), "file", (path,), path, refused)
    if path.name.lower().endswith(_SLICER):
        return Source(_bare(path), "file", (path,), path, _NO_IMAGE.format(path))
    if is_dicom(path):
        return Source(_bare(path), "dicom", (path,), path)
    return _volume("", header_of(path), _doubt(path) if masks.doubtful else None)


def _volume(prefix: str, file: Path, refused: str | None) -> Source:
    try:
        files = files_of(file)
    except InputError:  # which reading it will raise
        files = (file,)
    return Source(prefix + case_name(file), "file", files, file, refused)


def _doubt(path: Path) -> str:
    return f"{path}: lies among masks that infer wrote and may be one; move it elsewhere to segment it"


def _bare(file: Path) -> str:
    return file.name.removesuffix(file.suffix) if file.suffix.lower() in _OTHER_VOLUMES else file.name


# ---------------------------------------------------------------- what a folder holds


def _searched(folder: Path, leave_out: Path | None, note: Note) -> list[Source]:
    """All sources in a folder and below. Raises InputError where there is none."""
    found: list[Source] = []
    written: list[Path] = []  # masks of earlier runs
    for place in (folder, *folders_below(folder)):
        if leave_out is None or leave_out not in (place.resolve(), *place.resolve().parents):
            found += _in_folder(place, folder, written)
    found = list(_copies_refused(found, written))
    if written:
        count = "a mask" if len(written) == 1 else f"{len(written)} masks"
        where = first_of(dict.fromkeys(file.parent for file in written), _SHOWN)
        note(f"passed over {count} that infer wrote, in {where}: wanted images")
    if not found:
        wanted = "no .nii, .nii.gz, .nrrd, .mha or DICOM file"
        raise InputError(
            f"{folder}: holds {'nothing but masks that infer wrote, wanted images' if written else wanted}"
        )
    return found


def _in_folder(folder: Path, top: Path, written: list[Path]) -> Iterator[Source]:
    """The sources that lie in a folder itself; masks of earlier runs are added to `written`."""
    prefix = "".join(f"{part}_" for part in folder.relative_to(top).parts)
    own = prefix.removesuffix("_") or own_name(folder)
    try:
        files = [entry for entry in entries_of(folder) if is_file_or_dangling(entry)]
    except InputError as error:
        yield Source(own, "file", (folder,), folder, str(error))
        return
    masks = masks_among(folder, files)
    written += sorted(masks.written)
    dicom, lost = [], []
    for file in sorted(set(files) - masks.written):
        if file.name.lower().endswith(_SLICER):
            yield Source(prefix + _bare(file), "file", (file,), file, _NO_IMAGE.format(file))
        elif is_volume(file):
            yield _volume(prefix, file, _doubt(file) if file in masks.doubtful else unreadable(file))
        elif is_dicom(file):
            dicom.append(file)
        elif unreadable(file) and _may_be_dicom(file):
            lost.append(file)
        elif file.name.lower().endswith(_OTHER_VOLUMES) and header_of(file) == file:
            yield Source(prefix + case_name(file), "file", (file,), file, unreadable(file))
    if dicom or lost:
        of = f" ({len(lost)} of {len(dicom) + len(lost)} files)" if len(dicom) + len(lost) > 1 else ""
        refused = f"{unreadable(lost[0])}{of}" if lost else None  # a series without its last slice looks whole
        yield Source(own, "dicom", tuple(dicom or lost), folder, refused)


def _may_be_dicom(file: Path) -> bool:
    """Whether a DICOM file could have this name: its own endings, none, or numbers; a folder's, for a link."""
    suffix = file.suffix.lower()
    return suffix in _OF_DICOM or suffix.removeprefix(".").isdecimal() or not suffix


def _copies_refused(sources: Sequence[Source], masks: Sequence[Path]) -> Iterator[Source]:
    """The sources; those refused whose file is one of these masks under another name."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for mask in filter(Path.is_file, masks):
        by_size[mask.stat().st_size].append(mask)
    for source in sources:
        size = source.where.stat().st_size if by_size and source.refused is None else -1
        same = (mask for mask in by_size.get(size, ()) if filecmp.cmp(mask, source.where, shallow=False))
        if (copied := next(same, None)) is None:
            yield source
        else:
            why = f"is a copy of {copied}, a mask that infer wrote; wanted an image"
            yield replace(source, refused=f"{source.where}: {why}")


# ---------------------------------------------------------------- several channels


def _listed(case: str, files: Sequence[Path], channels: Sequence[str]) -> Source:
    """The case whose channels lie in these files, in the order of the channels; without a name, by theirs."""
    parts = []
    for file in files:
        try:
            _require_there(file)
            found = _searched(file, None, lambda _: None) if file.is_dir() else [_single(file)]
            refused = None if len(found) == 1 else f"{file}: holds {len(found)} volumes, wanted one"
        except InputError as error:
            found, refused = [Source(case_name(file), "file", (file,), file)], str(error)
        parts.append(replace(found[0], refused=found[0].refused or refused))
    return of_parts(case, parts, channels)


def _require_there(file: Path) -> None:
    if not (file.is_dir() or is_file_or_dangling(file)):
        raise InputError(f"{file}: no such file or folder")


# ---------------------------------------------------------------- what belongs together, or is called alike


def _grouped(sources: Sequence[Source]) -> list[Source]:
    """DICOM files of one folder that were named one by one, `ct/*.dcm`, are one case with the folder's name."""
    loose: dict[Path, list[Source]] = defaultdict(list)
    for source in sources:
        if source.kind == "dicom" and source.files == (source.where,):
            loose[source.where.parent].append(source)
    return _replaced(sources, [(own_name(folder), group) for folder, group in loose.items() if len(group) > 1])


def _reunited(sources: Sequence[Source]) -> list[Source]:
    """Folders beside each other that hold pieces of one DICOM stack are one case, with the name of theirs."""
    beside: dict[Path, list[Source]] = defaultdict(list)
    for source in sources:
        if source.kind == "dicom" and source.where.is_dir():
            beside[source.where.parent].append(source)
    found = list(sources)
    for folder, pieces in beside.items():
        for group in _torn(pieces):
            case = group[0].case.removesuffix(group[0].where.name).rstrip("_") or own_name(folder)
            found = _replaced(found, [(case, group)])
    return found


def _torn(pieces: Sequence[Source]) -> list[list[Source]]:
    if len(pieces) < 2:
        return []
    try:
        from dsnet_med.dicom.series import over_folders  # noqa: PLC0415 -- an extra

        groups = over_folders([piece.files for piece in pieces])
    except InputError:  # which reading the file will raise
        return []
    return [[pieces[index] for index in group] for group in groups]


def _replaced(sources: Sequence[Source], groups: Sequence[tuple[str, list[Source]]]) -> list[Source]:
    """The sources with each group of DICOM files as one case of that name, at the place of its first."""
    found = list(sources)
    for case, group in groups:
        files = tuple(dict.fromkeys(file for one in group for file in one.files))
        found[found.index(group[0])] = Source(case, "dicom", files, group[0].where.parent)
        found = [source for source in found if source not in group]
    return found


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, each once; those whose name is another's too, or is taken, are refused."""
    by_name: dict[str, dict[tuple[Path, ...], Source]] = defaultdict(dict)
    for source in sources:  # under what names have in common that some file systems take for one
        name = unicodedata.normalize("NFC", source.case).casefold()
        by_name[name].setdefault(tuple(file.resolve() for file in source.files), source)
    return [each for name, group in by_name.items() for each in _apart(name, list(group.values()))]


def _apart(name: str, group: Sequence[Source]) -> list[Source]:
    """The sources of one name; of several one for each spelling, refused."""
    if name in _RESERVED:
        taken = f"a case cannot be called '{group[0].case}', which is a file in --out; rename it"
        group = [replace(source, refused=f"{source.where}: {taken}") for source in group]
    if len(group) == 1:
        return list(group)
    first = {source.case: source for source in reversed(group)}
    spellings = list(dict.fromkeys(source.case for source in group))
    names = " and ".join(f"'{case}'" for case in spellings[:_SHOWN])
    count = "two" if len(group) == 2 else str(len(group))
    places = " and ".join(str(source.where) for source in group[:_SHOWN])
    one_file = ", which is one file on some disks" if len(spellings) > 1 else ""
    refused = f"{count} inputs are called {names}{one_file}: {places}; rename all but one"
    return [replace(first[case], refused=refused) for case in spellings]
