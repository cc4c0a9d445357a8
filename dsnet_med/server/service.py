"""What all requests share: a predictor that works on one volume at a time, a process that reads, a folder."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dsnet_med.errors import InputError
from dsnet_med.files import locked
from dsnet_med.inference import Predictor
from dsnet_med.inference.outputs import FORMATS, Outputs, write_case
from dsnet_med.server.reading import Bounds, Reader

_PREFIX = "dsnet-med-serve-"
_CASE = "mask"


@dataclass(frozen=True)
class Answer:
    """A mask on disk, and what is doubtful about it."""

    path: Path
    notes: tuple[str, ...]


class Service:
    """Segments uploads. To be closed, which removes every file."""

    def __init__(self, predictor: Predictor, bounds: Bounds) -> None:
        self.predictor = predictor
        self.turn = asyncio.Lock()
        self._reader = Reader(bounds)
        _remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # for this user alone
        self._lock = ExitStack()
        self._lock.enter_context(locked(self._folder, "locked"))

    def request_folder(self) -> Iterator[Path]:
        """A folder for one request, gone once its answer has been sent."""
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def segment(
        self, upload: BinaryIO, folder: Path, file_format: str, volume_index: int | None, series: str | None
    ) -> Answer:
        """The mask of an upload, made in `folder` by the steps of `infer`. Raises InputError."""
        with (folder / "upload").open("wb") as copy:
            shutil.copyfileobj(upload, copy, 1 << 20)
        dicom = file_format == "dicom-seg"
        volume = self._reader.read(folder / "upload", volume_index, series, dicom=dicom)
        mask = self.predictor.segment(volume)
        identity = {"case": _CASE, "labels": {}}
        write_case(folder / "out", identity, mask, self.predictor, Outputs((file_format,)))
        return Answer(folder / "out" / f"{_CASE}{FORMATS[file_format]}", (*mask.notes, *mask.notices))

    def close(self) -> None:
        """Remove all files, and end the process that reads."""
        self._reader.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the folders of servers that were killed; those that live hold theirs locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(InputError), locked(folder, "another server's"):
            shutil.rmtree(folder, ignore_errors=True)
