"""One request to segment, from its first byte to the last byte of its answer."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dsnet_med.errors import one_line
from dsnet_med.inference.sidecar import FORMATS
from dsnet_med.server.answers import labels_header, notes_header, send_file, send_refusal
from dsnet_med.server.body import Body
from dsnet_med.server.job import MEDIA_TYPES, Answer, Wanted
from dsnet_med.server.refusal import GoneError, Refused, public, refusal_of
from dsnet_med.server.service import Service
from dsnet_med.server.upload import check_announced, store


class Exchange(Response):
    """A response that reads its request: nothing of a body is taken before it is known to be wanted."""

    def __init__(self, service: Service, wanted: Wanted) -> None:
        super().__init__()
        self._service = service
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = Body(receive, headers)
        try:
            async with self._service.folder() as folder:
                try:
                    answer = await self._answer(body, headers.get("content-type", ""), folder)
                except Exception as error:
                    if isinstance(error, GoneError):
                        raise
                    raise refusal_of(error, folder) from error
                await send_file(send, answer.path, self._said_of(answer, folder), self._service.limits.idle_s)
        except Refused as refused:
            await send_refusal(send, body, refused, self._service.limits)
        except asyncio.CancelledError:  # the server ends and has waited long enough
            with suppress(Exception):
                await send_refusal(send, body, Refused(503, "the server ends"), self._service.limits)
        except (GoneError, TimeoutError):  # nobody takes the answer
            return

    async def _answer(self, body: Body, content_type: str, folder: Path) -> Answer:
        limits = self._service.limits
        check_announced(content_type, body, limits)
        with self._service.places.take() as place:
            upload = folder / "upload"
            async with place.uploading():
                await store(body, content_type, upload, place, limits)
            return await self._service.segment(upload, self._wanted, body)

    def _said_of(self, answer: Answer, folder: Path) -> dict[str, Any]:
        name = f"mask{FORMATS[self._wanted.format]}"
        return {
            "content-type": MEDIA_TYPES[self._wanted.format],
            "content-disposition": f'attachment; filename="{name}"',
            "x-labels": labels_header(self._service.predictor.class_names),
            "x-notes": notes_header([public(note, folder) for note in answer.notes]),
        }


class Refusal(Response):
    """A refusal of what is asked for, before its body is looked at."""

    def __init__(self, service: Service, status: int, line: str) -> None:
        super().__init__(status_code=status)
        self._limits = service.limits
        self._refused = Refused(status, one_line(line))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_refusal(send, Body(receive, Headers(scope=scope)), self._refused, self._limits)
