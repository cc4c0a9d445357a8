"""The body of one request, as it arrives."""

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.types import Receive

from dsnet_med.server.refusal import GoneError, Refused


class Body:
    """Reads a request's body; counts what was `received` and knows when it is `at_end`."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._asks_first = headers.get("expect", "").lower() == "100-continue"
        self.length = _length(headers)
        self.received = 0
        self.at_end = self.length == 0 or (self.length is None and "transfer-encoding" not in headers)

    @property
    def waits_for_leave(self) -> bool:
        """Whether the client sends nothing before it is told to go on; reading tells it so."""
        return self._asks_first and self.received == 0

    async def chunks(self, idle_s: float) -> AsyncIterator[bytes]:
        """The parts that are still to come.

        Raises Refused when nothing arrives for `idle_s` seconds, GoneError when the connection is closed.
        """
        while not self.at_end:
            try:
                async with asyncio.timeout(idle_s):
                    message = await self._receive()
            except TimeoutError as error:
                raise Refused(408, f"nothing arrived for {idle_s:g} s; send the upload again") from error
            if message["type"] == "http.disconnect":
                self.at_end = True
                raise GoneError
            chunk: bytes = message.get("body", b"")
            self.at_end = not message.get("more_body", False)
            self.received += len(chunk)
            if chunk:
                yield chunk

    async def disconnected(self) -> None:
        """Return when the client has closed its connection; to be awaited once the body is at its end."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _length(headers: Headers) -> int | None:
    stated = headers.get("content-length", "")
    return int(stated) if stated.isdecimal() else None
