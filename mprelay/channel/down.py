"""The hand-off channel: sockets and their tickets go from the supervisor to a worker.

The only file that knows SOCK_SEQPACKET and SCM_RIGHTS (unix(7)).

Rules:

1. One message carries many tickets and as many sockets. It arrives whole or not at all.
2. Ownership: after :meth:`Sender.send` returned, the message owns the sockets; the sender closes its copies
   at once and never touches them again. A message that nobody receives is closed by the kernel with what is
   in it, which resets the clients. When it raises, the caller still owns them.
3. A received descriptor is close-on-exec from the start: ``socket.recv_fds`` ignores its flags, so recvmsg is
   called here, with MSG_CMSG_CLOEXEC.
4. A receiver at its descriptor limit gets the message with fewer sockets than tickets (MSG_CTRUNC). The
   kernel installs the first ones in order, so the last tickets are those that stay without.
5. End-of-file is the stop message, whether the sender closed the channel or died.
"""

import array
import errno
import os
import socket
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from mprelay.core.protocol import Ticket

BATCH: Final = 64
"""Tickets in one message; the kernel allows 253 descriptors (SCM_MAX_FD)."""

TICKET_FORMAT: Final = "<Qd"
"""Of a ticket in a message, as :mod:`struct` has it."""

_TICKET: Final = struct.Struct(TICKET_FORMAT)
_ROOM: Final = 4 * 1024 * 1024
"""Bytes asked for in the channel; the kernel grants at most net.core.wmem_max. A message of one ticket takes
about 800, so that hundreds can wait for a busy worker."""


class NoSockets(Exception):  # noqa: N818 - it says what is the matter
    """The system gives no local sockets at all (message 9)."""

    def __init__(self, failure: OSError) -> None:
        super().__init__(failure)
        self.errno = failure.errno


class NoPassing(Exception):  # noqa: N818 - it says what is the matter
    """The system cannot pass a socket to another process (message 10)."""


def missing() -> str | None:
    """Say what this platform lacks, or None."""
    for name in ("AF_UNIX", "SOCK_SEQPACKET", "SCM_RIGHTS", "MSG_CMSG_CLOEXEC", "MSG_DONTWAIT"):
        if not hasattr(socket, name):
            return name
    return None


class Sender(ABC):
    """The supervisor's end of one worker's channel, around the first socket of :func:`channel`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)

    @abstractmethod
    def send(self, tickets: Sequence[Ticket], descriptors: Sequence[int]) -> None:
        """Hand over sockets by their descriptors, each with its ticket; at most BATCH. Never blocks.

        Raises OSError: EAGAIN (the channel is full), EPIPE or ECONNRESET (the worker is gone),
        ETOOMANYREFS (too many descriptors under way). Nothing was handed over then.
        """

    def close(self) -> None:
        """Tell the worker to stop."""
        self._sock.close()


class Receiver(ABC):
    """The worker's end, around the second socket of :func:`channel`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message waits, or the end."""
        return self._sock.fileno()

    @abstractmethod
    def receive(self) -> list[tuple[Ticket, int | None]] | None:
        """Take one message: tickets, each with its socket's descriptor, now the caller's, or None.

        Returns [] where nothing waits, None at the end: stop.
        """

    def close(self) -> None:
        """Give the descriptor back."""
        self._sock.close()


if sys.platform == "linux":
    # Made here, for `|` of two of socket's flags takes as long as a short system call (enum: 0.7 µs).
    # Where `missing` names one of them, nothing is ever sent.
    _SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    _RECEIVE: Final = int(socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    _PLACE: Final = socket.CMSG_SPACE(BATCH * 4)

    class _RightsSender(Sender):
        """With SCM_RIGHTS."""

        def send(self, tickets: Sequence[Ticket], descriptors: Sequence[int]) -> None:
            packed = b"".join([_TICKET.pack(ticket.serial, ticket.admitted_at) for ticket in tickets])
            self._sock.sendmsg(
                [packed],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))],
                _SEND,
            )

    class _RightsReceiver(Receiver):
        """With SCM_RIGHTS."""

        def receive(self) -> list[tuple[Ticket, int | None]] | None:
            try:
                packed, ancillary, _flags, _address = self._sock.recvmsg(BATCH * _TICKET.size, _PLACE, _RECEIVE)
            except BlockingIOError:
                return []
            except ConnectionResetError:  # the sender died with messages of ours unread: there are none
                return None
            if not packed:
                return None
            descriptors = array.array("i")
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            tickets = [Ticket(*fields) for fields in _TICKET.iter_unpack(packed)]
            without: list[int | None] = [None] * (len(tickets) - len(descriptors))
            return list(zip(tickets, descriptors.tolist() + without, strict=True))

    def channel() -> tuple[socket.socket, socket.socket]:
        """Make a channel: the socket for the sender, the one for the receiver. Raises OSError."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def sender(sock: socket.socket) -> Sender:
        """Make the supervisor's end, which owns `sock`."""
        return _RightsSender(sock)

    def receiver(sock: socket.socket) -> Receiver:
        """Make the worker's end, which owns `sock`."""
        return _RightsReceiver(sock)

else:
    # Windows: socket.share() takes its place here.

    def channel() -> tuple[socket.socket, socket.socket]:
        """Not here: see :func:`missing`."""
        raise NotImplementedError

    def sender(sock: socket.socket) -> Sender:
        """Not here: see :func:`missing`."""
        raise NotImplementedError

    def receiver(sock: socket.socket) -> Receiver:
        """Not here: see :func:`missing`."""
        raise NotImplementedError


def probe() -> None:
    """Pass a socket to ourselves. Raises NoSockets or NoPassing where that does not work."""
    try:
        down, up = channel()
    except OSError as failure:
        raise NoSockets(failure) from failure
    with down, up:
        try:
            sender(down).send([Ticket(0, 0.0)], [up.fileno()])
            got = receiver(up).receive()
        except OSError as failure:
            name = errno.errorcode.get(failure.errno or 0)
            raise NoPassing(f"SCM_RIGHTS: {name}") from failure
        descriptor = got[0][1] if got else None
        if descriptor is None:
            raise NoPassing("SCM_RIGHTS: the message arrived without its descriptor")
        os.close(descriptor)
