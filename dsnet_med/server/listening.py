"""From an application to a server on a port, until a signal ends it."""

import errno
import socket

import uvicorn

from dsnet_med.errors import InputError
from dsnet_med.server.app import create_app
from dsnet_med.server.protocol import PatientProtocol
from dsnet_med.server.service import Service

_CONNECTIONS = 768  # of the 1024 files that a process may commonly open
_BACKLOG = 1024
_GRACE_S = 8  # at the end, for what is being worked on: Docker kills after ten


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises InputError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"got --host {host}, which is no address of this machine") from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(_why_not(error, host, port)) from error
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is taken; choose another --port"
        case errno.EACCES:
            return f"port {port} is not for every user; choose a --port above 1023"
        case errno.EADDRNOTAVAIL:
            return f"got --host {host}, which is no address of this machine"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"


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
