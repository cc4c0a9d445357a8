"""What all requests share: a predictor that works on one volume at a time, a process that reads, a folder."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from dsnet_med.errors import InputError
from dsnet_med.files import locked
from dsnet_med.inference import Predictor
from dsnet_med.inference.outputs import OF_SERIES, Outputs, write_case
from dsnet_med.inference.sidecar import FORMATS
from dsnet_med.server.reading import MAX_FILES, Reader

_PREFIX, _CASE = "dsnet-med-serve-", "mask"


class Service:
    """Segments uploads of `max_bytes` at most. To be closed, which removes every file."""

    def __init__(self, predictor: Predictor, max_bytes: int, max_files: int = MAX_FILES) -> None:
        self.predictor = predictor
        self.turn = asyncio.Lock()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # for this user alone
        self._reader = Reader(max_bytes, max_files)
        self._end = ExitStack()
        self._end.enter_context(locked(self.folder, "serves from"))
        self._end.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._end.callback(self._reader.close)

    def request_folder(self) -> Iterator[Path]:
        """A folder for one request, gone once its answer has been sent."""
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def segment(
        self,
        uploads: Sequence[BinaryIO],
        folder: Path,
        file_format: str,
        volume_index: int | None,
        series: str | None,
    ) -> tuple[Path, list[str]]:
        """The mask of an upload, or of one for each channel, made in `folder` as `infer` makes it, and what is
        doubtful about it.

        Raises InputError, which may name paths, and HTTPException.
        """
        files = []
        for number, upload in enumerate(uploads):
            files.append(folder / str(number) / "upload")
            files[-1].parent.mkdir()
            with files[-1].open("wb") as copy:
                shutil.copyfileobj(upload, copy, 1 << 20)
        names, dicom = self.predictor.channel_names, file_format in OF_SERIES
        resample = self.predictor.resample_channels
        channels = self._reader.read(files, names, volume_index, series, dicom=dicom, resample=resample)
        mask = self.predictor.segment(channels)
        identity = {"case": _CASE, "labels": {}}
        write_case(folder / "out", identity, mask, self.predictor, Outputs((file_format,)))
        return folder / "out" / f"{_CASE}{FORMATS[file_format]}", [*mask.notes, *mask.notices]

    def close(self) -> None:
        self._end.close()


def _is_mine(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == (os.getuid() if hasattr(os, "getuid") else 0)
    except OSError:
        return False


def remove_leftovers() -> None:
    """Remove the folders of servers that were killed; those of other processes that live are locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not _is_mine(folder):  # planted by another user of the machine
            continue
        with suppress(InputError), locked(folder, "tidies"):
            shutil.rmtree(folder, ignore_errors=True)
