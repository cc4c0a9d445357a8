"""The addresses of the server: a mask for a volume, its health, a page that shows both, their description."""

import json
import re
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, BinaryIO, Literal, cast
from urllib.parse import unquote_to_bytes

from fastapi import Depends, FastAPI, HTTPException, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

import dsnet_med
from dsnet_med.errors import InputError, first_of, one_line
from dsnet_med.inference.mask import labels_of
from dsnet_med.organs import organ_of
from dsnet_med.server.admission import ENVELOPE, Admission, AdmissionMiddleware, told
from dsnet_med.server.reading import is_disk_full
from dsnet_med.server.service import Service

_MEDIA_TYPES = {"nifti": "application/gzip", "seg.nrrd": "application/octet-stream"}  # else DICOM
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_STATIC = Path(__file__).with_name("static")
# NiiVue makes its workers of blobs and lays styles on its canvas; nothing comes from, or goes to, another host.
_POLICY = "default-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_NOTES, _NOTE_LENGTH = 20, 300  # as long as a header may be
_DISK_FULL = "the server has no space left for uploads; try again later"
_PATH, _OPTION = re.compile(r"(?<![\w.])/[^\s:;,'\")\]]+"), re.compile(r"--([a-z][a-z-]+)")


class Choice(BaseModel):
    """What to make of an upload; any other parameter is an error."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["nifti", "seg.nrrd", "dicom-seg", "dicom-labelmap", "rtstruct"] = "nifti"
    volume_index: Annotated[int | None, Field(ge=0)] = None
    series: Annotated[str | None, Field(max_length=64)] = None


def create_app(service: Service, admission: Admission) -> FastAPI:
    """An ASGI application that serves `service`; every error of it is {"error": one line}."""
    app = FastAPIOffline(
        redoc_url=None,
        title="dsnet-med",
        version=dsnet_med.__version__,
        redirect_slashes=False,
    )
    app.add_middleware(AdmissionMiddleware, admission=admission)
    _answer_errors(app, admission)
    _show_page(app)
    names, channels = service.predictor.class_names, service.predictor.channel_names

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": service.predictor.title,
            "labels": labels_of(names),
            "channels": list(channels),
            "colours": {str(index): organ_of(name).colour for index, name in enumerate(names)},
            "device": str(service.predictor.device),
            "waiting": admission.waiting,
            "queue": admission.queue,
            "max_mb": admission.max_bytes / (1 << 20),
            "token": admission.token is not None,
            "version": dsnet_med.__version__,
        }

    bearer = [Depends(HTTPBearer(auto_error=False))] if admission.token else []  # to say so: Admission asks

    @app.post(
        "/segment",
        response_class=FileResponse,
        dependencies=bearer,
        max_body_size=admission.max_bytes + ENVELOPE,
        form_limits={"max_files": len(channels), "max_fields": 0},
    )
    async def segment(
        request: Request,
        choice: Annotated[Choice, Query()],
        folder: Annotated[Path, Depends(service.request_folder)],
        file: UploadFile | None = None,
    ) -> FileResponse:
        """The mask of a volume, sent as the part `file` of a form or as the body itself.

        For a model of several channels that is one file with all of them, or a part for each, with its name.
        """
        parts = await _parts(request, channels) if file is None and len(channels) > 1 else []
        uploads = parts or [file if file is not None else await _body(request)]
        if not all(upload.size for upload in uploads):
            raise InputError("the upload is empty; send a volume")
        if sum(upload.size or 0 for upload in uploads) > admission.max_bytes:
            raise HTTPException(413, admission.too_large)
        async with service.turn:
            if await request.is_disconnected():
                raise ClientDisconnect
            wanted = choice.format, choice.volume_index, choice.series
            path, notes = await run_in_threadpool(
                service.segment, [upload.file for upload in uploads], folder, *wanted
            )
        said = [public(note)[:_NOTE_LENGTH] for note in notes[:_NOTES]]
        headers = {"X-Labels": json.dumps(labels_of(names)), "X-Notes": json.dumps(said)}
        return FileResponse(
            path, 200, headers, _MEDIA_TYPES.get(choice.format, "application/dicom"), filename=path.name
        )

    return app


async def _parts(request: Request, channels: Sequence[str]) -> list[UploadFile]:
    """A file for each channel, in their order, where a form has any part."""
    if not request.headers.get("content-type", "").startswith(_FORMS[0]):
        return []
    form = await request.form()
    if not form:
        return []
    wanted = f"wanted a part for each channel: {first_of(channels)}; or one called 'file' with all of them"
    if other := [name for name in form if name not in channels]:
        raise HTTPException(422, f"got a part {one_line(other[0], 80)!r}, {wanted}")
    if lacking := [name for name in channels if len(form.getlist(name)) != 1]:
        raise HTTPException(422, f"got {len(form.getlist(lacking[0]))} parts {lacking[0]!r}, {wanted}")
    return [cast(UploadFile, form[name]) for name in channels]


async def _body(request: Request) -> UploadFile:
    """The body of a request that is no form, as if it were the file of one."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() in _FORMS:
        raise HTTPException(422, "got no file, wanted one part called 'file'")
    upload = UploadFile(cast(BinaryIO, SpooledTemporaryFile(max_size=1 << 20)), size=0)  # noqa: SIM115
    async for chunk in request.stream():
        await upload.write(chunk)
    await upload.seek(0)
    return upload


