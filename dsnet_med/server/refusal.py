"""Why a request gets no mask: a status code and one line."""

import errno
import logging
import re
from pathlib import Path

from dsnet_med.errors import InputError, one_line

_LOG = logging.getLogger("dsnet_med.server")
_LONGEST_LINE = 1000
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Refused(Exception):
    """A request that is answered with `status` and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class GoneError(Exception):
    """The client has closed its connection: nobody waits for an answer."""


def refusal_of(error: BaseException, folder: Path) -> Refused:
    """What a client is told of `error`, met while working in `folder`; what is unexpected is logged whole."""
    if isinstance(error, Refused):
        return Refused(error.status, public(str(error), folder))
    if _no_space(error):
        _LOG.error("no space left for uploads in %s", folder.parent)
        return Refused(503, "the server has no space left for uploads; try again later")
    if isinstance(error, InputError):
        return Refused(400, public(str(error), folder))
    if isinstance(error, MemoryError):
        return Refused(413, "the volume does not fit into the server's memory; send a smaller part of it")
    _LOG.error("a request failed unexpectedly", exc_info=error)
    return Refused(500, "something went wrong in the server; its log says what")


def _no_space(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        error = error.__cause__
    return False


def public(text: str, folder: Path) -> str:
    """`text` in one line, without the server's paths and addresses and in the words of this interface.

    `folder` holds the upload of a request. ITK cuts long paths short, so anything below its top goes too.
    """
    uploads = re.escape(str(folder))
    text = re.sub(uploads + r"(/input[.\w]*|/unpacked(/\d+\.[.\w]+)?)?", "the upload", text)
    top = re.escape(str(Path(*folder.parts[:2])))
    text = re.sub(top + r"[^\s:;,')\]]*", "the upload", text)
    text = re.sub(r"\s*\(0x[0-9a-f]+\)", "", text)
    text = re.sub(r"--([a-z][a-z-]+)", lambda option: option[1].replace("-", "_"), text)
    return one_line(text, _LONGEST_LINE)
