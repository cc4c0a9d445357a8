"""What is sent back: a mask from a file, or one line of JSON."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.types import Send

from dsnet_med.inference.mask import labels_of
from dsnet_med.server.body import Body
from dsnet_med.server.limits import Limits
from dsnet_med.server.refusal import GoneError, Refused

_CHUNK = 1 << 18
_DRAIN_BYTES = 64 << 20
_DRAIN_S = 60.0
_DRAIN_IDLE_S = 5.0
_MOST_NOTES = 20
_LONGEST_NOTE = 300


async def send_refusal(send: Send, body: Body, refused: Refused, limits: Limits) -> None:
    """Send {"error": line}, then discard what is still to come of the request.

    A client that sends all before it listens would otherwise find its connection reset and never read why.
    """
    content = json.dumps({"error": str(refused)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    if refused.status == 503:
        headers["retry-after"] = str(limits.retry_after_s)
    if not body.at_end:
        headers["connection"] = "close"
    await send(_start(refused.status, headers))
    await send({"type": "http.response.body", "body": content, "more_body": not body.at_end})
    if not body.at_end:
        await _drain(body, limits)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(body: Body, limits: Limits) -> None:
    """Read on to the end, or until it has been enough: bytes, seconds, or seconds without a byte."""
    if body.waits_for_leave:  # the client asked first, and has its answer
        return
    most = body.received + max(limits.most_bytes, _DRAIN_BYTES)
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in body.chunks(min(limits.idle_s, _DRAIN_IDLE_S)):
                if body.received > most:
                    return
    except (TimeoutError, GoneError, Refused):
        return


async def send_file(send: Send, path: Path, headers: Mapping[str, str], idle_s: float) -> None:
    """Send a file; a client that takes no part of it for `idle_s` seconds is given up with TimeoutError."""
    await send(_start(200, {"content-length": str(path.stat().st_size), **headers}))
    async for chunk in _chunks(path):
        async with asyncio.timeout(idle_s):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, _CHUNK):
            yield chunk


def labels_header(class_names: Sequence[str]) -> str:
    """The class names by class id as JSON, in ASCII."""
    return json.dumps(labels_of(class_names))


def notes_header(notes: Sequence[str]) -> str:
    """Notes as a JSON list in ASCII, as long as a header may be."""
    return json.dumps([note[:_LONGEST_NOTE] for note in notes[:_MOST_NOTES]])


def _start(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}
