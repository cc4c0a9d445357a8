"""The addresses of the server: a mask for a volume, its health, a page that shows both, their description."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, BinaryIO, Literal, cast
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
from dsnet_med.errors import InputError
from dsnet_med.inference.mask import labels_of
from dsnet_med.organs import organ_of
from dsnet_med.server.admission import ENVELOPE, Admission, Rules, told
from dsnet_med.server.refusals import is_disk_full, public, refusal_of
from dsnet_med.server.service import Service

_MEDIA_TYPES = {"nifti": "application/gzip", "dicom-seg": "application/dicom"}
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_STATIC = Path(__file__).with_name("static")
# NiiVue makes its workers of blobs and lays styles on its canvas; nothing comes from, or goes to, another host.
_POLICY = "default-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_NOTES, _NOTE_LENGTH = 20, 300  # as long as a header may be


class Choice(BaseModel):
    """What to make of an upload; any other parameter is an error."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["nifti", "dicom-seg"] = "nifti"
    volume_index: Annotated[int | None, Field(ge=0)] = None
    series: Annotated[str | None, Field(max_length=64)] = None


class Health(BaseModel):
    """What the server is and has to do; colours are those of the labels, red, green and blue."""

    status: str = "ok"
    version: str = dsnet_med.__version__
    model: str
    device: str
    labels: dict[str, str]
    colours: dict[str, tuple[int, int, int]]
    waiting: int
    queue: int
    max_mb: float
    token: bool


def create_app(service: Service, rules: Rules) -> FastAPI:
    """An ASGI application that serves `service`; every error of it is {"error": one line}."""
    app = FastAPIOffline(
        redoc_url=None,
        title="dsnet-med",
        version=dsnet_med.__version__,
        max_body_size=rules.max_bytes + ENVELOPE,
        form_limits={"max_files": 1, "max_fields": 0},
        redirect_slashes=False,
    )
    app.add_middleware(Admission, rules=rules)
    _answer_errors(app, rules)
    _show_page(app)
    names = service.predictor.class_names

    @app.get("/health")
    async def health() -> Health:
        return Health(
            model=service.predictor.title,
            device=str(service.predictor.device),
            labels=labels_of(names),
            colours={str(index): organ_of(name).colour for index, name in enumerate(names)},
            waiting=rules.waiting,
            queue=rules.queue,
            max_mb=rules.max_bytes / (1 << 20),
            token=rules.token is not None,
        )

    bearer = (
        [Depends(HTTPBearer(auto_error=False))] if rules.token else []
    )  # for the description; Admission asks

    @app.post("/segment", response_class=FileResponse, dependencies=bearer)
    async def segment(
        request: Request,
        choice: Annotated[Choice, Query()],
        folder: Annotated[Path, Depends(service.request_folder)],
        file: UploadFile | None = None,
    ) -> FileResponse:
        """The mask of a volume, sent as the part `file` of a form or as the body itself."""
        upload = file or await _body(request)
        if not upload.size:
            raise InputError("the upload is empty; send a volume")
        if upload.size > rules.max_bytes:
            raise HTTPException(413)
        async with service.turn:
            if await request.is_disconnected():
                raise ClientDisconnect
            stream = cast(BinaryIO, upload.file)
            wanted = choice.format, choice.volume_index, choice.series
            answer = await run_in_threadpool(service.segment, stream, folder, *wanted)
        notes = [public(note)[:_NOTE_LENGTH] for note in answer.notes[:_NOTES]]
        headers = {"X-Labels": json.dumps(labels_of(names)), "X-Notes": json.dumps(notes)}
        return FileResponse(answer.path, 200, headers, _MEDIA_TYPES[choice.format], filename=answer.path.name)

    return app


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


def _answer_errors(app: FastAPI, rules: Rules) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return told(422, public(f"parameter {where[:80]}: {first['msg']}"))

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if is_disk_full(error):  # met while a form was stored
            return told(*refusal_of(error))
        if error.status_code == 413:
            return told(413, rules.too_large)
        hint = "; wanted GET /, /health or /docs, or POST /segment" if error.status_code in (404, 405) else ""
        return told(error.status_code, f"{request.method}: {error.detail}{hint}", dict(error.headers or {}))

    @app.exception_handler(InputError)
    @app.exception_handler(MemoryError)
    @app.exception_handler(OSError)
    async def failed(_request: Request, error: Exception) -> Response:
        status, line = refusal_of(error)
        if status == 500:
            raise error
        return told(status, line)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, error: Exception) -> Response:  # which is logged, too
        return told(*refusal_of(error))