def _show_page(app: FastAPI) -> None:
    niivue = _niivue()
    app.mount("/static", StaticFiles(directory=_STATIC))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "page.html", headers={"Content-Security-Policy": _POLICY})

    @app.get("/niivue.js", include_in_schema=False)
    async def viewer() -> Response:
        return Response(niivue, media_type="text/javascript")


def _niivue() -> bytes:
    """NiiVue's module, which the notebook widget of ipyniivue carries as text, for the pages that it saves."""
    widget = Path(str(distribution("ipyniivue").locate_file("ipyniivue/static/widget.js"))).read_bytes()
    texts = (unquote_to_bytes(text) for text in re.findall(rb'"([^"]{1000000,})"', widget))
    module = next((text for text in texts if re.search(rb"export\s*{[^}]*\bNiivue\b", text)), None)
    if module is None:
        raise InputError("this ipyniivue holds no NiiVue: pip install 'dsnet-med[serve]' takes one that does")
    return module


def _answer_errors(app: FastAPI, admission: Admission) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return told(422, one_line(f"parameter {where[:80]}: {first['msg']}"))

    @app.exception_handler(AnyHTTPException)
    async def refused(_request: Request, error: HTTPException) -> Response:
        if is_disk_full(error):  # met while a form was stored
            return told(503, _DISK_FULL)
        line = admission.too_large if error.detail == "Content Too Large" else error.detail
        hint = "; wanted GET /, /health or /docs, or POST /segment" if error.status_code in (404, 405) else ""
        return told(error.status_code, line + hint)

    @app.exception_handler(InputError)
    async def wrong(_request: Request, error: InputError) -> Response:
        return told(503, _DISK_FULL) if is_disk_full(error) else told(400, public(str(error)))

    @app.exception_handler(OSError)
    async def failed(_request: Request, error: OSError) -> Response:
        if is_disk_full(error):
            return told(503, _DISK_FULL)
        raise error

    @app.exception_handler(MemoryError)
    async def filled(_request: Request, _error: MemoryError) -> Response:
        return told(413, "the volume does not fit into the server's memory; send a smaller part of it")

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:  # which is logged, too
        return told(500, "something went wrong in the server; its log says what")


def public(text: str) -> str:
    """`text` in one line, without paths of the server, and with `volume_index` for `--volume-index`."""
    text = _OPTION.sub(lambda option: option[1].replace("-", "_"), _PATH.sub("the upload", text))
    return one_line(text, 1000)
