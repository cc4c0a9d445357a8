"""A request's body on disk, in chunks, whatever form it comes in."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from dsnet_med.server.body import Body
from dsnet_med.server.file_part import FilePart
from dsnet_med.server.limits import Limits
from dsnet_med.server.places import Place
from dsnet_med.server.refusal import Refused

MULTIPART = "multipart/form-data"
_RAW = (
    "application/octet-stream",
    "application/zip",
    "application/gzip",
    "application/x-gzip",
    "application/x-zip-compressed",
    "application/dicom",
)
_ENVELOPE = 1 << 16  # bytes of a multipart body around its file
_PIECE = 1 << 20


def check_announced(content_type: str, body: Body, limits: Limits) -> None:
    """Raise Refused, before a byte is read, for a type that is not taken and for a size that is too large."""
    kind = _kind(content_type)
    if kind not in (MULTIPART, *_RAW):
        raise Refused(
            415, f"got content type '{kind[:80]}', wanted {MULTIPART} with one file, or {', '.join(_RAW[:3])}"
        )
    if body.length is not None and body.length > _most(content_type, limits):
        raise _too_large(limits)


async def store(body: Body, content_type: str, path: Path, place: Place, limits: Limits) -> None:
    """Write the uploaded file to `path`.

    Raises Refused for one that is too large, empty or stops arriving, GoneError when the client goes away, and
    OSError when it cannot be written.
    """
    with path.open("wb") as stream:
        held, size = bytearray(), 0
        async for part in _file(body, content_type, place, limits):
            held += part
            size += len(part)
            if size > limits.most_bytes:
                raise _too_large(limits)
            if len(held) >= _PIECE:
                await asyncio.to_thread(stream.write, bytes(held))
                held.clear()
        await asyncio.to_thread(stream.write, bytes(held))
    if not size:
        raise Refused(400, "the upload is empty; send a volume")


async def _file(body: Body, content_type: str, place: Place, limits: Limits) -> AsyncIterator[bytes]:
    """The parts of the uploaded file, out of its envelope."""
    envelope = FilePart(content_type) if _kind(content_type) == MULTIPART else None
    most = _most(content_type, limits)
    async for chunk in body.chunks(limits.idle_s):
        place.received = body.received
        if body.received > most:
            raise _too_large(limits)
        yield envelope.feed(chunk) if envelope else chunk
    if envelope:
        envelope.finish()


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _most(content_type: str, limits: Limits) -> int:
    return limits.most_bytes + (_ENVELOPE if _kind(content_type) == MULTIPART else 0)


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"larger than the {limits.size_words} that this server takes")
