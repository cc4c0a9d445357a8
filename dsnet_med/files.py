"""Files that are whole or absent: temporary names, renames, hashes; and text in whatever Unicode it lies."""

import codecs
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dsnet_med.errors import InputError, cannot_read, printable
from dsnet_med.find import require_file

_PARTIAL = re.compile(r"\.(\d{1,10})\.partial\.(?:([0-9a-f]{4})[0-9a-f]{12}(?![0-9a-f])|.).*")
_STAGING = re.compile(r"\.\d+\.partial\.(?:[0-9a-f]{8}){1,2}")
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
_DAY_S = 86400
_STARTED = time.time()
_LARGEST_TEXT = 256 << 20
_LOG = logging.getLogger(__name__)
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
    errno.ENOENT: "its folder has gone; run the same command again, and let the folder be meanwhile",
    errno.EIO: "the disk or network drive reports an error (input/output error); look at the drive",
    errno.EMFILE: "too many files are open in this process; raise the limit (ulimit -n), or use fewer workers",
    errno.ENAMETOOLONG: "its name is too long for a file; give the input a shorter one",
}


def output_error(path: Path, error: OSError) -> InputError:
    """`error`, met while writing `path`, as one line that says what to do."""
    reason = _OUTPUT_ERRORS.get(error.errno or 0, error.strerror or str(error))
    return InputError(f"cannot write {path}: {reason}")


def _mark() -> str:
    """16 digits for a temporary name: of this host, where alone a process's number is one, and random."""
    return f"{_HOST}{secrets.token_hex(6)}"


