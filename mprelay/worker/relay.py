"""The worker's relay loop: readiness → pump → session → act.

    tickets ──▶ _open ──▶ _on_connecting ──▶ _drive ⇄ pumps ──▶ _happened ──▶ _close ──▶ events
                  │                             ▲  ▲                ▲  │
                  │                  poller.wait┘  └─ queue: bulk   │  └─▶ _look_after: lingering
                  └────────────── refused, failed, timeouts ────────┴───────────┘

Rules:

1. Each socket is registered once, edge-triggered, for everything. Closing the target's takes its registration
   back; the client's, of which the supervisor has a copy for a while, is taken back by hand. Every edge is
   noted in the flags of the two pumps that it concerns; those are driven that it sets free.
2. Who moves little goes first. A pump that moves much waits in the queue until the edges of its turn have been
   handled. The queue gets a byte budget in each turn, so a request never waits for all bulk flows.
3. Work is proportional to what happened, never to how many sessions there are. Timeouts are two queues in
   the order of their deadlines: a session that moved bytes goes to the end of the idle queue, so the head
   is always the one that was quiet for longest. No scan, no stale entry. `_look_at` is never later than the
   nearest of all deadlines, and the queues are looked at only then. Sessions that linger are few and short-lived.
   Each is looked at by itself, after growing pauses: nothing in epoll tells of an acknowledgement. Once both
   sides have ended there is an edge, because the acknowledgement of our FIN changes TCP's state.
4. Descriptors of sessions that ended in this turn may stand in the rest of the turn's events, and a new
   session could get the same numbers: new tickets are taken after all other events of a turn.
5. Whatever happens to a session goes through :func:`mprelay.core.lifecycle.step`.
6. The clock is read once for each wake-up.

What a new connection costs here (as in :mod:`mprelay.supervisor.run`): 85 µs in the kernel, for about twenty
system calls, of which send, connect and close take more than half, and 55 µs of Python. HAProxy has as much in
the kernel (82 µs), and 11 µs of its own: what is left between the two is the interpreter. Each socket is
registered by one epoll_ctl; the client's is taken back by another. A request on an open session is four system
calls, as HAProxy's.
"""

import errno
import socket
import time
from collections import OrderedDict, deque
from heapq import heappop, heappush
from socket import SocketType
from typing import Final

from mprelay.channel.down import Receiver
from mprelay.channel.up import Uplink
from mprelay.core.lifecycle import Action, Input, State, step
from mprelay.core.protocol import Closed, CloseReason, Connected, Progress, Settings, Side, Ticket
from mprelay.system import poller, sockets
from mprelay.system.boottime import Deadline
from mprelay.system.errnos import errno_name, stream_error
from mprelay.worker.pump import Outcome, Pump, Pumps

_EVERYTHING: Final = poller.READ | poller.WRITE | poller.END | poller.URGENT | poller.EDGE
_READ_ON: Final = poller.END | poller.HANGUP | poller.ERROR | poller.URGENT
_MAY_READ: Final = poller.READ | _READ_ON
_TROUBLE: Final = poller.ERROR | poller.HANGUP
_WRITE: Final = poller.WRITE
_ERROR: Final = poller.ERROR
_URGENT: Final = poller.URGENT
_DATA: Final = poller.READ | poller.WRITE
_END: Final = poller.END
_LAST: Final = poller.END
"""Of _READ_ON, alone: the peer's FIN is there, and nothing else is behind the data."""

_BLAMED: Final[dict[Input, Side]] = {
    Input.CLIENT_RESET: "client",
    Input.CLIENT_CUT: "client",
    Input.CLIENT_WRITE_FAILED: "client",
    Input.TARGET_RESET: "target",
    Input.TARGET_CUT: "target",
    Input.TARGET_WRITE_FAILED: "target",
    Input.CONNECT_REFUSED: "target",
    Input.CONNECT_FAILED: "target",
}
"""Whose connection gave the error."""

