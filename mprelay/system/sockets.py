"""How our sockets are made, and how they end.

Rules:

1. Abort is the default, a normal end the exception. SO_LINGER {1, 0} (socket(7)) is set on every relayed socket.
   Then any close reaches the peer as a reset, even the kernel's own close after a ``kill -9``.
   :func:`end_normally` clears it before the close of a session that ended normally on both sides, because a reset
   would throw unacknowledged data away.
2. TCP_NODELAY is set as well: a relay adds no delay of its own.
3. SO_OOBINLINE keeps TCP's urgent byte in its place in the stream, so content is never changed.
4. A socket can do without TCP_NODELAY and SO_OOBINLINE, so the system may refuse them: MPTCP has no urgent byte.
   Without SO_LINGER a transfer that was cut would look complete, so there is no relay without it.
5. Relayed sockets are plain SocketType, the C class below ``socket.socket``. The Python layer would cost each
   session microseconds, for families as enums and for files made of sockets.
6. Descriptors of sockets are closed by ``socket.close``, because on Windows they are handles.

Who sets the options, and when, is the variants' business: :mod:`mprelay.system.sockets_linux`,
:mod:`mprelay.system.sockets_windows`.
"""

import errno
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from socket import SocketType
from typing import Any, Final, NamedTuple

if sys.platform == "win32":
    from mprelay.system.sockets_windows import (
        BACKLOG,
        CLIENT_GONE_ERRNOS,
        CONNECT_BEGUN,
        DONTWAIT,
        END_MAY_BE_RESET,
        LINGER_OFF,
        TELLS_PATHS,
        choose_port_late,
        path_info,
        prepare_listener,
        probe_silent,
        received,
        refuse,
        target_socket,
        tcp_info,
        unacknowledged,
        was_reset,
    )
else:
    from mprelay.system.sockets_linux import (
        BACKLOG,
        CLIENT_GONE_ERRNOS,
        CONNECT_BEGUN,
        DONTWAIT,
        END_MAY_BE_RESET,
        LINGER_OFF,
        TELLS_PATHS,
        choose_port_late,
        path_info,
        prepare_listener,
        probe_silent,
        received,
        refuse,
        target_socket,
        tcp_info,
        unacknowledged,
        was_reset,
    )

__all__ = [
    "CLIENT_GONE_ERRNOS",
    "CONNECT_BEGUN",
    "DONTWAIT",
    "END_MAY_BE_RESET",
    "PEEK",
    "TELLS_PATHS",
    "Arrival",
    "ListenerError",
    "Path",
    "acceptor",
    "arrival",
    "backlog",
    "end_normally",
    "family_of",
    "has_unread",
    "is_open",
    "listen",
    "listens",
    "local_ip",
    "local_port",
    "next_error",
    "path",
    "pending_error",
    "plain_ip",
    "received",
    "refuse",
    "target_socket",
    "unacknowledged",
    "was_reset",
]

_PROBES: Final = 3  # questions to a silent side
_LONGEST_PAUSE: Final = 75  # seconds between them, tcp(7)'s default
PEEK: Final = int(socket.MSG_PEEK) | DONTWAIT
"""Flags of recv(2): see what waits, and leave it there."""
_NO_IPV6_ERRNOS: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}

_TCP_CLOSE: Final = 7  # linux/tcp_states.h
_TCP_LISTEN: Final = 10


class ListenerError(Exception):
    """The listener could not be made; `step` is socket, bind or listen, `errno` says why."""

    def __init__(self, step: str, failure: OSError) -> None:
        super().__init__(step, failure)
        self.step = step
        self.errno = failure.errno


