"""What :mod:`mprelay.system.sockets` does in its own way on Windows.

- SO_LINGER is not set on the listener, because the supervisor closes its copy of an accepted socket while a
  worker uses the connection. Whoever ends a connection sets it: a worker when it gets the socket, the supervisor
  before it refuses a client. Windows itself resets the connections of a process that is killed.
- Calls have no MSG_DONTWAIT, so sockets are made non-blocking.
- SO_EXCLUSIVEADDRUSE takes the place of SO_REUSEADDR, which would let another program share our port. A port with
  earlier connections in TIME_WAIT can be bound without either.
- The system does not tell what a peer has acknowledged, nor the state of a connection.
- recv() gives ECONNRESET after a reset. Under Wine it gives an end of data instead, because Wine takes the error
  from the kernel as soon as it comes. WSAPoll() still tells of it.
"""

import ctypes
import errno
import socket
import struct
import sys
from contextlib import suppress
from socket import SocketType
from typing import Final

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

BACKLOG: Final = int(socket.SOMAXCONN)  # as many as the system allows
DONTWAIT: Final = 0
CONNECT_BEGUN: Final = frozenset({0, errno.EWOULDBLOCK})
CLIENT_GONE_ERRNOS: Final = frozenset({errno.ECONNRESET, errno.ENOTCONN})  # ENOTCONN under Wine
END_MAY_BE_RESET: Final = True
TELLS_PATHS: Final = False
"""Whether :func:`path_info` can tell anything."""
ABORT_ON_CLOSE: Final = struct.pack("HH", 1, 0)
LINGER_OFF: Final = struct.pack("HH", 0, 0)

_OPTIONAL_OPTIONS: Final = ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_OOBINLINE))
_POLLERR: Final = 0x0001  # winsock2.h


class _PollFd(ctypes.Structure):
    """WSAPOLLFD."""

    _fields_ = (("fd", ctypes.c_size_t), ("events", ctypes.c_short), ("revents", ctypes.c_short))


_WSAPoll: Final = ctypes.WinDLL("ws2_32").WSAPoll


def prepare_listener(listener: socket.socket) -> None:
    """Set the options of a listener. Raises OSError."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)


def received(descriptor: int) -> SocketType:
    """Wrap a connection that was handed over, and set its options. The caller owns it.

    Raises OSError if the connection is of no use any more; then it is closed.
    """
    sock = _wrapped(descriptor)
    _prepare(sock)
    return sock


def refuse(descriptor: int) -> None:
    """Reset an accepted connection."""
    sock = _wrapped(descriptor)
    with suppress(OSError):  # it has been reset already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)
    sock.close()


def _wrapped(descriptor: int) -> SocketType:
    return SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)  # of IPv4 too: nobody passes an address


def target_socket(family: socket.AddressFamily) -> SocketType:
    """Make a non-blocking socket for a connection to the target. The caller owns it. Raises OSError."""
    made = SocketType(family, socket.SOCK_STREAM)
    _prepare(made)
    return made


def _prepare(sock: SocketType) -> None:
    """Set the options of a relayed socket. Raises OSError if it cannot be relayed; then it is closed."""
    try:
        sock.setblocking(False)  # noqa: FBT003 - socket's signature
        for level, option in _OPTIONAL_OPTIONS:
            with suppress(OSError):  # rule 4
                sock.setsockopt(level, option, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)
    except OSError:
        sock.close()
        raise


def was_reset(sock: SocketType) -> bool:
    """Tell whether the end of data that recv() gave is a reset in truth."""
    asked = _PollFd(sock.fileno(), 0, 0)
    return _WSAPoll(ctypes.byref(asked), 1, 0) == 1 and bool(asked.revents & _POLLERR)


def unacknowledged(_sock: SocketType) -> int | None:
    """Count the bytes that the peer has not acknowledged: the system cannot tell."""
    return None


def tcp_info(_sock: SocketType) -> tuple[int, int, int] | None:
    """Return the state of a TCP socket: the system does not tell."""
    return None


def path_info(_sock: SocketType) -> tuple[int, int] | None:
    """Return what TCP has measured: SIO_TCP_INFO (Windows 10) counts bytes sent again, not segments."""
    return None


def choose_port_late(_sock: SocketType) -> None:
    """The system chooses the port of an address at once."""


def probe_silent(sock: SocketType, seconds: int, pause: int, _probes: int) -> None:
    """Ask a side after `seconds` without a word, and again after each `pause`. The system asks ten times.

    TCP_KEEPIDLE would need Windows 10, and Wine says that it is an older one. Raises OSError.
    """
    sock.ioctl(socket.SIO_KEEPALIVE_VALS, (1, seconds * 1000, pause * 1000))
