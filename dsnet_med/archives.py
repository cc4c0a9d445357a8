"""Zip archives from strangers, unpacked without leaving their folder and without filling the disk."""

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from dsnet_med.errors import InputError, one_line
from dsnet_med.files import output_error

_CHUNK = 1 << 20
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA takes as much memory as it says
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
Name = Callable[[int, PurePosixPath], Path]


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive; others may hold one, as a tar of a run does."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) in _ZIP


def own_names(_number: int, member: PurePosixPath) -> Path:
    """Files keep the names that the archive gives them."""
    return Path(*member.parts)


def numbered(number: int, _member: PurePosixPath) -> Path:
    """Files are called 0, 1, 2, ...: nothing of the archive's names reaches the disk."""
    return Path(str(number))


def unpack(
    archive: Path, into: Path, *, name: Name = own_names, most_bytes: int = 8 << 30, most_files: int = 20_000
) -> None:
    """Unpack `archive` into the folder `into`, each file under what `name` calls its number and its path.

    Raises InputError for a damaged or encrypted archive, for one with more than `most_files` files or more than
    `most_bytes` bytes unpacked (whatever it claims), and for members that are links or lie outside of it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            left = most_bytes
            for number, (member, path) in enumerate(_members(archive, opened, most_files)):
                target = into / name(number, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as sink:
                    left -= _copy(source, sink, left, archive)
    except InputError:  # which is a ValueError
        raise
    except FileExistsError as error:
        raise InputError(f"{archive}: holds two files of one name, {Path(error.filename).name}") from error
    except OSError as error:
        raise output_error(into, error) from error
    except _DAMAGED as error:
        raise InputError(f"{archive}: not a readable zip archive ({one_line(error)})") from error


def _members(
    archive: Path, opened: zipfile.ZipFile, most_files: int
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    files = [member for member in opened.infolist() if not member.is_dir()]
    if len(files) > most_files:
        raise InputError(f"{archive}: holds {len(files)} files, at most {most_files} are taken")
    for member in files:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if member.flag_bits & _ENCRYPTED:
            raise InputError(f"{archive}: is encrypted; pack it again without a password")
        if member.compress_type not in _METHODS:
            raise InputError(f"{archive}: packed with an unusual method; pack it again with deflate")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{archive}: holds a link, {member.filename}; pack the files themselves")
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or not path.parts:
            raise InputError(f"{archive}: holds {member.filename}, which would lie outside of it")
        yield member, path


def _copy(source: IO[bytes], sink: IO[bytes], most: int, archive: Path) -> int:
    """Copy at most `most` bytes; returns how many there were, InputError where there are more."""
    copied = 0
    while chunk := source.read(_CHUNK):
        copied += len(chunk)
        if copied > most:
            raise InputError(f"{archive}: holds more bytes unpacked than are taken; make it smaller")
        sink.write(chunk)
    return copied


def only_folder(folder: Path) -> Path:
    """`folder`, or the one folder that is all it holds: archives are packed either way."""
    held = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    return held[0] if len(held) == 1 and held[0].is_dir() else folder
