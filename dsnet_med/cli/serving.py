"""What `serve` does: a predictor over HTTP until it is interrupted."""

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dsnet_med.cli.exit_codes import INTERRUPTED
from dsnet_med.cli.inferring import ModelOptions, make_predictor
from dsnet_med.errors import InputError, one_line
from dsnet_med.extras import needed_for

if TYPE_CHECKING:
    import uvicorn

_CONNECTIONS = 768  # of the 1024 files that a process may commonly open
_GRACE_S = 8  # at the end, for what is being worked on: Docker kills after ten


def serve(
    models: Sequence[Path],
    options: ModelOptions,
    *,
    host: str,
    port: int,
    max_mb: int,
    queue: int,
    token_file: Path | None,
) -> None:
    """Serve a run, or the mean of several; ends with SIGTERM or Ctrl-C. Raises InputError."""
    with needed_for("serve"):
        import python_multipart  # noqa: F401 -- which FastAPI asks for late

        from dsnet_med.server.admission import Admission
        from dsnet_med.server.app import create_app
    from dsnet_med.server.service import Service, remove_leftovers

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    token = _token(token_file) if token_file else None
    admission = Admission(max_mb << 20, queue, token, _own_names(host))
    with _listening(host, port) as listener:
        remove_leftovers()
        service = Service(make_predictor(models, options), admission.max_bytes)
        try:
            server = server_of(create_app(service, admission))
            _announce(listener.getsockname(), service.predictor.title, token)
            server.run(sockets=[listener])
        finally:
            code = INTERRUPTED if isinstance(sys.exception(), KeyboardInterrupt) else 0
            sys.stdout.flush()
            sys.stderr.flush()
            service.close()
            if service.turn.locked():  # a network at work in another thread cannot be stopped, and would write
                os._exit(code)


def server_of(app: Any) -> "uvicorn.Server":
    """A server that is silent but for errors; Ctrl-C is a KeyboardInterrupt after it, too."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


def _token(file: Path) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a token ({one_line(error)})") from error
    if len(token.split()) != 1 or not token.isprintable():
        raise InputError(f"{file}: wanted a token of one long random word; write one into it")
    return token


def _own_names(host: str) -> Sequence[str]:
    """What requests may call a server that only this machine reaches; a public one may have any name."""
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return (host, "localhost", "127.0.0.1", "::1") if loopback else ()


def _listening(host: str, port: int) -> socket.socket:
    """A socket, asked for before anything slow is loaded; port 0 takes a free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(f"port {port} is taken; choose another --port") from error
        said = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"cannot listen on --host {host}, --port {port} ({said}); choose others") from error


def _announce(address: Sequence[Any], title: str, token: str | None) -> None:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    who = "who has the token" if token else "anyone who reaches this address"
    lacking = "no encryption" if token else "no authentication, no encryption"
    typer.echo(
        f"{title} on http://{host}:{address[1]}, a page at /, POST /segment; {who} may use it ({lacking}); "
        "not a medical device"
    )
    sys.stdout.flush()
