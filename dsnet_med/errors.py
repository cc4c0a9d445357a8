"""What can go wrong for a user, one wording each."""

import pickle
import traceback
from collections.abc import Iterable
from copy import copy
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """The input or the arguments are wrong. The message is one line that the user can act on (exit code 2)."""


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
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return InputError(f"unknown {kind} '{name}': {hint}known: {', '.join(options)}")


def first_of(names: Iterable[object], limit: int = 8) -> str:
    """The first names of a list, for a message of one line: `a, b and 7 more`."""
    every = [str(name) for name in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def one_line(reason: BaseException | str, limit: int | None = 200) -> str:
    """What an error says, on one line of at most `limit` characters; the type of one that says nothing."""
    text = " ".join(str(reason).split())[:limit]
    return text if text or isinstance(reason, str) else type(reason).__name__


def first_mistake(error: "ValidationError") -> str:
    """The first thing that pydantic found wrong, on one line: where, and what was wanted."""
    first = error.errors(include_url=False)[0]
    place = f"{'.'.join(str(part) for part in first['loc'])}: " if first["loc"] else ""
    return one_line(f"{place}{first['msg']}, got {first['input']!r}")


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
