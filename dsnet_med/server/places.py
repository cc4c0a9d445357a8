"""Who may upload, wait or work: a bounded number of requests, of which slow ones give way.

A request takes its place with its first byte, so that the disk is bounded too and nobody uploads in vain. An
upload that is slow keeps its place only as long as nobody else needs it: without that, a few clients that send
a byte a minute would keep everyone out.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import Refused


class Place:
    """One request's place; `received` counts the bytes that have come."""

    def __init__(self) -> None:
        self.received = 0
        self._began = monotonic()
        self._upload: asyncio.Timeout | None = None
        self._lost = False

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """In here the place can be lost, which raises Refused."""
        try:
            async with asyncio.timeout(None) as self._upload:
                yield
        except TimeoutError as error:
            if not self._lost:
                raise
            raise Refused(408, "the upload was slow while others waited; send it again, or faster") from error
        finally:
            self._upload = None

    def rate(self, grace_s: float) -> float | None:
        """Bytes a second of an upload that has lasted for `grace_s`; None for any other."""
        lasted = monotonic() - self._began
        if self._upload is None or self._lost or lasted <= grace_s:
            return None
        return self.received / lasted

    def lose(self) -> None:
        """End the upload."""
        if self._upload is not None:
            self._lost = True
            self._upload.reschedule(asyncio.get_running_loop().time())


class Places:
    """The places of all requests. Used in the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: set[Place] = set()

    def __len__(self) -> int:
        return len(self._taken)

    @contextmanager
    def take(self) -> Iterator[Place]:
        """A place until the end of the block. Raises Refused when there is none."""
        if len(self._taken) >= self._limits.queue:
            self._displace()
        place = Place()
        self._taken.add(place)
        try:
            yield place
        finally:
            self._taken.discard(place)

    def _displace(self) -> None:
        """Free the place of the slowest upload. Raises Refused where none is slow."""
        rates = {place: rate for place in self._taken if (rate := place.rate(self._limits.grace_s)) is not None}
        slowest = min(rates, key=lambda place: rates[place], default=None)
        if slowest is None or rates[slowest] >= self._limits.slow_bytes_per_s:
            raise Refused(503, f"all {self._limits.queue} places are taken; try again later")
        slowest.lose()
        self._taken.discard(slowest)
