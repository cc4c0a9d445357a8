"""From an uploaded file to the one source in it, under a name that says what it is."""

from pathlib import Path

from dsnet_med.archives import numbered, unpack
from dsnet_med.errors import InputError
from dsnet_med.inference.sources import Source, find_sources
from dsnet_med.server.dicom_files import require_bounded_dicom
from dsnet_med.server.headers import A_PAIR, require_bounded
from dsnet_med.server.kinds import SUFFIXES, WANTED, Kind, kind_of, no_kind
from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import Refused
from dsnet_med.server.zips import require_bounded_zip
from dsnet_med.sniff import content_of, is_dicom, is_pair_header


def source_in(upload: Path, limits: Limits) -> Source:
    """The volume file or DICOM series in an upload; its file is renamed, an archive unpacked beside it.

    Raises Refused for content of another kind and for what is too large, InputError for what cannot be read.
    """
    kind = kind_of(upload)
    if kind is None:
        raise Refused(415, f"{no_kind(upload)}; {WANTED}")
    if kind == "zip":
        return _in_archive(upload, limits)
    return _file(upload, upload.with_name("input"), kind, limits)


def _in_archive(upload: Path, limits: Limits) -> Source:
    folder = upload.with_name("unpacked")
    require_bounded_zip(upload, limits)
    unpack(upload, folder, name=numbered, most_bytes=limits.most_unpacked, most_files=limits.most_files)
    upload.unlink()
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    kinds = {file: kind for file in files if (kind := kind_of(file)) not in (None, "zip")}
    dicom = [file for file, kind in kinds.items() if kind == "dicom" and is_dicom(file)]  # and no DICOMDIR
    others = {file: kind for file, kind in kinds.items() if kind not in (None, "dicom")}
    if len(others) == 1 and not dicom:
        ((file, kind),) = others.items()
        return _file(file, file, kind, limits)
    if any(_is_pair_header(file) for file in others):
        raise Refused(415, A_PAIR)
    if others:
        with_dicom = f" and {len(dicom)} DICOM files" if dicom else ""
        raise InputError(f"the archive holds {len(others)} volume files{with_dicom}; send one volume at a time")
    if not dicom:
        raise Refused(415, f"the archive holds no volume; {WANTED}")
    require_bounded_dicom(dicom, limits)
    return _only(folder, set(dicom))


def _is_pair_header(file: Path) -> bool:
    try:
        return is_pair_header(content_of(file).start)
    except InputError:  # damaged, which matters only where it is alone
        return False


def _only(folder: Path, keep: set[Path]) -> Source:
    for file in folder.iterdir():
        if file not in keep:
            file.unlink()
    return _one(folder)


def _file(path: Path, stem: Path, kind: Kind, limits: Limits) -> Source:
    named = path.rename(stem.with_name(stem.name + SUFFIXES[kind]))
    if kind == "dicom":
        require_bounded_dicom([named], limits)
    require_bounded(named, kind, limits)
    return _one(named)


def _one(path: Path) -> Source:
    sources = find_sources([path])
    if len(sources) != 1:
        raise InputError(f"{path}: holds {len(sources)} volumes, wanted one; send one at a time")
    return sources[0]
