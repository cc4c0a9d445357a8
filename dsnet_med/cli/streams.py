"""Standard streams that never stop the work, whatever becomes of those who read them.

A character that their encoding lacks is escaped, and so is one by which a file's name or a header's text could
move a terminal's cursor, change its title or turn its direction. A stream that was closed (`2>&-`, cron,
pythonw), whose reader has gone (`| head`) or whose disk is full takes what is printed and drops it.
"""

import errno
import io
import os
import re
import select
import sys
from typing import Any


class _Lasting(io.FileIO):
    """The file of a standard stream; `lost` is why it takes no more, None while it does."""

    lost: OSError | None = None

    def write(self, content: Any) -> int:
        while self.lost is None:
            try:
                written: int | None = super().write(content)
            except OSError as error:
                self.lost = error
                break
            if written is not None:
                return written
            select.select([], [self], [])  # a pipe that does not block by itself, and is full
        return memoryview(content).nbytes


_MOVES = re.compile(r"\r|\n*(?:\x1b\[A)+")  # of tqdm, which begins with it or writes nothing else
_STYLES = re.compile(r"\x1b\[[0-9;]*m")  # colours of libraries
_CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class _Harmless(io.TextIOWrapper):
    """Text for a terminal: without styles, other control characters as their escapes; a bar may move."""

    def write(self, text: str) -> int:
        moves = match[0] if (match := _MOVES.match(text)) else ""
        rest = _STYLES.sub("", text[len(moves) :])
        return super().write(moves + _CONTROLS.sub(lambda each: ascii(each[0])[1:-1], rest))


def make_streams_last() -> None:
    """Replace this process's stdout and stderr by ones to which anything can be printed."""
    _take_closed_descriptors()
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def output_lost() -> str | None:
    """Why what was printed is not all there, or None; a reader that left has read what it wanted."""
    sys.stdout.flush()
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = file.lost if isinstance(file, _Lasting) else None
    return None if lost is None or lost.errno == errno.EPIPE else lost.strerror or str(lost)


def _take_closed_descriptors() -> None:
    """Open what is closed of 0, 1 and 2, lest a file get that number and what libraries print there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _lasting(stream: Any, descriptor: int) -> Any:
    buffer = getattr(stream, "buffer", None)
    if stream is not None and not isinstance(getattr(buffer, "raw", buffer), io.FileIO):  # Windows' console
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        return stream
    unbuffered = getattr(stream, "write_through", False)  # PYTHONUNBUFFERED
    return _Harmless(
        io.BufferedWriter(_Lasting(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=unbuffered or getattr(stream, "line_buffering", True),
    )
