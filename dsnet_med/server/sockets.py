"""The port to listen on, asked for before anything slow is loaded."""

import errno
import socket

from dsnet_med.errors import InputError

_BACKLOG = 1024


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
