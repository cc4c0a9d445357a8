"""Why a request gets no mask: the HTTP status of an error, and one line without a path of the server."""

import errno
import re

from dsnet_med.errors import InputError, one_line

_PATH = re.compile(r"(?<![\w.])/[^\s:;,'\")\]]+")
_OPTION = re.compile(r"--([a-z][a-z-]+)")
_LONGEST_LINE = 1000


class TooLargeError(InputError):
    """An upload that takes more than the server gives."""


class UnsupportedError(InputError):
    """An upload that is of no kind that can be segmented."""


def refusal_of(error: BaseException) -> tuple[int, str]:
    """Status and line for an error that an upload has led to."""
    if is_disk_full(error):
        return 503, "the server has no space left for uploads; try again later"
    if isinstance(error, MemoryError):
        return 413, "the volume does not fit into the server's memory; send a smaller part of it"
    if isinstance(error, InputError):
        status = (
            413 if isinstance(error, TooLargeError) else 415 if isinstance(error, UnsupportedError) else 400
        )
        return status, public(str(error))
    return 500, "something went wrong in the server; its log says what"


def public(text: str) -> str:
    """`text` in one line, without paths, and with `volume_index` for `--volume-index`."""
    text = _OPTION.sub(lambda option: option[1].replace("-", "_"), _PATH.sub("the upload", text))
    return one_line(text, _LONGEST_LINE)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
