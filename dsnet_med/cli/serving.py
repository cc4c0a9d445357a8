"""What `serve` does: a predictor over HTTP until it is interrupted."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from dsnet_med.cli.inferring import ModelOptions, make_predictor


def serve(
    models: Sequence[Path], options: ModelOptions, *, host: str, port: int, max_mb: int, queue: int
) -> None:
    """Serve a run, or the mean of several; ends with SIGTERM or Ctrl-C."""
    from dsnet_med.server import Limits, Service, bound_socket
    from dsnet_med.server import serve as serve_on

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with bound_socket(host, port) as listener:
        service = Service(make_predictor(models, options), Limits(max_mb << 20, queue))
        idle = True
        try:
            _announce(listener.getsockname()[:2], service.predictor.title)
            serve_on(service, listener)
        finally:
            idle = service.close()
            if not idle:
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
    from dsnet_med.cli import INTERRUPTED

    code = INTERRUPTED if isinstance(sys.exception(), KeyboardInterrupt) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