_UP_INPUTS: Final = {
    Outcome.ENDED: Input.CLIENT_END,
    Outcome.READ_FAILED: Input.CLIENT_RESET,
    Outcome.WRITE_FAILED: Input.TARGET_WRITE_FAILED,
    Outcome.NO_MEMORY: Input.REQUESTER_BUFFER_FAILED,
}
_DOWN_INPUTS: Final = {
    Outcome.ENDED: Input.TARGET_END,
    Outcome.READ_FAILED: Input.TARGET_RESET,
    Outcome.WRITE_FAILED: Input.CLIENT_WRITE_FAILED,
    Outcome.NO_MEMORY: Input.TARGET_BUFFER_FAILED,
}

# Before 3.12 to look a member up in its class takes as long as a dozen other steps (0.1 µs).
_CONNECTING: Final = State.CONNECTING
_CLOSED: Final = State.CLOSED
_STARVED: Final = Outcome.STARVED
_BLOCKED: Final = Outcome.BLOCKED
_UNFINISHED: Final = Outcome.UNFINISHED
_START: Final = Action.START
_CLOSE_TARGET_WRITE: Final = Action.CLOSE_TARGET_WRITE
_CLOSE_CLIENT_WRITE: Final = Action.CLOSE_CLIENT_WRITE
_SETTLE: Final = Action.SETTLE
_FINISH: Final = Action.FINISH
_ENDS: Final = {Action.FINISH, Action.ABORT, Action.STOP}
_CONNECTED: Final = Input.CONNECTED
_ACKNOWLEDGED: Final = Input.ACKNOWLEDGED
_CLIENT_CUT: Final = Input.CLIENT_CUT
_TARGET_CUT: Final = Input.TARGET_CUT

_AFTER_CONNECT: Final = {errno.ECONNRESET, errno.EPIPE}
"""Errors of a connection that was made: a reset in answer to a SYN is ECONNREFUSED (tcp_reset: SYN_SENT)."""

_TURN_BYTES: Final = 1024 * 1024
"""Bytes that the queue may move in one turn: what takes a core about 0.1 ms with splice(2), 0.3 ms by copying."""
_LEAST_COST: Final = 16 * 1024  # bytes that a try costs at least, though it moved nothing

LINGER: Final = 10.0
"""Seconds without progress that a side is given to take what the other said before that ended or was gone."""
_WINDOWS_FILL: Final = 1.0
"""Seconds in which the receive windows of sides that do not read fill up. That is no progress."""
_AWAIT_END: Final = 0.1
"""Seconds that a peer is given to end, after the other has ended and then reset."""
_FAREWELL: Final = 128
"""Bytes that a peer which has ended may leave behind without a cut: a TLS alert takes at most 85 (RFC 5246)."""
_FIRST_LOOK: Final = 0.001  # seconds until a lingering session is looked at again; each time twice as long …
_RAREST_LOOK: Final = 0.25  # … up to this

_PROGRESS_AFTER: Final = 1.0  # seconds: how old the last known byte counts of a lost worker's session may be


_DRAINING: Final = {State.CLIENT_GONE, State.TARGET_GONE}
_AWAITING: Final = {State.CLIENT_GONE_AFTER_END, State.TARGET_GONE_AFTER_END}
_WITH_TARGET: Final = State.SETTLING_WITH_TARGET
_WITH_CLIENT: Final = State.SETTLING_WITH_CLIENT
_SETTLING: Final = {State.SETTLING, _WITH_TARGET, _WITH_CLIENT}


class Link:
    """One session in this worker: its state, its two sockets (owned) and its two pumps.

    `up` moves bytes from client to target, `down` the other way.
    """

    __slots__ = (
        "active_at",
        "admitted_at",
        "client",
        "client_reset",
        "connected",
        "down",
        "error",
        "error_from",
        "look",
        "outbound_port",
        "pause",
        "reason",
        "serial",
        "state",
        "target",
        "target_reset",
        "unacknowledged",
        "up",
    )

    def __init__(self, ticket: Ticket, client: SocketType, target: SocketType, up: Pump, down: Pump) -> None:
        self.serial = ticket.serial
        self.admitted_at = ticket.admitted_at
        self.active_at = ticket.admitted_at
        self.state = State.CONNECTING
        self.client = client
        self.target = target
        self.up = up
        self.down = down
        self.reason: CloseReason | None = None  # what happened first
        self.error: str | None = None
        self.error_from: Side | None = None
        self.connected = False  # to the target
        self.outbound_port = 0  # once connected; 0: not known any more
        self.client_reset = False
        self.target_reset = False
        self.look = 0  # number of the next look at it, while it lingers
        self.pause = _FIRST_LOOK
        self.unacknowledged = 0  # bytes, at the last look