def listen(address: str | None, port: int) -> socket.socket:
    """Make a listener on `address` (None: all interfaces, IPv6 and IPv4 if the system has both).

    The caller owns the socket. It is non-blocking. Raises ListenerError.
    """
    if address is not None:
        return _listen(family_of(address), address, port)
    try:
        return _listen(socket.AF_INET6, "::", port)
    except ListenerError as failure:
        if failure.errno not in _NO_IPV6_ERRNOS:
            raise
    return _listen(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - the default (docs/parameters.md)


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    step = "socket"
    listener: socket.socket | None = None
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setblocking(False)  # noqa: FBT003 - socket's signature
        prepare_listener(listener)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        step = "bind"
        listener.bind((address, port))
        step = "listen"
        listener.listen(BACKLOG)
    except OSError as failure:
        if listener is not None:
            listener.close()
        raise ListenerError(step, failure) from failure
    return listener


def acceptor(listener: socket.socket) -> Callable[[], tuple[int, Any]]:
    """Return a function that accepts a connection. It never blocks, and raises OSError.

    It returns the connection's descriptor, which its caller owns, and the client's address. The socket goes on to
    another process at once. An object around it would cost a system call (getsockname(2)) and do nothing.
    """
    return listener._accept  # type: ignore[attr-defined,no-any-return] # noqa: SLF001 - what accept() calls


class Arrival(NamedTuple):
    """The state of a connection that has waited for accept(2)."""

    reset: bool
    waited_ms: int  # since its handshake


def arrival(descriptor: int) -> Arrival | None:
    """Return the state of an accepted connection to which nothing was sent yet; None if the system cannot tell.

    A reset connection stays in the queue of the listener, closed. The kernel counts the time since data was last
    sent; if none was sent, since the handshake (tcp_create_openreq_child).
    """
    sock = SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
    info = _tcp_info(sock)
    sock.detach()  # the caller still owns it
    return None if info is None else Arrival(info.state == _TCP_CLOSE, info.last_data_sent)


def backlog(listener: socket.socket) -> int | None:
    """Count the connections that wait for accept(2); None if the system cannot tell.

    For a listener the kernel shows this number as that of unacknowledged segments (tcp_get_info).
    """
    info = _tcp_info(listener)
    return None if info is None else info.unacknowledged


def listens(listener: socket.socket) -> bool:
    """Tell whether `listener` still listens; True if the system cannot tell. ``ss -K`` ends a listener."""
    info = _tcp_info(listener)
    return info is None or info.state == _TCP_LISTEN


def is_open(sock: SocketType) -> bool:
    """Tell whether a connection is known to be there: no reset, error or timeout has ended it."""
    info = _tcp_info(sock)
    return info is not None and info.state != _TCP_CLOSE


class Path(NamedTuple):
    """What TCP has measured on the way to a peer."""

    rtt_ms: float | None  # smoothed round-trip time; None: nothing has been measured
    retransmits: int | None  # segments sent again, each time counted


def path(sock: SocketType) -> Path:
    """Return what TCP has measured on a connection, even if it is over. It must not be closed yet."""
    told = path_info(sock)
    if told is None:
        return Path(None, None)
    rtt, retransmits = told
    return Path(rtt / 1000 if rtt else None, retransmits)


class _Info(NamedTuple):
    """The fields of struct tcp_info that are used here."""

    state: int
    unacknowledged: int
    last_data_sent: int  # milliseconds ago


def _tcp_info(sock: SocketType) -> _Info | None:
    facts = tcp_info(sock)
    return None if facts is None else _Info(*facts)


def end_normally(sock: SocketType) -> None:
    """Close `sock` so that the kernel still delivers the data under way, and then ends the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
    sock.close()


def pending_error(sock: SocketType) -> int:
    """Take the pending error of `sock` (SO_ERROR, socket(7)); 0: none."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def has_unread(sock: SocketType) -> bool:
    """Tell whether data waits to be received, and take none of it. A reset leaves the data before it."""
    try:
        return bool(sock.recv(1, PEEK))
    except OSError:
        return False


def send_from(sock: SocketType, ip: str) -> int:
    """Let a connection that is to be made have this address of the host; return 0, or the errno."""
    choose_port_late(sock)
    try:
        sock.bind((ip, 0))
    except OSError as failure:
        return failure.errno or errno.EADDRNOTAVAIL
    return 0


def send_first(sock: SocketType, data: bytes) -> int:
    """Send a few bytes on a connection that has sent none; return 0, or the errno. There is room for them."""
    try:
        sent = sock.send(data, DONTWAIT)
    except OSError as failure:
        return failure.errno or errno.EPIPE
    return 0 if sent == len(data) else errno.ENOBUFS


def keep_alive(sock: SocketType, seconds: int) -> None:
    """Ask a side that has been silent for so long whether it lives, and end its connection if it is dead.

    A side that does not acknowledge data for as long counts as dead too, where the system can tell.
    """
    pause = max(1, min(seconds // _PROBES, _LONGEST_PAUSE))
    with suppress(OSError):  # the connection is gone already, which is found out elsewhere
        probe_silent(sock, seconds, pause, _PROBES)


def next_error(sock: SocketType) -> int:
    """Take the error that a read would give now; 0: there is data, an end, or nothing yet."""
    try:
        is_end = not sock.recv(1, PEEK)
    except BlockingIOError:
        return 0
    except OSError as failure:
        return failure.errno or 0
    return errno.ECONNRESET if is_end and END_MAY_BE_RESET and was_reset(sock) else 0


def local_port(sock: SocketType) -> int:
    """Return our port of a connected socket; 0 if it is no longer known."""
    try:
        return int(sock.getsockname()[1])
    except OSError:
        return 0


def local_ip(sock: SocketType) -> str | None:
    """Return our address of a connected socket; None if it is no longer known."""
    try:
        return plain_ip(sock.getsockname()[0])
    except OSError:
        return None


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of the literal `host`."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@lru_cache(1024)
def plain_ip(address: str) -> str:
    """Show an accepted address as the client knows it: IPv4 never as ::ffff:, and no zone."""
    plain, _, _zone = address.partition("%")
    return plain[7:] if plain.startswith("::ffff:") and "." in plain else plain
