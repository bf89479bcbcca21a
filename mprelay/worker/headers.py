"""PROXY headers of new connections: read before the supervisor says what becomes of them.

    ticket ──▶ open ──▶ on_ready, perhaps often ──▶ Announced ──▶ obey ──▶ Connector.begin
                           └── wrong, ended, late ──▶ NotAnnounced

Rules:

1. Nothing behind the header is read, because it belongs to the session. So what has come is looked at first
   (MSG_PEEK), and then as much of it is taken as is known to be the header's.
2. While the answer is awaited the socket is not watched. Whatever happens to it is met when the session begins.
3. Once the relay has expired, or is stopped, connections are closed without a report. The supervisor records them
   with the worker's end.
"""

import errno
from collections import OrderedDict
from socket import SocketType

from mprelay.core.protocol import (
    AWAITED_FROM,
    HEADER_TIME,
    PROBLEM_LIMIT,
    Address,
    Admit,
    Announced,
    CloseReason,
    NotAnnounced,
    Refuse,
    Ticket,
)
from mprelay.system import poller, sockets
from mprelay.system.errnos import errno_name, stream_error
from mprelay.worker.connecting import Connector
from mprelay.worker.proxy_header import HEADER_LIMIT, NoHeader, parse
from mprelay.worker.pump import leave_headroom
from mprelay.worker.session import Worker


class _Awaited:
    """A connection whose header is not whole. It owns the socket."""

    __slots__ = ("data", "number", "sock", "until")

    def __init__(self, number: int, sock: SocketType, until: float) -> None:
        self.number = number
        self.sock = sock
        self.until = until  # monotonic, seconds
        self.data = b""


class Headers:
    """The connections of one worker that have not been judged yet."""

    def __init__(self, worker: Worker, connector: Connector) -> None:
        self._worker = worker
        self._connector = connector
        self._awaited: OrderedDict[int, _Awaited] = OrderedDict()  # by descriptor, the oldest first
        self._announced: dict[int, tuple[SocketType, Address | None]] = {}  # by number, until the answer

    def __len__(self) -> int:
        """Count the connections whose header is not whole."""
        return len(self._awaited)

    def open(self, ticket: Ticket, descriptor: int | None) -> None:
        """Take a connection that was handed over: a session's, or one whose header is awaited."""
        if ticket.serial < AWAITED_FROM:
            self._connector.open(ticket, descriptor)
            return
        if descriptor is None:
            self._report(ticket.serial, f"could not be taken by a worker ({errno_name(errno.EMFILE)})")
            return
        if self._worker.expired:
            sockets.refuse(descriptor)
            return
        try:
            sock = sockets.received(descriptor)
        except OSError as failure:
            self._report(ticket.serial, f"could not be taken by a worker ({errno_name(failure.errno)})")
            return
        try:
            leave_headroom()
        except MemoryError:
            sock.close()
            self._report(ticket.serial, f"could not be taken by a worker ({errno_name(errno.ENOMEM)})")
            return
        try:
            self._worker.poller.add(descriptor, poller.READ)
        except OSError as failure:
            sock.close()
            self._report(ticket.serial, f"could not be watched by a worker ({errno_name(failure.errno)})")
            return
        self._awaited[descriptor] = _Awaited(ticket.serial, sock, ticket.admitted_at + HEADER_TIME)
        self._note_deadline()

    def on_ready(self, descriptor: int) -> None:
        """Read on in the header of a connection, if one with this descriptor is awaited."""
        awaited = self._awaited.get(descriptor)
        if awaited is None:
            return
        sock = awaited.sock
        try:
            seen = sock.recv(HEADER_LIMIT - len(awaited.data), sockets.PEEK)
            if not seen:
                self._refuse(descriptor, "ended before its PROXY header was whole")
                return
            header = parse(awaited.data + seen)
            size = len(seen) if header is None else header.size - len(awaited.data)
            awaited.data += sock.recv(size, sockets.DONTWAIT)
        except BlockingIOError:
            return
        except OSError as failure:
            error = stream_error(failure.errno)
            self._refuse(descriptor, f"was cut before its PROXY header was whole ({error})")
            return
        except NoHeader as wrong:
            self._refuse(descriptor, str(wrong))
            return
        if header is None:
            return
        self._forget(descriptor)
        self._announced[awaited.number] = (sock, header.reached)
        ip, port = header.client or (None, 0)
        self._worker.reports.report(Announced(awaited.number, self._worker.wall(), ip, port))

    def end_late(self, now: float) -> None:
        """End the connections whose header has not come in time."""
        while self._awaited:
            descriptor, awaited = next(iter(self._awaited.items()))
            if awaited.until > now:
                return
            self._refuse(descriptor, f"sent no whole PROXY header within {HEADER_TIME:g} seconds")

    def obey(self, order: Admit | Refuse) -> None:
        """Do what the supervisor says about a connection that was announced."""
        sock, reached = self._announced.pop(order.number, (None, None))
        if isinstance(order, Refuse):
            if sock is not None:
                sock.close()
        elif sock is not None:
            self._connector.begin(order.ticket, sock, reached)
        else:  # it was closed when the relay expired
            self._connector.refuse(order.ticket, CloseReason.RELAY_EXPIRED, None)

    def close(self) -> None:
        """Reset all connections."""
        for descriptor, awaited in list(self._awaited.items()):
            self._forget(descriptor)
            awaited.sock.close()
        for sock, _ in self._announced.values():
            sock.close()
        self._announced.clear()

    def _refuse(self, descriptor: int, problem: str) -> None:
        awaited = self._awaited[descriptor]
        self._forget(descriptor)
        awaited.sock.close()
        self._report(awaited.number, problem)

    def _report(self, number: int, problem: str) -> None:
        self._worker.reports.report(NotAnnounced(number, self._worker.wall(), problem[:PROBLEM_LIMIT]))

    def _forget(self, descriptor: int) -> None:
        """Watch a connection no longer."""
        self._worker.poller.remove(descriptor)
        del self._awaited[descriptor]
        self._note_deadline()

    def _note_deadline(self) -> None:
        deadlines = self._worker.deadlines
        deadlines.header_at = next(iter(self._awaited.values())).until if self._awaited else None
        if deadlines.header_at is not None:
            deadlines.look_by(deadlines.header_at)
