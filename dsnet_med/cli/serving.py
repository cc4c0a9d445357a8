"""What `serve` does: a predictor over HTTP until it is interrupted."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dsnet_med.cli.inferring import ModelOptions, make_predictor

if TYPE_CHECKING:
    from dsnet_med.inference import Predictor


def serve(
    models: Sequence[Path], options: ModelOptions, *, host: str, port: int, max_mb: int, queue: int
) -> None:
    """Serve a run, or the mean of several; ends with SIGTERM or Ctrl-C."""
    from dsnet_med.server.sockets import bound_socket

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with bound_socket(host, port) as listener:
        _serve_on(listener, make_predictor(models, options), max_mb << 20, queue)


def _serve_on(listener: socket.socket, predictor: "Predictor", most_bytes: int, queue: int) -> None:
    from dsnet_med.server.limits import Limits
    from dsnet_med.server.listening import serve
    from dsnet_med.server.service import Service

    service = Service(predictor, Limits(most_bytes, queue))
    try:
        _announce(listener.getsockname()[:2], predictor.title)
        serve(service, listener)
    finally:
        if not service.close():
            _leave()


def _announce(address: tuple[str, int], title: str) -> None:
    host, port = address
    typer.echo(
        f"{title} on http://{f'[{host}]' if ':' in host else host}:{port}, POST /segment; anyone who reaches "
        "this address may use it (no authentication, no encryption); not a medical device"
    )
    sys.stdout.flush()


def _leave() -> None:
    """End at once: a network that is at work in another thread cannot be stopped, and would be waited for."""
    from dsnet_med.cli.exit_codes import INTERRUPTED

    code = INTERRUPTED if isinstance(sys.exception(), KeyboardInterrupt) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
