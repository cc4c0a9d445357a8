"""Files that are whole or absent: temporary names, renames, hashes; and text in whatever Unicode it lies."""

import codecs
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from dsnet_med.errors import InputError
from dsnet_med.find import require_file

_PARTIAL = re.compile(r"\.(\d{1,10})\.partial\..+")
_STAGING = re.compile(r"\.\d+\.partial\.[0-9a-f]{8}")
_STARTED = time.time()
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OUTPUT_ERRORS = {
    errno.ENOSPC: "no space left on the device; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a file lies where a folder is wanted; choose another name",
    errno.EEXIST: "a file lies where a folder is wanted; choose another name",
    errno.ENAMETOOLONG: "its name is too long for a file; give the input a shorter one",
}


def output_error(path: Path, error: OSError) -> InputError:
    """`error`, met while writing `path`, as one line that says what to do."""
    reason = _OUTPUT_ERRORS.get(error.errno or 0, error.strerror or str(error))
    return InputError(f"cannot write {path}: {reason}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` at the end, or remove it after an error.

    The temporary name starts with a dot, is short, and keeps the last suffixes of `path`, so that writers that
    look at them (nibabel, matplotlib) work. Raises InputError when the disk is full or the folder cannot be
    written.
    """
    mark = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]  # the name itself may be as long as names go
    temporary = path.with_name(f".{os.getpid()}.partial.{mark}{''.join(path.suffixes[-2:])[-40:]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):  # absent, or on a file system that is read-only even for what is absent
            temporary.unlink()


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for files that are to appear there together; gone at the end. Raises InputError."""
    place = folder / f".{os.getpid()}.partial.{secrets.token_hex(4)}"
    try:
        place.mkdir(parents=True)
        yield place
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


_LOCK = ".lock"


# A stream is closed, and its lock given back, with the last reference to it.
_LOCKS: WeakValueDictionary[tuple[int, str], IO[bytes]] = WeakValueDictionary()


@contextmanager
def locked(folder: Path, message: str) -> Iterator[None]:
    """Have `folder` for this process alone, which may do so again; InputError(`message`) while another has it.

    A process that this one starts may, too. The lock ends with the process, however that ends. Where locks
    cannot be had (some network file systems, Windows) nobody is kept out. Raises InputError where the folder
    cannot be written.
    """
    made = not folder.exists()
    lock = _lock(folder, message)
    try:
        yield
    finally:
        del lock
        if made and [path.name for path in folder.iterdir()] == [_LOCK]:  # nothing came of it
            shutil.rmtree(folder)


def _lock(folder: Path, message: str) -> IO[bytes]:
    key = (os.getpid(), os.path.realpath(folder))  # a forked process has none of its parent's locks
    if (held := _LOCKS.get(key)) is not None:
        return held  # a second stream, when closed, would give the first one's lock back
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("ab")
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        import fcntl

        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which a killed run's workers keep
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
    except ImportError:
        pass
    except OSError as error:
        taken = error.errno in (errno.EAGAIN, errno.EACCES)
        if taken and (folder / _LOCK).read_bytes() != str(os.getppid()).encode():
            raise InputError(message) from error
    return _LOCKS.setdefault(key, lock)


def remove_partial(folder: Path) -> None:
    """Remove what killed runs left half-written in `folder`; what a live one is writing stays."""
    for leftover in folder.glob(".*.partial.*"):
        written_by = _PARTIAL.fullmatch(leftover.name)
        if written_by is None or _lives(int(written_by[1]), leftover):
            continue
        if leftover.is_symlink() or not leftover.is_dir():
            leftover.unlink(missing_ok=True)
        elif _STAGING.fullmatch(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)


def _lives(process: int, leftover: Path) -> bool:
    """Whether who wrote `leftover` still runs: this process, or one with this number."""
    from dsnet_med.processes import lives  # noqa: PLC0415 -- psutil takes time to load

    if process == os.getpid():  # or an earlier one of this number: a container's processes start anew at 1
        with suppress(OSError):
            return leftover.lstat().st_mtime >= _STARTED
        return False
    return lives(process)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all; bytes of file names that are no text become \\udcff."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_text(path: Path) -> str:
    """The text of a file that people or other programs wrote: UTF-8, or what its byte order mark says.

    Raises OSError, and UnicodeDecodeError, which is a ValueError, for other encodings.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def read_json(path: Path) -> Any:
    """What the JSON of a file says, read as `read_text` does.

    Raises OSError, and ValueError for no JSON or a key given twice, of which Python would keep the last.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError, also for a key given twice, which Python drops."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    once = dict(pairs)
    if len(once) < len(pairs):
        keys = Counter(key for key, _ in pairs)
        raise ValueError(f"the key '{keys.most_common(1)[0][0]}' is given twice; keep one")
    return once


def require_writable(folder: Path) -> None:
    """Create `folder` and check that files can be made in it; raises InputError otherwise."""
    with staging(folder):
        pass


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises InputError where there is no such file."""
    require_file(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
