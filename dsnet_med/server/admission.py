"""Who may send an upload, asked before a byte of it is read, which FastAPI's dependencies come too late for."""

import asyncio
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENVELOPE = 1 << 16  # bytes of a form around its file


@dataclass
class Admission:
    """Whom a server takes. `waiting` counts all who upload, wait or are worked on: there is one queue."""

    max_bytes: int = 1 << 30
    queue: int = 32
    token: str | None = None
    hosts: Collection[str] = ()  # that requests may name; none: any
    idle_s: float = 60.0  # without a byte from a client, or taken by it
    waiting: int = 0

    def refusal(self, request: Request) -> Response | None:
        """What a request is told that is not taken."""
        host = request.headers.get("host", "").lower()
        if self.hosts and _name(host) not in self.hosts:  # a page elsewhere that DNS has led here
            return told(400, "its Host is not this server's address")
        if _is_foreign(request.headers, host):
            return told(403, "its Origin is a page of another site; send it from this server's own page")
        return self._refused_upload(request) if request.method == "POST" else None

    def _refused_upload(self, request: Request) -> Response | None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        length = request.headers.get("content-length", "")
        if self.token and not secrets.compare_digest(sent.encode(), self.token.encode()):
            return told(401, "wanted the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        if length.isdecimal() and int(length) > self.max_bytes + ENVELOPE:
            return told(413, self.too_large)
        if self.waiting >= self.queue:
            return told(503, f"all {self.queue} places are taken; try again later")
        return None

    @property
    def too_large(self) -> str:
        return f"larger than the {self.max_bytes / (1 << 20):g} MB that this server takes"


def _name(host: str) -> str | None:
    """The name in a Host, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_foreign(headers: Headers, host: str) -> bool:
    """Whether a browser sends this for another site's page, which it does unasked, though it hides the answer.

    Behind a proxy, `host` is not what the browser knows; a browser that has come by https says itself who asks.
    """
    origin, asks = headers.get("origin"), headers.get("sec-fetch-site")
    return origin is not None and asks != "same-origin" and origin.lower().partition("://")[2] != host


def told(status: int, line: str, headers: dict[str, str] | None = None) -> Response:
    """An error as every client gets it; 503 says when to come back."""
    return JSONResponse({"error": line}, status, {"Retry-After": "5"} if status == 503 else headers)


class AdmissionMiddleware:
    """Asks `admission` of every request, gives each upload a place in the queue, and no client endless time."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        admission, request = self._admission, Request(scope)
        waits, ended = request.headers.get("expect", "").lower() == "100-continue", False

        async def timed_receive() -> Message:
            nonlocal waits, ended
            try:
                async with asyncio.timeout(admission.idle_s):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(
                    408, f"nothing arrived for {admission.idle_s:g} s; send it again"
                ) from error
            waits, ended = False, not message.get("more_body")
            return message

        async def timed_send(message: Message) -> None:
            """Most clients send all before they listen: closed early, they would see a reset and no answer."""
            nonlocal ended
            end = asyncio.get_running_loop().time() + admission.idle_s
            with suppress(TimeoutError):
                while not (waits or ended) and message["type"] == "http.response.start":
                    async with asyncio.timeout_at(end):
                        ended = not (await receive()).get("more_body")
            try:
                async with asyncio.timeout(admission.idle_s):
                    await send(message)
            except TimeoutError as error:
                raise ClientDisconnect from error

        if refusal := admission.refusal(request):
            return await refusal(scope, timed_receive, timed_send)
        if scope["method"] != "POST":
            return await self._app(scope, receive, send)
        admission.waiting += 1
        try:
            await self._app(scope, timed_receive, timed_send)
        except ClientDisconnect:  # nobody waits for an answer
            return None
        except asyncio.CancelledError:  # the server ends and has waited long enough
            with suppress(Exception):
                await told(503, "the server ends")(scope, receive, send)
        finally:
            admission.waiting -= 1
