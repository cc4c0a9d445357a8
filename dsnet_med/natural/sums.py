"""Check sums of what a run has read, so that a file that changed since then is noticed.

Natural images are trained on where they lie and as they were published, without sums. What a run can vouch for
is that each epoch, validation, resumed run and evaluation reads what it read first: RUN/sums/ has a CRC-32 of
every image with its label, four bytes each, written when an image is first read. There is one file for each
list of images, to which any number of processes write.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from isal.isal_zlib import crc32

from dsnet_med.errors import InputError

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class Sums:
    """The sums of the files that `names` lists, by their position, in the folder of a run; without it none."""

    def __init__(self, run: str | None, names: Sequence[str]) -> None:
        self.path: Path | None = None
        self.opened: tuple[int, IO[bytes] | None] = (0, None)  # by which process: forked ones share a position
        if run is not None:
            above = len(os.path.commonpath([min(names), max(names)])) if names else 0  # which may be moved
            told = hashlib.sha256(os.fsencode("\n".join(name[above:] for name in names)))
            self.path = Path(run) / "sums" / f"{told.hexdigest()[:16]}.crc32"

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"opened": (0, None)}

    def compare(self, index: int, file: str | Path, *parts: bytes) -> None:
        """Raise InputError where `parts`, read of `file` and its label, are not what the run read before."""
        if self.path is None or (stream := self._stream(self.path)) is None:
            return
        now = 0
        for part in parts:
            now = crc32(part, now)
        stream.seek(4 * index)
        before = stream.read(4)
        if not any(before):  # not read yet
            if stream.writable():
                stream.seek(4 * index)
                stream.write(now.to_bytes(4, "little"))
        elif int.from_bytes(before, "little") != now:
            raise InputError(
                f"{file}: it, or its label, is not what this run read of it before: damaged or exchanged; put "
                f"back what it was, or train anew (or remove {self.path.parent} to accept all that is there)"
            )

    def _stream(self, path: Path) -> IO[bytes] | None:
        """The file of sums, open in this process; to read only, or None, in a run that cannot be written."""
        process, stream = self.opened
        if process != os.getpid():
            self.opened = os.getpid(), _opened(path)
            stream = self.opened[1]
        return stream


def _opened(path: Path) -> IO[bytes] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path.open("r+b", buffering=0)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise InputError(f"{path}: the sums of what was read cannot be kept ({error.strerror})") from error
    return path.open("rb", buffering=0) if os.access(path, os.R_OK) else None
