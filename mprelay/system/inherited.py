"""The listener that a service manager has made and hands over (sd_listen_fds(3)). Windows has nothing like it.

Rules:

1. It is meant for one process, and is the only one: LISTEN_PID names the process, and descriptor 3 is the socket.
   Variables that mean another process were inherited by mistake, and count for nothing.
2. Anything else that is offered is an error. With a listener of its own in its place, the relay would be reached
   at another address than the service manager says.
3. The service manager keeps a copy. A socket that is only closed here goes on to listen, and whoever connects
   waits for nobody. So it is shut down first, which ends it for all who have it.
4. An accepted socket has the options that the listener had when its handshake ended. Those that have waited since
   before they were set get them one by one (:func:`prepare`).
"""

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from socket import SocketType
from typing import Final

from mprelay.system.errnos import errno_name
from mprelay.system.sockets import plain_ip

if sys.platform != "win32":
    from mprelay.system.sockets_linux import prepare as _prepare
    from mprelay.system.sockets_linux import prepare_listener

_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
_FAMILIES: Final = {socket.AF_INET, socket.AF_INET6}


class Unusable(Exception):  # noqa: N818 - it says what the offer is
    """What is handed over cannot be the listener: why not, in words; and the errno's name, if there is one."""

    def __init__(self, problem: str, error: str | None = None) -> None:
        super().__init__(problem)
        self.error = error


def offered(taken: Mapping[str, str]) -> str | None:
    """Return how many sockets are handed over to this process, as it stands there; None: none."""
    if sys.platform == "win32" or taken.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = taken.get("LISTEN_FDS", "0")
    return None if count == "0" else count


def adopt(offer: str, ip: str | None, port: int) -> socket.socket:
    """Make the socket that is handed over our listener, which must have this address (None: any) and port.

    `offer` is what :func:`offered` has returned. The caller owns the socket. It is non-blocking. Raises Unusable.
    """
    if offer != "1":
        raise Unusable(f"LISTEN_FDS is {offer[:20]!r}, and must be 1: mprelay has one listener")
    try:
        sock = socket.socket(fileno=_DESCRIPTOR)
    except OSError as failure:
        raise Unusable(f"descriptor {_DESCRIPTOR} is no socket", errno_name(failure.errno)) from failure
    try:
        problem, error = _problem(sock, ip, port), None
        if problem is None:
            sock.set_inheritable(False)
            sock.setblocking(False)  # noqa: FBT003 - socket's signature
            if sys.platform != "win32":
                prepare_listener(sock)
    except OSError as failure:
        problem, error = "cannot be used", errno_name(failure.errno)
    if problem is not None:
        sock.close()
        raise Unusable(f"descriptor {_DESCRIPTOR} {problem}", error)
    return sock


def _problem(sock: socket.socket, ip: str | None, port: int) -> str | None:
    """Say why a socket cannot be the listener; None: it can."""
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        return "is not a TCP socket"
    own_ip, own_port, *_ = sock.getsockname()
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen"
    if own_port != port:
        return f"listens on port {own_port}, not on <fwd port> {port}"
    if ip is not None and plain_ip(own_ip) != ip:
        return f"listens on {plain_ip(own_ip)}, not on --bind {ip}"
    return None


def prepare(descriptor: int) -> None:
    """Set the options of an accepted connection that has waited since before the listener had them.

    Raises OSError. The caller still owns the descriptor.
    """
    sock = SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
    try:
        if sys.platform != "win32":
            _prepare(sock)
    finally:
        sock.detach()


def shut(sock: socket.socket) -> None:
    """Let a socket listen no more, whoever else has it. Connections in its backlog are reset."""
    with suppress(OSError):  # it does not listen any more
        sock.shutdown(socket.SHUT_RDWR)
