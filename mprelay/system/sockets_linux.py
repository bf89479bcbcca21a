"""What :mod:`mprelay.system.sockets` does in its own way on Linux.

- SO_LINGER is set on the listener, and accepted sockets inherit it, like TCP_NODELAY. So nothing has to be set on
  a connection that was handed over. Any close resets it, even the kernel's own close of one that is still on its
  way to a worker.
- MSG_DONTWAIT on each call saves making sockets non-blocking.
- The kernel tells the state of a connection (TCP_INFO), and what its peer has not acknowledged (SIOCOUTQ).
"""

import errno
import fcntl
import socket
import struct
import sys
import termios
from array import array
from contextlib import suppress
from socket import SocketType
from typing import Final

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

BACKLOG: Final = 65535  # the kernel cuts it to net.core.somaxconn
DONTWAIT: Final = int(socket.MSG_DONTWAIT)
CONNECT_BEGUN: Final = frozenset({0, errno.EINPROGRESS})
"""Outcomes of connect_ex() if the connection is made, or may still be."""
CLIENT_GONE_ERRNOS: Final[frozenset[int]] = frozenset()
"""Errors of accept(2) if one client is gone. Linux gives its connection, and recv(2) then tells of the reset."""
END_MAY_BE_RESET: Final = False
"""Whether recv(2) may take a reset for an end of data: see :func:`was_reset`."""
ABORT_ON_CLOSE: Final = struct.pack("ii", 1, 0)
LINGER_OFF: Final = struct.pack("ii", 0, 0)

_OPTIONAL_OPTIONS: Final = ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_OOBINLINE))
_BIND_ADDRESS_NO_PORT: Final = 24  # linux/in.h
_NON_BLOCKING_STREAM: Final = int(socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))
_ioctl_answer: Final = array("i", [0])
_TCP_INFO: Final = struct.Struct("=B23xI16xI")
"""The beginning of struct tcp_info (linux/tcp.h): tcpi_state, tcpi_unacked, tcpi_last_data_sent."""
_PATH_INFO: Final = struct.Struct("=68xI28xI")
"""A longer beginning: tcpi_rtt, tcpi_total_retrans."""
TELLS_PATHS: Final = True
"""Whether :func:`path_info` can tell anything."""


def prepare_listener(listener: socket.socket) -> None:
    """Set the options of a listener. Raises OSError."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # only skips the TIME_WAIT of an earlier run
    prepare(listener)


def received(descriptor: int) -> SocketType:
    """Wrap a connection that was handed over. The caller owns it.

    Each of the three arguments before the descriptor saves the constructor a system call. The family need not be
    right, because nobody passes an address to this socket.
    """
    return SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)


refuse: Final = socket.close
"""refuse(descriptor): reset an accepted connection."""


def target_socket(family: socket.AddressFamily) -> SocketType:
    """Make a non-blocking socket for a connection to the target. The caller owns it. Raises OSError."""
    made = SocketType(family, _NON_BLOCKING_STREAM)
    try:
        prepare(made)
    except OSError:
        made.close()
        raise
    return made


def prepare(sock: SocketType) -> None:
    """Set the options that every relayed socket has. Raises OSError."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    except OSError:
        for level, option in _OPTIONAL_OPTIONS:
            with suppress(OSError):  # rule 4; a socket that is unusable refuses SO_LINGER too
                sock.setsockopt(level, option, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)


def was_reset(_sock: SocketType) -> bool:
    """Tell whether the end that was read is a reset: never, because recv(2) says so."""
    return False


def unacknowledged(sock: SocketType) -> int | None:
    """Count the bytes sent that the peer's kernel has not acknowledged, our FIN as one (SIOCOUTQ, tcp(7)).

    After a reset it is the count at that moment. On a Unix socket it is the memory of sends of which the peer has
    not read every byte. None if the system cannot tell. Not thread-safe.
    """
    try:  # each session asks: immutable bytes and suppress() would take twice as long
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _ioctl_answer)
    except OSError:
        return None
    return _ioctl_answer[0]


def tcp_info(sock: SocketType) -> tuple[int, int, int] | None:
    """Return a TCP socket's state, its unacknowledged segments, and the milliseconds since data was last sent.

    None if the kernel does not tell: in a sandbox.
    """
    try:
        state, unacknowledged, last_data_sent = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
    except OSError:
        return None
    return state, unacknowledged, last_data_sent


def path_info(sock: SocketType) -> tuple[int, int] | None:
    """Return what TCP has measured on a connection. It stays known after the connection's end.

    That is the smoothed round-trip time in microseconds, 0 before the first measurement; and how many segments
    were sent again. None if the kernel does not tell: in a sandbox.
    """
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PATH_INFO.size)
    except OSError:
        return None
    if len(told) < _PATH_INFO.size:  # a kernel tells as much as it knows
        return None
    rtt, retransmits = _PATH_INFO.unpack(told)
    return rtt, retransmits


def choose_port_late(sock: SocketType) -> None:
    """Let the port be chosen by connect(2), which knows the other end (IP_BIND_ADDRESS_NO_PORT, ip(7)).

    Chosen by bind(2), each port would serve one connection only, wherever it leads.
    """
    with suppress(OSError):  # a kernel before 4.2
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)


def probe_silent(sock: SocketType, seconds: int, pause: int, probes: int) -> None:
    """Ask a side after `seconds` without a word, and again after each `pause`; end its connection after so many.

    Sent data that is not acknowledged for as long ends it too. Raises OSError.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, (seconds + pause * probes) * 1000)
