"""The two addresses of the server, /health and /segment, and what every other request is told."""

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

import dsnet_med
from dsnet_med.server.exchange import Exchange, Refusal
from dsnet_med.server.job import Format, Wanted
from dsnet_med.server.service import Service

_LONGEST_UID = 64


class _Choice(BaseModel):
    """The query of /segment; any other name is an error."""

    model_config = ConfigDict(extra="forbid")
    format: Format = "nifti"
    volume_index: Annotated[int | None, Field(ge=0)] = None
    series: Annotated[str | None, Field(max_length=_LONGEST_UID)] = None


def create_app(service: Service) -> FastAPI:
    """An ASGI application that serves `service`; every error of it is {"error": one line}.

    FastAPI's pages of documentation are off: they load scripts from elsewhere.
    """
    app = FastAPI(
        title="dsnet-med",
        version=dsnet_med.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return service.health

    @app.post("/segment")
    async def segment(choice: Annotated[_Choice, Query()]) -> Response:
        return Exchange(service, Wanted(**choice.model_dump()))

    _answer_errors(app, service)
    return app


def _answer_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return Refusal(service, 422, f"parameter {where[:80]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        hint = "wanted GET /health or POST /segment"
        return Refusal(service, error.status_code, f"{request.method}: {error.detail}; {hint}")

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> Response:
        return Refusal(service, 500, "something went wrong in the server; its log says what")