class Relay:
    """Relays the sessions of one worker until it is told to stop."""

    def __init__(self, settings: Settings, inbox: Receiver, uplink: Uplink) -> None:
        self._settings = settings
        self._inbox = inbox
        self._uplink = uplink
        self._pumps = Pumps(settings.buffer, settings.pipes)
        self._address = (settings.target_ip, settings.target_port)
        self._target_ip = sockets.plain_ip(settings.target_ip)
        self._family = sockets.family_of(settings.target_ip)
        self._poller = poller.Poller()
        self._poller.add(inbox.fileno(), poller.READ)
        self._ends: dict[int, tuple[Link, Pump, Pump]] = {}  # descriptor: whose, who reads it, who writes it
        self._connecting: OrderedDict[Link, None] = OrderedDict()
        self._idle: OrderedDict[Link, None] = OrderedDict()
        self._queue: deque[tuple[Link, Pump]] = deque()  # pumps that could go on at once
        self._lingering: dict[int, Link] = {}  # by the number of the next look at it
        self._look_when: list[tuple[float, int]] = []  # a heap: moments, and numbers of looks
        self._looks = 0
        self._to_see: int | None = None
        """Events to be seen before timeouts are believed; None: no timeout is held back."""
        self._dirty: dict[Link, None] = {}  # moved bytes since their last Progress
        self._progress_at: float | None = None
        self._expired = False
        self._deadline: float | None = None
        self._expiry = None if settings.deadline is None else Deadline(settings.deadline)
        """The absolute timeout. Its descriptor tells it in time also after a sleep of the machine; `_deadline`
        does however many other events there are."""
        if self._expiry is not None:
            self._deadline = self._expiry.monotonic
            if self._expiry.fileno() >= 0:
                self._poller.add(self._expiry.fileno(), poller.READ | poller.EDGE)
        self._look_at = self._deadline
        """When to see what is due; None: nothing can be."""
        self._uplink_full = False
        self._now = time.monotonic()
        self._wall = time.time()

    def run(self) -> None:
        """Relay until the inbox ends; then reset every session, report that, and return."""
        while self._turn():
            pass
        self._end_all(Input.STOPPED)
        self._pumps.close()
        if self._expiry is not None:
            self._expiry.close()
        self._send_last_reports()

    def _turn(self) -> bool:
        """Wait once and do what came; False when told to stop."""
        tickets_wait = False
        if self._queue:
            ready = self._poller.wait(0.0)
        else:
            ready = self._poller.wait(None if self._look_at is None else self._look_at - self._now)
        self._now = time.monotonic()
        self._wall = time.time()
        for descriptor, mask in ready:
            end = self._ends.get(descriptor)
            if end is not None:
                link, reads, writes = end
                self._on_edge(link, reads, writes, mask)
            elif descriptor == self._inbox.fileno():
                tickets_wait = True
            elif self._expiry is not None and descriptor == self._expiry.fileno():
                self._deadline = self._look_at = self._now
        if self._queue:
            self._work_off_queue()
        if self._look_at is not None and self._now >= self._look_at:
            self._on_time(len(ready))
        if tickets_wait and not self._take_tickets():
            return False
        if self._uplink.waiting:
            self._send_reports()
        return True

    def _work_off_queue(self) -> None:
        """Move the bulk flows in their order, until the turn's budget is spent."""
        queue, left = self._queue, _TURN_BYTES
        while queue and left > 0:
            link, pump = queue.popleft()
            pump.queued = False
            if link.state is not _CLOSED and pump.can_move:
                before = pump.received
                self._drive(link, pump)
                left -= max(pump.received - before, _LEAST_COST)

    def _enqueue(self, link: Link, pump: Pump) -> None:
        """Let a pump go on when its turn comes."""
        if not pump.queued:
            pump.queued = True
            self._queue.append((link, pump))

    # -- time ------------------------------------------------------------------------------------------------

    def _look_by(self, at: float) -> None:
        """See what is due at `at`, if not earlier."""
        if self._look_at is None or at < self._look_at:
            self._look_at = at

    def _look_again(self) -> None:
        """Find the nearest deadline there is."""
        self._look_at = self._deadline
        if self._connecting:
            self._look_by(next(iter(self._connecting)).admitted_at + self._settings.connect_timeout)
        if self._idle:
            self._look_by(next(iter(self._idle)).active_at + self._settings.idle_timeout)
        if self._look_when:
            self._look_by(self._look_when[0][0])
        if self._progress_at is not None:
            self._look_by(self._progress_at)

    def _on_time(self, seen: int) -> None:
        """Do what is due, in a turn that saw this many events."""
        now = self._now
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._expired = True
            self._end_all(Input.EXPIRED)
        if not self._all_seen(seen):
            return  # and look again in the next turn
        while self._connecting:
            link = next(iter(self._connecting))
            if link.admitted_at + self._settings.connect_timeout > now:
                break
            self._happened(link, Input.CONNECT_TIMEOUT)
        while self._look_when and self._look_when[0][0] <= now:
            if (lingers := self._lingering.pop(heappop(self._look_when)[1], None)) is not None:
                self._look_after(lingers)
        while self._idle:  # after the looks: who was seen to make progress is not idle
            link = next(iter(self._idle))
            if link.active_at + self._settings.idle_timeout > now:
                break
            if link.up.queued or link.down.queued:
                link.active_at = now  # not idle: its bytes wait for their turn
                self._idle.move_to_end(link)
            else:
                self._happened(link, Input.IDLE_TIMEOUT)
        if self._progress_at is not None and now >= self._progress_at:
            self._report_progress()
        self._look_again()

    def _all_seen(self, seen: int) -> bool:
        """Tell whether every event has been seen that was ready when a timeout fell due.

        A session is not idle, nor late, while its event waits to be seen. The kernel's list of ready descriptors
        is first in, first out. So after as many events as there are descriptors nothing is left of what was ready
        then, however much is ready now.
        """
        if seen < poller.Poller.EVENTS_AT_ONCE:
            self._to_see = None
            return True
        if self._to_see is None:
            self._to_see = len(self._ends)
        self._to_see -= seen
        if self._to_see > 0:
            return False
        self._to_see = None
        return True

    # -- the life of a session -------------------------------------------------------------------------------

    def _take_tickets(self) -> bool:
        """Open what was handed over; False at the end of the inbox."""
        message = self._inbox.receive()
        if message is None:
            return False
        if not isinstance(message, list):
            raise NotImplementedError(message)  # nobody gives orders yet
        for ticket, descriptor in message:
            if descriptor is None:
                # The kernel had no descriptor left for it in this process, and has closed the connection.
                self._refuse(ticket, CloseReason.HANDOFF_FAILED, errno_name(errno.EMFILE))
            else:
                self._open(ticket, sockets.received(descriptor))
        return True

    def _open(self, ticket: Ticket, client: SocketType) -> None:
        """Begin a session: from here `client` is ours."""
        if self._expired:
            self._refuse(ticket, CloseReason.RELAY_EXPIRED, None, client)
            return
        try:
            target = sockets.target_socket(self._family)
        except OSError as failure:
            self._refuse(ticket, CloseReason.TARGET_SOCKET_FAILED, errno_name(failure.errno), client)
            return
        no_buffer = CloseReason.REQUESTER_BUFFER_FAILED
        try:
            up = self._pumps.make(client, target)
            no_buffer = CloseReason.TARGET_BUFFER_FAILED
            down = self._pumps.make(target, client)
        except MemoryError:
            self._refuse(ticket, no_buffer, errno_name(errno.ENOMEM), client, target)
            return
        link = Link(ticket, client, target, up, down)
        self._connecting[link] = None
        self._look_by(link.admitted_at + self._settings.connect_timeout)
        number = target.connect_ex(self._address)
        if number not in (0, errno.EINPROGRESS):
            self._not_connected(link, number)
            return
        no_channel = Input.REQUESTER_CHANNEL_FAILED
        try:
            self._poller.add(client.fileno(), _EVERYTHING)
            self._ends[client.fileno()] = (link, up, down)
            no_channel = Input.TARGET_CHANNEL_FAILED
            self._poller.add(target.fileno(), _EVERYTHING)
            self._ends[target.fileno()] = (link, down, up)
        except OSError as failure:
            self._happened(link, no_channel, errno_name(failure.errno))

    def _refuse(self, ticket: Ticket, reason: CloseReason, error: str | None, *owned: SocketType) -> None:
        """End a session that could not begin, and reset what it has."""
        inbound_ip = sockets.local_ip(owned[0]) if owned and self._settings.any_address else None
        for sock in owned:
            sock.close()
        duration_ms = (self._now - ticket.admitted_at) * 1000
        self._uplink.report(
            Closed(
                ticket.serial, self._wall, duration_ms, reason, error, None, None, None, inbound_ip, 0, 0, 0, 0
            )
        )

    def _on_edge(self, link: Link, reads: Pump, writes: Pump, mask: int) -> None:
        """Note what an edge says, and drive the pumps that it sets free."""
        if mask == _DATA and writes.writable and link.connected:
            # What nearly every edge of a session tells: data, and nothing else that is new. What came after this
            # turn's wait, an end perhaps, may have been met already, by the edge of the other socket.
            reads.readable = True
            if reads.writable and not reads.over:
                if reads.bulk:
                    self._enqueue(link, reads)
                else:
                    self._drive(link, reads)
            return
        if mask & _MAY_READ:
            reads.readable = True
            if read_on := mask & _READ_ON:
                reads.insistent = True
                reads.last = read_on == _LAST
                if read_on & _END and not read_on & _ERROR:  # a reset ends the sending too (tcp_done)
                    reads.fin = True
                if mask & _URGENT:
                    reads.unspliceable = True
        if not link.connected:
            if reads is link.down:
                self._on_connecting(link, mask)
        else:
            if mask & _MAY_READ and reads.writable and not reads.over:
                if reads.bulk:
                    self._enqueue(link, reads)
                else:
                    self._drive(link, reads)
            if mask & _WRITE and not writes.writable:
                writes.writable = True
                if link.state is not _CLOSED and writes.can_move:
                    self._drive(link, writes)
        if mask & _ERROR and link.state is not _CLOSED:
            self._on_error(link, reads)
        if link.state in _SETTLING and not self._left(link):
            self._happened(link, _ACKNOWLEDGED)

    def _on_error(self, link: Link, reads: Pump) -> None:
        """Take the error of the side that `reads` reads, unless reading has met it.

        It has not where nothing is read yet, or no more, or where what was read waits behind a full sink.
        """
        sock, cut = (link.client, _CLIENT_CUT) if reads is link.up else (link.target, _TARGET_CUT)
        if number := sockets.pending_error(sock):
            if link.state is _CONNECTING and not sockets.has_unread(link.client):
                cut = Input.CLIENT_RESET
            self._cut(link, cut, stream_error(number))

    def _cut(self, link: Link, cut: Input, error: str) -> None:
        """A side gave an error. Once both have ended, a reset that leaves only a farewell behind is no cut."""
        if link.state in _SETTLING and error == "ECONNRESET":
            client = cut is _CLIENT_CUT
            sock, writes = (link.client, link.down) if client else (link.target, link.up)
            if _not_arrived(sock, writes) <= _FAREWELL:
                self._happened(link, Input.CLIENT_RESET if client else Input.TARGET_RESET)
                return
        self._happened(link, cut, error)

    def _on_connecting(self, link: Link, mask: int) -> None:
        number = sockets.pending_error(link.target) if mask & _TROUBLE else 0
        if number and number not in _AFTER_CONNECT:
            self._not_connected(link, number)
            return
        if not mask & (_WRITE | _TROUBLE):
            return
        link.outbound_port = port = sockets.local_port(link.target)
        if port == self._address[1] and sockets.local_ip(link.target) == self._target_ip:
            # Nobody listens on the target's port, and the kernel chose it for our socket. Our SYN met our socket,
            # which TCP takes for a simultaneous open (RFC 9293, 3.5). Each client would talk to itself.
            self._not_connected(link, errno.ECONNREFUSED)
            return
        self._happened(link, _CONNECTED)
        if number:
            # The target took the connection, and reset it before we came to look. What it sent is still there.
            if link.state is not _CLOSED:  # a client that was gone already had nobody to be heard by
                self._happened(link, _TARGET_CUT, stream_error(number))
            return
        for pump in (link.up, link.down):
            if pump.can_move and link.state is not _CLOSED:
                self._drive(link, pump)

    def _not_connected(self, link: Link, number: int) -> None:
        refused = number == errno.ECONNREFUSED
        self._happened(link, Input.CONNECT_REFUSED if refused else Input.CONNECT_FAILED, errno_name(number))

    def _drive(self, link: Link, pump: Pump) -> None:
        """Run a pump of a link as far as it goes."""
        outcome = pump.move()
        if pump.moved:
            pump.moved = False
            link.active_at = self._now
            self._idle.move_to_end(link)
            if link not in self._dirty:
                self._note_progress(link)
        if outcome is _STARVED or outcome is _BLOCKED:
            return
        if outcome is _UNFINISHED:
            self._enqueue(link, pump)
        else:
            inputs = _UP_INPUTS if pump is link.up else _DOWN_INPUTS
            if link.state in _AWAITING and outcome is Outcome.ENDED and self._left_behind(link):
                outcome = Outcome.WRITE_FAILED
            self._happened(link, inputs[outcome], pump.error)

    def _note_progress(self, link: Link) -> None:
        """Bytes moved, or were acknowledged: report that within a second."""
        self._dirty[link] = None
        if self._progress_at is None:
            self._progress_at = self._now + _PROGRESS_AFTER
            self._look_by(self._progress_at)

    def _happened(self, link: Link, happened: Input, error: str | None = None) -> None:
        """Take a step and do what it asks for. The first error is kept, and whose it was."""
        link.state, action, reason = step(link.state, happened)
        if reason is not None:
            link.reason = reason
        if error is not None:
            self._note_error(link, happened, error)
        if action is _START:
            self._start(link)
        elif action is _CLOSE_CLIENT_WRITE:
            self._close_write(link, link.down, link.client, _CLIENT_CUT)
        elif action is _CLOSE_TARGET_WRITE:
            self._close_write(link, link.up, link.target, _TARGET_CUT)
        elif action is _SETTLE:
            self._settle(link)
        elif action in _ENDS:
            self._close(link, action)
        else:
            self._after_reset(link, action)

    def _note_error(self, link: Link, happened: Input, error: str) -> None:
        side = _BLAMED.get(happened)
        if error == "ECONNRESET":
            if side == "client":
                link.client_reset = True
            elif side == "target":
                link.target_reset = True
        if link.error is None:
            link.error, link.error_from = error, side

    def _start(self, link: Link) -> None:
        """The target is connected: bytes move from here on."""
        link.connected = True
        del self._connecting[link]
        self._idle[link] = None
        link.active_at = self._now
        self._look_by(self._now + self._settings.idle_timeout)
        connect_ms = (self._now - link.admitted_at) * 1000
        self._uplink.report(Connected(link.serial, self._wall, connect_ms, link.outbound_port))
        if link.state is not State.RELAYING:
            self._drain(link, link.up, link.down)

    def _close_write(self, link: Link, pump: Pump, sink: SocketType, cut: Input) -> None:
        """Tell the sink of a pump that the source has ended."""
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError as failure:
            number = sockets.pending_error(sink)
            if number or failure.errno == errno.ENOTCONN:  # reset since we last looked at it
                self._cut(link, cut, stream_error(number) if number else "ECONNRESET")
            # Else the system refuses shutdown(2), which is nobody's fault. The sink hears of this end when the
            # session ends.
        else:
            pump.told = True

    # -- after both ends -------------------------------------------------------------------------------------

    def _settle(self, link: Link) -> None:
        """Close both, or wait until those that are still there have acknowledged everything."""
        if link.error is not None:  # a reset that came when everything was delivered
            link.error = link.error_from = None
            link.client_reset = link.target_reset = False
        if not self._left(link):  # _happened's own lines, once more: nearly every session ends here
            link.state, action, _ = step(link.state, _ACKNOWLEDGED)
            self._close(link, action)
            return
        for pump, sink, cut, without in (
            (link.down, link.client, _CLIENT_CUT, _WITH_TARGET),
            (link.up, link.target, _TARGET_CUT, _WITH_CLIENT),
        ):
            pump.give_back()
            if link.state in _SETTLING and link.state is not without and not pump.told:
                self._close_write(link, pump, sink, cut)
        if link.state not in _SETTLING:
            return
        if not self._hears_of_it(link):
            self._await_progress(link)
            return
        link.unacknowledged = 0  # the first look only notes how much it is, and counts nothing as progress
        self._mark_active(link)
        self._look_once(link, self._now + min(_WINDOWS_FILL, self._settle_limit / 2))

    @property
    def _settle_limit(self) -> float:
        """Seconds without progress that sides which have ended are given."""
        return min(LINGER, self._settings.idle_timeout)

    def _hears_of_it(self, link: Link) -> bool:
        """Tell whether there will be an edge when all is acknowledged: those that are waited for have our FIN."""
        return (link.up.told or link.state is _WITH_CLIENT) and (link.down.told or link.state is _WITH_TARGET)

    # -- after a reset ---------------------------------------------------------------------------------------

    def _after_reset(self, link: Link, action: Action) -> None:
        """Do what is left to do for the other side."""
        match action:
            case Action.DRAIN_CLIENT:
                self._drain(link, link.up, link.down)
            case Action.DRAIN_TARGET:
                self._drain(link, link.down, link.up)
            case Action.AWAIT_TARGET_END:
                self._await_end(link, link.down)
            case Action.AWAIT_CLIENT_END:
                self._await_end(link, link.up)
            case Action.LINGER:
                link.up.over = link.down.over = True
                self._await_progress(link)

    def _drain(self, link: Link, last: Pump, over: Pump) -> None:
        """Deliver what a side that is gone has said (`last` reads it), and send it nothing more."""
        over.over = True
        last.doom(link.error or "ECONNRESET")
        if not link.connected:
            return
        if last.writable:
            self._drive(link, last)
        if link.state in _DRAINING:
            self._await_progress(link)

    def _await_end(self, link: Link, other: Pump) -> None:
        """See for a moment whether the side that `other` reads ends, with nothing more to say."""
        other.writable = True  # a send fails now, which shows that something could not be delivered
        if other.can_move:
            self._drive(link, other)
        if link.state in _AWAITING:
            self._look_once(link, self._now + _AWAIT_END)

    def _left_behind(self, link: Link) -> bool:
        """Tell whether the side that is gone, after its own end, never got what was sent to it before."""
        gone = link.client if link.state is State.CLIENT_GONE_AFTER_END else link.target
        return (sockets.unacknowledged(gone) or 0) > _FAREWELL

    def _await_progress(self, link: Link) -> None:
        """Give those that are there the linger time from now on, however long nothing has moved before."""
        link.unacknowledged = self._left(link)
        self._mark_active(link)
        self._look_after(link)

    def _mark_active(self, link: Link) -> None:
        """Count it as progress that something was acknowledged; the supervisor hears of it too."""
        link.active_at = self._now
        self._idle.move_to_end(link)
        if link not in self._dirty:
            self._note_progress(link)

    def _left(self, link: Link) -> int:
        """Count what is not acknowledged by those that are waited for.

        Where both have ended only data counts: our FIN may be acknowledged late, and an orphan without data holds
        next to no memory.
        """
        state = link.state
        if state in _SETTLING:
            left = 0
            if state is not _WITH_TARGET:
                left = _not_arrived(link.client, link.down)
            if state is not _WITH_CLIENT:
                left += _not_arrived(link.target, link.up)
            return left
        for_target = state in (State.CLIENT_GONE, State.LINGERING_FOR_TARGET)
        return sockets.unacknowledged(link.target if for_target else link.client) or 0

    def _look_once(self, link: Link, at: float) -> None:
        """Look after a link at `at`."""
        self._looks += 1
        self._lingering.pop(link.look, None)
        link.look = self._looks
        self._lingering[link.look] = link
        heappush(self._look_when, (at, link.look))
        self._look_by(at)

    def _look_after(self, link: Link) -> None:
        """See whether a link can end: all is acknowledged, or nothing has moved for too long."""
        now = self._now
        if link.state in _AWAITING:
            at = now
        else:
            left = self._left(link)
            if not left and link.state not in _DRAINING:
                self._happened(link, _ACKNOWLEDGED)
                return
            if left < link.unacknowledged:
                self._mark_active(link)
            link.unacknowledged = left
            at = link.active_at + (self._settle_limit if link.state in _SETTLING else LINGER)
            if link.state not in _SETTLING or not self._hears_of_it(link):
                link.pause = min(2 * link.pause, _RAREST_LOOK)
                at = min(at, now + link.pause)
        if now >= at:
            self._happened(link, Input.LINGER_TIMEOUT)
        else:
            self._look_once(link, at)

    def _close(self, link: Link, how: Action) -> None:
        """End both connections of a link, normally or by a reset, forget it, and report it."""
        up, down = link.up, link.down
        to_client, to_target = down.received, up.received
        if how is not _FINISH:
            to_client = down.sent - min(down.sent, _not_arrived(link.client, down))
            to_target = up.sent - min(up.sent, _not_arrived(link.target, up))
        for pump in (up, down):
            if pump.pipe is not None:
                pump.close()
        if self._ends.pop(link.client.fileno(), None) is not None:
            # The supervisor may not have come to close its copy yet, and as long as it has one the kernel keeps
            # the registration (epoll(7)): its events would come under a number that is another session's by then.
            self._poller.remove(link.client.fileno())
        self._ends.pop(link.target.fileno(), None)
        inbound_ip = sockets.local_ip(link.client) if self._settings.any_address else None
        for sock, writes in ((link.client, down), (link.target, up)):
            # With our FIN acknowledged and the peer's read the connection is over: a close resets nothing then.
            if how is _FINISH and not writes.done:
                sockets.end_normally(sock)
            else:
                sock.close()
        self._connecting.pop(link, None)
        self._idle.pop(link, None)
        self._dirty.pop(link, None)
        if link.look:
            self._lingering.pop(link.look, None)
        self._uplink.report(
            Closed(
                link.serial,
                self._wall,
                (self._now - link.admitted_at) * 1000,
                None if how is Action.STOP else link.reason,
                link.error,
                link.error_from,
                "reset" if link.client_reset else "end" if up.fin else None,
                "reset" if link.target_reset else "end" if down.fin else None,
                inbound_ip,
                up.received,
                down.received,
                to_client,
                to_target,
            )
        )

    def _end_all(self, why: Input) -> None:
        for link in [*self._connecting, *self._idle]:
            self._happened(link, why)

    # -- reporting -------------------------------------------------------------------------------------------

    def _report_progress(self) -> None:
        """Report what moved since the last time; take the pipes back from what did not."""
        if self._uplink.waiting:  # the supervisor does not keep up: counts can wait, and must not pile up
            self._progress_at = self._now + _PROGRESS_AFTER
            return
        for link in self._dirty:
            up, down = link.up, link.down
            self._uplink.report(Progress(link.serial, up.received, down.received, down.sent, up.sent))
        self._dirty = {}
        self._progress_at = self._now + _PROGRESS_AFTER if self._pumps.reclaim() else None

    def _send_reports(self) -> None:
        """Send what there is to report; wait for room in the uplink exactly while something has to."""
        blocked = not self._uplink.flush()
        if blocked != self._uplink_full:
            self._uplink_full = blocked
            if blocked:
                self._poller.add(self._uplink.fileno(), poller.WRITE)
            else:
                self._poller.remove(self._uplink.fileno())

    def _send_last_reports(self) -> None:
        """The same, until all is sent: nothing else is left to do."""
        self._poller.remove(self._inbox.fileno())
        self._send_reports()
        while self._uplink_full:
            self._poller.wait(None)
            self._send_reports()


def _not_arrived(sock: SocketType, writes: Pump) -> int:
    """Count the bytes that a pump's sink has not acknowledged, without our FIN behind them."""
    if not writes.received:
        return 0
    left = sockets.unacknowledged(sock)
    if not writes.told:
        return left or 0
    if left:
        return left - 1
    writes.done = left is not None
    return 0
