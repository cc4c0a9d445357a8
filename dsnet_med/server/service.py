"""What all requests share: the predictor, the places, one thread for the work and one folder for the files."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dsnet_med
from dsnet_med.archives import remove
from dsnet_med.inference import Predictor
from dsnet_med.inference.mask import labels_of
from dsnet_med.server.body import Body
from dsnet_med.server.job import Answer, Wanted, segmented
from dsnet_med.server.limits import Limits
from dsnet_med.server.places import Places
from dsnet_med.server.refusal import GoneError, refusal_of


class Service:
    """Segments uploads one after the other. To be closed, which removes every file."""

    def __init__(self, predictor: Predictor, limits: Limits = Limits()) -> None:  # noqa: B008 -- frozen
        self.predictor = predictor
        self.limits = limits
        self.places = Places(limits)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._unfinished: set[Future[Answer]] = set()
        self._folder = Path(tempfile.mkdtemp(prefix="dsnet-med-serve-"))  # for this user alone

    @property
    def health(self) -> dict[str, Any]:
        """What /health says."""
        return {
            "status": "ok",
            "model": self.predictor.title,
            "labels": labels_of(self.predictor.class_names),
            "device": str(self.predictor.device),
            "waiting": len(self.places),
            "queue": self.limits.queue,
            "version": dsnet_med.__version__,
        }

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """A folder for one request, gone at the end with all that lies in it. Raises Refused."""
        try:
            path = Path(tempfile.mkdtemp(dir=self._folder))
        except OSError as error:
            raise refusal_of(error, self._folder) from error
        try:
            yield path
        finally:
            await asyncio.to_thread(remove, path)

    async def segment(self, upload: Path, wanted: Wanted, body: Body) -> Answer:
        """The mask of an uploaded file, when its turn has come.

        Raises GoneError when the client goes away first, and what `segmented` raises.
        """
        gone = threading.Event()

        def go_on() -> None:
            if gone.is_set():
                raise GoneError

        future = self._thread.submit(segmented, self.predictor, upload, wanted, self.limits, go_on)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        work = asyncio.ensure_future(asyncio.wrap_future(future))
        watch = asyncio.create_task(body.disconnected())
        try:
            both: list[asyncio.Future[Any]] = [work, watch]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                gone.set()
                if future.cancel():
                    raise GoneError
            return await work  # a step that has begun is waited for: it reads the files
        finally:
            gone.set()
            work.cancel()
            watch.cancel()

    def close(self) -> bool:
        """Drop what waits and remove all files; False where a volume is still being worked on."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        remove(self._folder)
        return not any(future.running() for future in tuple(self._unfinished))
