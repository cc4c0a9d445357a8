"""What can go wrong for a user, one wording each."""

import errno
import pickle
import re
import reprlib
import traceback
from collections.abc import Iterable, Iterator
from copy import copy
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """The input or the arguments are wrong. The message is one line that the user can act on (exit code 2).

    Whatever of strangers' values is in it, it has no escape sequence and at most 4,000 characters.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_bounded(message))


_LONGEST, _LONGEST_NAME = 4000, 200
_BREAKS = re.compile(r"\s*[\n\r\t\v\f]\s*")


def _bounded(message: str) -> str:
    """`message` in one line of printable characters; of a longer one the beginning and the end."""
    text = str(message)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 500]} ... {text[-400:]}"
    return printable(_BREAKS.sub(" ", text))


class SeveralVolumesError(InputError):
    """A file holds `count` volumes where one is wanted."""

    def __init__(self, message: str, count: int = 0) -> None:  # a pickle gives the message alone
        super().__init__(message)
        self.count = count


class CasesFailedError(RuntimeError):
    """Some cases failed and the rest are finished (exit code 1); `listed` where their reasons are told."""

    def __init__(self, failures: dict[str, str], *, listed: bool = False) -> None:
        self.failures, self.listed = failures, listed
        super().__init__(failures)

    def __str__(self) -> str:
        if self.listed:
            return f"{', '.join(self.failures)}; the others are finished"
        return "; ".join(f"{case}: {reason}" for case, reason in self.failures.items())


class StoppedError(RuntimeError):
    """A run ended early, and not by its input; the message is one line that says how to go on (exit code 1).

    It is empty where another process tells it.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a `name` that is none of the `known` ones, with the nearest as a suggestion."""
    options = sorted(known)
    near = get_close_matches(name[:_LONGEST_NAME], options, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    told = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    return InputError(f"unknown {kind} '{told}': {hint}known: {', '.join(options)}")


_MEANS = {
    errno.ENOMEM: "not enough memory; close other programs, or use fewer workers",
    errno.EMFILE: "too many files are open in this process; raise the limit (ulimit -n), or use fewer workers",
    errno.ENFILE: "too many files are open on this machine; close other programs",
    errno.EAGAIN: "no more processes may be started (ulimit -u, or want of memory); use fewer workers",
    errno.EACCES: "permission denied; ask its owner for the right to read it",
    errno.EPERM: "permission denied; ask its owner for the right to read it",
    errno.EIO: "the disk or network drive reports an error (input/output error); look at the drive",
    errno.ESTALE: "the network drive has lost it (stale file handle); mount the drive again",
    errno.ENOSPC: "no space left on the device; free some",
    errno.EDQUOT: "the disk quota is used up; free some space",
}
_SAID = (
    (errno.ENOMEM, ("allocate memory", "out of memory", "bad_alloc", "bad alloc", "not enough memory")),
    (errno.EAGAIN, ("can't start new thread",)),
    (errno.EMFILE, ("too many open files",)),
    (errno.EACCES, ("permission denied",)),
    (errno.ENOSPC, ("no space left on device",)),
)


def want_of_means(error: BaseException) -> str | None:
    """What `error`, or one it came from, says was wanting while reading, and what helps; None for other causes.

    Memory, open files, processes, permission, the drive: nothing of these is damage of the file.
    """
    for each in _chain(error):
        if isinstance(each, MemoryError):
            return _MEANS[errno.ENOMEM]
        if isinstance(each, OSError) and each.errno in _MEANS:
            return _MEANS[each.errno]
        if not isinstance(each, OSError | InputError):  # what libraries in other languages say
            text = str(each).lower()
            for number, words in _SAID:
                if any(word in text for word in words):
                    return _MEANS[number]
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    every: BaseException | None = error
    seen: set[int] = set()
    while every is not None and id(every) not in seen:
        seen.add(id(every))
        yield every
        every = every.__cause__ or every.__context__


def cannot_read(path: object, error: BaseException, otherwise: str) -> InputError:
    """The error for `path` that could not be read: by its cause where means were wanting, else `otherwise`."""
    if means := want_of_means(error):
        return InputError(f"{path}: cannot be read: {means}")
    if isinstance(error, OSError) and error.errno:
        return InputError(f"{path}: cannot be read ({error.strerror})")
    return InputError(f"{path}: {otherwise}")


def printable(text: str) -> str:
    """`text` with every character that could move a terminal's cursor or turn its direction as an escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 2, 4, 4, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: object, limit: int = 120) -> str:
    """A foreign value as a message may print it: at most `limit` printable characters, however large it is."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # a number of more digits than Python prints, or an object's own
        text = f"a {type(value).__name__} that cannot be printed"
    return printable(text)[:limit]


def first_of(names: Iterable[object], limit: int = 8) -> str:
    """The first names of a list, for a message of one line: `a, b and 7 more`."""
    every = [str(name) for name in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def one_line(reason: BaseException | str, limit: int | None = 200) -> str:
    """What an error says, on one line of at most `limit` characters; the type of one that says nothing."""
    text = printable(" ".join(str(reason).split()))[:limit]
    return text if text or isinstance(reason, str) else type(reason).__name__


def first_mistake(error: "ValidationError") -> str:
    """The first thing that pydantic found wrong, on one line: where, and what was wanted."""
    first = error.errors(include_url=False)[0]
    place = f"{'.'.join(str(part) for part in first['loc'])}: " if first["loc"] else ""
    return one_line(f"{place}{first['msg']}, got {shown(first['input'])}")


def root_cause(error: BaseException) -> BaseException:
    """The error that others were raised from, or the first InputError or StoppedError on the way there."""
    while error.__cause__ is not None and not isinstance(error, InputError | StoppedError):
        error = error.__cause__
    return error


def portable(error: Exception) -> Exception:
    """What `error` was raised from, as another process can take it, with the traceback as a note."""
    cause = root_cause(error)
    try:
        pickle.dumps(cause)
        sent = copy(cause)  # as unpickling makes it
        same = type(sent) is type(cause) and str(sent) == str(cause)
    except Exception:
        same = False
    made = cause if same and isinstance(cause, Exception) else RuntimeError(f"{type(cause).__name__}: {cause}")
    made.add_note("".join(traceback.format_exception(error)))
    made.__cause__ = made.__context__ = None  # some libraries teach pickle to take these along
    return made.with_traceback(None)
