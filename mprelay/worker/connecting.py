"""A session begins here: a socket to the target, and what becomes of its connection.

The target's name may stand for several addresses. They are tried one after the other, each on a socket of its
own, until one answers or the connect timeout is over. Each gets its share of what is left of that.

Without edges (:mod:`mprelay.worker.level`) only SO_ERROR tells whether the target is connected, and only a read
whether the client has something to say or has reset.
"""

import errno
from collections.abc import Callable
from socket import SocketType
from typing import Final

from mprelay.core.lifecycle import Input, State
from mprelay.core.protocol import Address, Closed, CloseReason, Settings, Targets, Ticket, Trying
from mprelay.system import poller, sockets
from mprelay.system.errnos import RESET_ERRNOS, errno_name, stream_error
from mprelay.worker.pump import Pump, Pumps, leave_headroom
from mprelay.worker.session import Session, Worker

_EVERYTHING: Final = poller.READ | poller.WRITE | poller.END | poller.URGENT | poller.EDGE
_TROUBLE: Final = poller.ERROR | poller.HANGUP
_OUTCOME: Final = poller.WRITE | _TROUBLE
"""What an edge of the target's socket tells of when connect(2) is done."""
_DOUBTFUL: Final = _TROUBLE if poller.TELLS_EDGES else _OUTCOME
"""The part of that which may mean an error."""
_SHARE_AT_LEAST: Final = 0.25  # seconds that an address has to answer, if the connect timeout has room for them

# Before 3.12, looking a member up in its class takes as long as a dozen other steps (0.1 µs).
_CLOSED: Final = State.CLOSED
_CONNECTED: Final = Input.CONNECTED
_TARGET_CUT: Final = Input.TARGET_CUT


