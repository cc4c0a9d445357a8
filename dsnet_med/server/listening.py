"""From an application to a server on a port, until a signal ends it."""

import socket

import uvicorn

from dsnet_med.server.app import create_app
from dsnet_med.server.protocol import PatientProtocol
from dsnet_med.server.service import Service

_CONNECTIONS = 768  # of the 1024 files that a process may commonly open
_GRACE_S = 8  # at the end, for what is being worked on: Docker kills after ten


def server_of(service: Service) -> uvicorn.Server:
    """A server that is silent but for errors and waits for no client without end."""
    config = uvicorn.Config(
        create_app(service),
        http=PatientProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return uvicorn.Server(config)


def serve(service: Service, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; what is being worked on has eight seconds to end.

    uvicorn raises the signal again at the end: Ctrl-C is a KeyboardInterrupt here too.
    """
    server_of(service).run(sockets=[listener])