@contextmanager
def written_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`; rename it to `path` at the end, or remove it after an error.

    It is there already, empty, under a name that nobody can guess: a writer that opens it follows no link that
    somebody has laid. The name starts with a dot, is short, and keeps the last suffixes of `path`, so that
    writers that look at them (nibabel, matplotlib) work. With `durable` it is on the disk, not in a cache of
    the system, when this ends. Raises InputError when the disk is full or the folder cannot be written.
    """
    suffixes = "".join(path.suffixes[-2:])[-40:]  # the name itself may be as long as names go
    temporary = path.with_name(f".{os.getpid()}.partial.{_mark()}{suffixes}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        if durable:
            synchronise(temporary)
        temporary.replace(path)
        if durable:
            synchronise(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):  # absent, or on a file system that is read-only even for what is absent
            temporary.unlink()


def synchronise(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk. Raises OSError."""
    if os.name == "nt" and path.is_dir():  # where a folder cannot be opened, and its names are written at once
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some file systems do that of folders by themselves
            raise
    finally:
        os.close(descriptor)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for files that are to appear there together; gone at the end. Raises InputError."""
    place = folder / f".{os.getpid()}.partial.{_mark()}"
    try:
        place.mkdir(parents=True)
        yield place
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


LOCK = ".lock"
_TRIES, _PAUSE_S = 20, 0.05
_WITHOUT_LOCKS: set[str] = set()
_TAKEN = (errno.EAGAIN, errno.EACCES)
_OWNER_BYTES = 10_000


@dataclass
class _Held:
    """A lock of this process: how often it is held, and the file, which is closed with the last of them."""

    stream: IO[bytes] | None  # None for a parent's
    times: int = 0


_HELD: dict[tuple[int, str], _Held] = {}
_HELD_LOCK = threading.RLock()


@contextmanager
def locked(folder: Path, doing: str, *, shared: str = "") -> Iterator[None]:
    """Have `folder` for this process, which may do so again; InputError while another one has it.

    `doing` is what the other one is told, as "trains in": who owns the folder, on which host. Processes that
    name the same work in `shared` have it together, and a process that this one starts may have it, too. The
    lock ends with the process, however that ends. It is the system's (POSIX), which network file systems know
    as well where their servers have a lock manager; where locks cannot be had (some network drives, Windows) a
    line says so and nobody is kept out. Raises InputError where the folder cannot be written.
    """
    key = (os.getpid(), os.path.realpath(folder))  # a forked process has none of its parent's locks
    made = not folder.exists()
    with _HELD_LOCK:  # a second stream, when closed, would give the first one's lock back
        held = _HELD.get(key) or _HELD.setdefault(key, _Held(_taken(folder, doing, shared)))
        held.times += 1
    try:
        yield
    finally:
        with _HELD_LOCK:
            held.times -= 1
            if not held.times:
                del _HELD[key]
                if held.stream is not None:
                    _give_back(held.stream, folder)
        if made:
            with suppress(OSError):  # which says that something came of it
                folder.rmdir()


def _taken(folder: Path, doing: str, shared: str) -> IO[bytes] | None:
    """The open file that holds the lock, None where this process's parent does."""
    tries = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            stream = os.fdopen(os.open(folder / LOCK, flags, 0o666), "r+b", buffering=0)
        except FileNotFoundError:  # somebody who has just ended has removed it
            continue
        except OSError as error:
            raise output_error(folder, error) from error
        try:
            _lock_as(stream, folder, doing, shared)
            if _is(stream, folder / LOCK):
                return stream
            stream.close()  # its owner has removed it between the two
        except BlockingIOError as error:
            owner = _owner(stream)
            stream.close()
            if owner[:2] == (os.getppid(), socket.gethostname()):
                return None
            tries += 1
            if shared and owner[3:] in ((), (shared,)) and tries < _TRIES:  # it begins or ends in this moment
                time.sleep(_PAUSE_S)
                continue
            who = "process {} on {}".format(*owner) if owner else "another process"
            does = printable(owner[2])[:60] if owner else "writes into"
            raise InputError(
                f"{printable(who)[:120]} {does} {folder}: wait until it has ended, or choose another folder"
            ) from error


def _give_back(stream: IO[bytes], folder: Path) -> None:
    """Remove the lock, if nobody shares it, and close it."""
    with suppress(OSError):  # the folder has gone, or others share it
        try:
            _lock(stream, folder)
        except BlockingIOError:  # two that end in one moment would keep it from each other
            _let_go(stream)
            time.sleep(_PAUSE_S)
            _lock(stream, folder)
        if _is(stream, folder / LOCK):
            (folder / LOCK).unlink()
    stream.close()


def _let_go(stream: IO[bytes]) -> None:
    import fcntl

    fcntl.lockf(stream, fcntl.LOCK_UN)


def _lock_as(stream: IO[bytes], folder: Path, doing: str, shared: str) -> None:
    """Take the lock, alone or with those of the same work. Raises BlockingIOError."""
    try:
        _lock(stream, folder)
    except BlockingIOError:
        if not shared:
            raise
        _lock(stream, folder, alone=False)
        if _owner(stream)[3:] != (shared,):
            raise
        return
    with suppress(OSError):  # a full disk: what is written is to be told to others, and no more than that
        stream.truncate(0)
        stream.write(json.dumps([os.getpid(), socket.gethostname(), doing, shared]).encode())
    if shared:
        _lock(stream, folder, alone=False)


def _lock(stream: IO[bytes], folder: Path, *, alone: bool = True) -> None:
    """Take the system's lock. Raises BlockingIOError while another process has it."""
    try:
        import fcntl

        # not flock, which a killed run's workers keep
        fcntl.lockf(stream, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        return
    except ImportError:
        pass
    except OSError as error:
        if error.errno in _TAKEN:
            raise BlockingIOError(error.errno, "taken") from error
    if str(folder) not in _WITHOUT_LOCKS:
        _WITHOUT_LOCKS.add(str(folder))
        _LOG.warning("%s: locks cannot be had there: see to it that nothing else writes into it", folder)


def _is(stream: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.lstat())
    return False


def _owner(stream: IO[bytes]) -> tuple[Any, ...]:
    """(process, host, doing, shared) as the owner has signed; empty for what nobody has."""
    with suppress(OSError, ValueError, RecursionError):
        signed = json.loads(os.pread(stream.fileno(), _OWNER_BYTES, 0))
        if isinstance(signed, list) and [type(each) for each in signed] == [int, str, str, str]:
            return tuple(signed)
    return ()


def remove_partial(folder: Path) -> None:
    """Remove what killed runs left half-written in `folder`; what a live one is writing stays."""
    for leftover in folder.glob(".*.partial.*"):
        written_by = _PARTIAL.fullmatch(leftover.name)
        if written_by is None or _lives(int(written_by[1]), written_by[2], leftover):
            continue
        if leftover.is_symlink() or not leftover.is_dir():
            leftover.unlink(missing_ok=True)
        elif _STAGING.fullmatch(leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)


def _lives(process: int, host: str | None, leftover: Path) -> bool:
    """Whether who wrote `leftover` still runs: this process, or one with this number, if it is of this host."""
    from dsnet_med.processes import lives  # noqa: PLC0415 -- psutil takes time to load

    if host not in (None, _HOST):  # of which nobody knows here
        with suppress(OSError):
            return time.time() - leftover.lstat().st_mtime < _DAY_S
        return False
    if process == os.getpid():  # or an earlier one of this number: a container's processes start anew at 1
        with suppress(OSError):
            return leftover.lstat().st_mtime >= _STARTED
        return False
    return lives(process)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` to `path`, whole or not at all; bytes of file names that are no text become \\udcff."""
    with written_whole(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n", durable=durable)


def read_bytes(path: Path) -> bytes:
    """The content of a file that somebody else may have put there.

    Raises OSError, and ValueError for a pipe, which might never end, a device, and more than can be meant.
    """
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is a pipe, a socket or a device, wanted a file")
    with path.open("rb") as stream:
        content = stream.read(_LARGEST_TEXT)
    if len(content) == _LARGEST_TEXT:
        raise ValueError(f"it is larger than {_LARGEST_TEXT >> 20} MB, wanted a short text")
    return content


def read_text(path: Path) -> str:
    """The text of a file that people or other programs wrote: UTF-8, or what its byte order mark says.

    Raises OSError, and ValueError for other encodings and for what is no file, or one of 256 MB and more.
    """
    content = read_bytes(path)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def read_json(path: Path) -> Any:
    """What the JSON of a file says, read as `read_text` does.

    Raises OSError, and ValueError for no JSON or a key given twice, of which Python would keep the last.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError, of one line, also for a key given twice, which Python drops."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("a number of thousands of digits") from error
        raise


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
    """The SHA-256 of a file's bytes, in hexadecimal. Raises InputError where it cannot be read."""
    require_file(path)
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error, str(error)) from error