class Connector:
    """Opens the sessions of one worker."""

    def __init__(self, worker: Worker, settings: Settings, pumps: Pumps) -> None:
        self._worker = worker
        self._pumps = pumps
        self._port = settings.target_port
        self._connect_timeout = settings.connect_timeout
        self._source = settings.source
        self._keepalive = settings.keepalive
        self._make_header: Callable[[Address, Address], bytes] | None = None
        if settings.proxy_protocol is not None:
            from mprelay.worker import proxy_header  # noqa: PLC0415 - only where it is needed

            self._make_header = proxy_header.MAKERS[settings.proxy_protocol]
        self.connect_to(settings.targets)

    def connect_to(self, targets: Targets) -> None:
        """Connect the sessions that begin from now on to these."""
        self._targets = targets
        self._plain = not targets.named and self._source is None and self._keepalive is None
        if targets.ips:
            first, *others = targets.ips
            self._address: Address = (first, self._port)
            self._family = sockets.family_of(first)
            self._others = tuple(others)

    def open(self, ticket: Ticket, descriptor: int | None) -> None:
        """Begin the session of a ticket. From here the client's socket, with this descriptor, is ours."""
        if descriptor is None:
            # The kernel had no descriptor left for it in this process, and has closed the connection.
            self.refuse(ticket, CloseReason.HANDOFF_FAILED, errno_name(errno.EMFILE))
            return
        try:
            client = sockets.received(descriptor)
        except OSError as failure:
            self.refuse(ticket, CloseReason.REQUESTER_CHANNEL_FAILED, stream_error(failure.errno))
            return
        self.begin(ticket, client)

    def begin(self, ticket: Ticket, client: SocketType, reached: Address | None = None) -> None:
        """Begin the session of a client's socket. It `reached` that address first, if a proxy said so."""
        worker = self._worker
        if worker.expired:
            self.refuse(ticket, CloseReason.RELAY_EXPIRED, None, client)
            return
        if not self._targets.ips:
            self.refuse(ticket, CloseReason.CONNECT_FAILED, self._targets.error, client)
            return
        try:
            target = sockets.target_socket(self._family)
        except OSError as failure:
            self.refuse(ticket, CloseReason.TARGET_SOCKET_FAILED, errno_name(failure.errno), client)
            return
        no_buffer = CloseReason.REQUESTER_BUFFER_FAILED
        try:
            leave_headroom()
            up = self._pumps.make(client, target)
            no_buffer = CloseReason.TARGET_BUFFER_FAILED
            down = self._pumps.make(target, client)
        except MemoryError:
            self.refuse(ticket, no_buffer, errno_name(errno.ENOMEM), client, target)
            return
        session = Session(worker, ticket, self._address, (client, target), (up, down))
        session.others = self._others
        worker.deadlines.connect(session)
        if self._make_header is not None and ticket.client is not None:
            listener = reached or (sockets.local_ip(client) or ticket.client[0], sockets.local_port(client))
            session.header = self._make_header(ticket.client, listener)
        if self._keepalive is not None:
            sockets.keep_alive(client, self._keepalive)
        number = target.connect_ex(self._address) if self._plain else self._connect(session)
        if number in sockets.CONNECT_BEGUN:
            number = 0
        elif not session.others:
            _not_connected(session, number)
            return
        no_channel = Input.REQUESTER_CHANNEL_FAILED
        try:
            worker.poller.add(client.fileno(), _EVERYTHING)
            worker.sessions[client.fileno()] = (session, up, down)
            if not number:
                no_channel = Input.TARGET_CHANNEL_FAILED
                worker.poller.add(target.fileno(), _EVERYTHING)
                worker.sessions[target.fileno()] = (session, down, up)
        except OSError as failure:
            session.happened(no_channel, errno_name(failure.errno))
            return
        if number:
            session.failure = number
            self.next_address(session)

    def _connect(self, session: Session) -> int:
        """Begin to connect a session's socket to its target; return what connect(2) says."""
        worker, target = self._worker, session.target
        if self._targets.named:
            worker.reports.report(Trying(session.serial, session.address[0]))
            worker.deadlines.look_no_more(session)
            if session.others:
                left = session.admitted_at + self._connect_timeout - worker.now
                share = max(left / (1 + len(session.others)), _SHARE_AT_LEAST)
                worker.deadlines.look_later(session, worker.now + share)
        if self._keepalive is not None:
            sockets.keep_alive(target, self._keepalive)
        number = 0 if self._source is None else sockets.send_from(target, self._source)
        return number or target.connect_ex(session.address)

    def next_address(self, session: Session) -> None:
        """Try the next address of the target: the one before has failed, or its time is over."""
        worker, client = self._worker, session.client
        number, session.failure = session.failure or errno.ETIMEDOUT, 0
        while session.others:
            ip, *others = session.others
            try:
                target = sockets.target_socket(sockets.family_of(ip))
            except OSError as failure:
                session.happened(Input.TARGET_SOCKET_FAILED, errno_name(failure.errno))
                return
            try:
                down = self._pumps.make(target, client)  # the one before knows of another socket's edges
            except MemoryError:
                target.close()
                session.happened(Input.TARGET_BUFFER_FAILED, errno_name(errno.ENOMEM))
                return
            session.others = tuple(others)
            session.address = (ip, self._port)
            worker.sessions.pop(session.target.fileno(), None)
            session.target.close()
            session.target = session.up.sink = target
            session.down = down
            worker.sessions[client.fileno()] = (session, session.up, down)
            number = self._connect(session)
            if number in sockets.CONNECT_BEGUN:
                try:
                    worker.poller.add(target.fileno(), _EVERYTHING)
                except OSError as failure:
                    session.happened(Input.TARGET_CHANNEL_FAILED, errno_name(failure.errno))
                    return
                worker.sessions[target.fileno()] = (session, down, session.up)
                return
        _not_connected(session, number)

    def refuse(self, ticket: Ticket, reason: CloseReason, error: str | None, *owned: SocketType) -> None:
        """End a session that could not begin, and reset what it has."""
        worker = self._worker
        inbound_ip = sockets.local_ip(owned[0]) if owned and worker.settings.any_address else None
        for sock in owned:
            sock.close()
        duration_ms = (worker.now - ticket.admitted_at) * 1000
        worker.reports.report(
            Closed(
                ticket.serial, worker.wall(), duration_ms, reason, error, None, None, None, inbound_ip, 0, 0, 0, 0
            )
        )

    # -- what becomes of it ----------------------------------------------------------------------------------

    def on_edge(self, session: Session, reads: Pump, edge: int) -> None:
        """Take note of an edge of a session that is not connected; `reads` reads the socket that it is of."""
        reads.source_ready(edge)
        if reads is session.down and edge & _OUTCOME and not session.failure:
            number = sockets.pending_error(session.target) if edge & _DOUBTFUL else 0
            # A reset in answer to a SYN is ECONNREFUSED (tcp_reset: SYN_SENT).
            if not number or number in RESET_ERRNOS:
                number = _on_answer(session, number)
            if number and session.others:
                # Not now: the new socket may get the number of one that was closed in this turn, of which events
                # may still be listed.
                session.failure = number
                self._worker.deadlines.look_later(session, self._worker.now)
                return
            if number:
                _not_connected(session, number)
                return
        elif not poller.TELLS_EDGES:
            _look_for_reset(session)
        if edge & poller.ERROR and session.state is not _CLOSED:
            session.on_error(reads)


def _on_answer(session: Session, number: int) -> int:
    """Begin to relay: the target has answered. Return 0, or an errno: it was not the target."""
    session.outbound_port = port = sockets.local_port(session.target)
    if port == session.address[1] and sockets.local_ip(session.target) == sockets.plain_ip(session.address[0]):
        # Nobody listens on the target's port, and the kernel chose it for our socket. Our SYN met our own socket,
        # which TCP takes for a simultaneous open (RFC 9293, 3.5). Each client would talk to itself.
        return errno.ECONNREFUSED
    if session.header:
        number = number or sockets.send_first(session.target, session.header)
    session.happened(_CONNECTED)
    if number:
        # The target took the connection, and reset it before we came to look. What it sent is still there.
        if session.state is not _CLOSED:  # if the client was gone already, nobody was left to hear it
            session.happened(_TARGET_CUT, stream_error(number))
        return 0
    for pump in (session.up, session.down):
        if pump.can_move and session.state is not _CLOSED:
            session.drive(pump)
    return 0


def _look_for_reset(session: Session) -> None:
    """See whether the client has reset, and said nothing before that. What it has said stays unread."""
    if number := sockets.next_error(session.client):
        session.happened(Input.CLIENT_RESET, stream_error(number))


def _not_connected(session: Session, number: int) -> None:
    refused = number == errno.ECONNREFUSED
    session.happened(Input.CONNECT_REFUSED if refused else Input.CONNECT_FAILED, errno_name(number))
