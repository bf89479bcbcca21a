"""The worker's relay loop: readiness → pump → session → act.

    tickets ──▶ _open ──▶ _on_connecting ──▶ _drive ⇄ pumps ──▶ _happened ──▶ _close ──▶ events
                  │                             ▲                   ▲
                  │                        poller.wait              │
                  └────────────── refused, failed, timeouts ────────┘

Rules:

1. Each socket is registered once, edge-triggered, for everything. Closing the target's takes its registration
   back; the client's, of which the supervisor has a copy for a while, is taken back by hand. Every edge is
   noted in the flags of the two pumps that it concerns; those are driven that it sets free.
2. Work is proportional to what happened, never to how many sessions there are. Timeouts are two queues in
   the order of their deadlines: a session that moved bytes goes to the end of the idle queue, so the head
   is always the one that was quiet for longest. No scan, no stale entry. `_look_at` is never later than the
   nearest of all deadlines, and the queues are looked at only then.
3. Descriptors of sessions that ended in this turn may stand in the rest of the turn's events, and a new
   session could get the same numbers: new tickets are taken after all other events of a turn.
4. Whatever happens to a session goes through :func:`mprelay.session.step`.
5. The clock is read once for each wake-up.

What a new connection costs here (measured as in :mod:`mprelay.supervisor`): 85 µs in the kernel, for about twenty
system calls, of which send, connect and close take more than half, and 55 µs of Python. HAProxy has as much in
the kernel (82 µs), and 11 µs of its own: what is left between the two is the interpreter. Each socket is
registered by one epoll_ctl; the client's is taken back by another. A request on an open session is four system
calls, as HAProxy's.
"""

import errno
import socket
import time
from collections import OrderedDict
from socket import SocketType
from typing import Final

from mprelay import poller, sockets
from mprelay.events import Closed, CloseReason, Connected, Progress, Settings, Ticket
from mprelay.handoff import Receiver
from mprelay.pump import Outcome, Pump, Pumps, errno_name, stream_error
from mprelay.session import Action, Input, State, step
from mprelay.uplink import Uplink

_EVERYTHING: Final = poller.READ | poller.WRITE | poller.END | poller.URGENT | poller.EDGE
_READ_ON: Final = poller.END | poller.HANGUP | poller.ERROR | poller.URGENT
_MAY_READ: Final = poller.READ | _READ_ON
_TROUBLE: Final = poller.ERROR | poller.HANGUP
_WRITE: Final = poller.WRITE
_ERROR: Final = poller.ERROR
_URGENT: Final = poller.URGENT
_DATA: Final = poller.READ | poller.WRITE
_LAST: Final = poller.END
"""Of _READ_ON, alone: the peer's FIN is there, and nothing else is behind the data."""

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
_FINISH: Final = Action.FINISH
_CONNECTED: Final = Input.CONNECTED
_CLIENT_RESET: Final = Input.CLIENT_RESET
_TARGET_RESET: Final = Input.TARGET_RESET

_AFTER_CONNECT: Final = {errno.ECONNRESET, errno.EPIPE}
"""Errors of a connection that was made: a reset in answer to a SYN is ECONNREFUSED (tcp_reset: SYN_SENT)."""

_PROGRESS_AFTER: Final = 1.0  # seconds: how old the last known byte counts of a lost worker's session may be


class Link:
    """One session in this worker: its state, its two sockets (owned) and its two pumps.

    `up` moves bytes from client to target, `down` the other way.
    """

    __slots__ = ("active_at", "admitted_at", "client", "down", "serial", "state", "target", "up")

    def __init__(self, ticket: Ticket, client: SocketType, target: SocketType, up: Pump, down: Pump) -> None:
        self.serial = ticket.serial
        self.admitted_at = ticket.admitted_at
        self.active_at = ticket.admitted_at
        self.state = State.CONNECTING
        self.client = client
        self.target = target
        self.up = up
        self.down = down


class Relay:
    """Relays the sessions of one worker until it is told to stop."""

    def __init__(self, settings: Settings, inbox: Receiver, uplink: Uplink) -> None:
        self._settings = settings
        self._inbox = inbox
        self._uplink = uplink
        self._pumps = Pumps(settings.buffer, settings.pipes)
        self._address = (settings.target_ip, settings.target_port)
        self._family = sockets.family_of(settings.target_ip)
        self._poller = poller.Poller()
        self._poller.add(inbox.fileno(), poller.READ)
        self._ends: dict[int, tuple[Link, Pump, Pump]] = {}  # descriptor: whose, who reads it, who writes it
        self._connecting: OrderedDict[Link, None] = OrderedDict()
        self._idle: OrderedDict[Link, None] = OrderedDict()
        self._unfinished: dict[Pump, Link] = {}  # could go on at once
        self._dirty: dict[Link, None] = {}  # moved bytes since their last Progress
        self._progress_at: float | None = None
        self._deadline = settings.deadline
        self._look_at = settings.deadline
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
        self._send_last_reports()

    def _turn(self) -> bool:
        """Wait once and do what came; False when told to stop."""
        tickets_wait = False
        again = None
        if self._unfinished:
            again, self._unfinished = self._unfinished, {}
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
        if again is not None:
            for pump, link in again.items():
                if link.state is not _CLOSED and pump.can_move and pump not in self._unfinished:
                    self._drive(link, pump)
        if self._look_at is not None and self._now >= self._look_at:
            self._on_time(all_seen=len(ready) < poller.MOST)
        if tickets_wait and not self._take_tickets():
            return False
        if self._uplink.waiting:
            self._send_reports()
        return True

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
        if self._progress_at is not None:
            self._look_by(self._progress_at)

    def _on_time(self, *, all_seen: bool) -> None:
        """Do what is due. A session is not idle, nor late, whose event may still be waiting to be seen."""
        now = self._now
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._end_all(Input.EXPIRED)
        if not all_seen:
            return  # and look again in the next turn
        while self._connecting:
            link = next(iter(self._connecting))
            if link.admitted_at + self._settings.connect_timeout > now:
                break
            self._happened(link, Input.CONNECT_TIMEOUT)
        while self._idle:
            link = next(iter(self._idle))
            if link.active_at + self._settings.idle_timeout > now:
                break
            self._happened(link, Input.IDLE_TIMEOUT)
        if self._progress_at is not None and now >= self._progress_at:
            self._report_progress()
        self._look_again()

    # -- the life of a session -------------------------------------------------------------------------------

    def _take_tickets(self) -> bool:
        """Open what was handed over; False at the end of the inbox."""
        message = self._inbox.receive()
        if message is None:
            return False
        for ticket, descriptor in message:
            if descriptor is None:
                # The kernel had no descriptor left for it in this process, and has closed the connection.
                self._refuse(ticket, CloseReason.HANDOFF_FAILED, errno_name(errno.EMFILE))
            else:
                self._open(ticket, sockets.received(descriptor))
        return True

    def _open(self, ticket: Ticket, client: SocketType) -> None:
        """Begin a session: from here `client` is ours."""
        if self._settings.deadline is not None and self._now >= self._settings.deadline:
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
        for sock in owned:
            sock.close()
        duration_ms = (self._now - ticket.admitted_at) * 1000
        self._uplink.report(Closed(ticket.serial, self._wall, duration_ms, reason, error, 0, 0))

    def _on_edge(self, link: Link, reads: Pump, writes: Pump, mask: int) -> None:
        """Note what an edge says, and drive the pumps that it sets free."""
        if mask == _DATA and writes.writable and link.state is not _CONNECTING:
            # What nearly every edge of a session tells: data, and nothing else that is new. What came after this
            # turn's wait, an end perhaps, may have been met already, by the edge of the other socket.
            reads.readable = True
            if reads.writable and not reads.ended:
                self._drive(link, reads)
            return
        if mask & _MAY_READ:
            reads.readable = True
            if read_on := mask & _READ_ON:
                reads.insistent = True
                reads.last = read_on == _LAST
                if mask & _URGENT:
                    reads.unspliceable = True
        if link.state is _CONNECTING:
            if reads is link.down:
                self._on_connecting(link, mask)
        else:
            if mask & _MAY_READ and reads.writable and not reads.ended:
                self._drive(link, reads)
            if mask & _WRITE and not writes.writable:
                writes.writable = True
                if link.state is not _CLOSED and writes.can_move:
                    self._drive(link, writes)
        if mask & _ERROR and link.state is not _CLOSED:
            # Not met by reading: nothing is read yet, or no more, or what was read waits behind a full sink.
            sock, reset = (link.client, _CLIENT_RESET) if reads is link.up else (link.target, _TARGET_RESET)
            if number := sockets.pending_error(sock):
                self._happened(link, reset, stream_error(number))

    def _on_connecting(self, link: Link, mask: int) -> None:
        number = sockets.pending_error(link.target) if mask & _TROUBLE else 0
        if number in _AFTER_CONNECT:
            # The target took the connection, and reset it before we came to look. What it sent is still there.
            self._happened(link, _CONNECTED)
            link.up.writable = False
            link.down.doom = stream_error(number)
            self._drive(link, link.down)
            if link.state is not _CLOSED:
                self._happened(link, _TARGET_RESET, link.down.doom)
        elif number:
            self._not_connected(link, number)
        elif mask & (_WRITE | _TROUBLE):
            self._happened(link, _CONNECTED)
            for pump in (link.up, link.down):
                if pump.readable and link.state is not _CLOSED:
                    self._drive(link, pump)

    def _not_connected(self, link: Link, number: int) -> None:
        refused = number == errno.ECONNREFUSED
        self._happened(link, Input.CONNECT_REFUSED if refused else Input.CONNECT_FAILED, errno_name(number))

    def _drive(self, link: Link, pump: Pump) -> None:
        """Run a pump of a link as far as it goes."""
        outcome = pump.move()
        if pump.moved:
            pump.moved = False
            link.active_at = now = self._now
            self._idle.move_to_end(link)
            if link not in self._dirty:
                self._dirty[link] = None
                if self._progress_at is None:
                    self._progress_at = now + _PROGRESS_AFTER
                    self._look_by(self._progress_at)
        if outcome is _STARVED or outcome is _BLOCKED:
            return
        if outcome is _UNFINISHED:
            self._unfinished[pump] = link
        else:
            inputs = _UP_INPUTS if pump is link.up else _DOWN_INPUTS
            self._happened(link, inputs[outcome], pump.error)

    def _happened(self, link: Link, happened: Input, error: str | None = None) -> None:
        """Take a step and do what it asks for."""
        link.state, action, reason = step(link.state, happened)
        if action is _START:
            del self._connecting[link]
            self._idle[link] = None
            link.active_at = self._now
            self._look_by(self._now + self._settings.idle_timeout)
            connect_ms = (self._now - link.admitted_at) * 1000
            self._uplink.report(Connected(link.serial, self._wall, connect_ms))
        elif action is _CLOSE_CLIENT_WRITE:
            self._close_write(link, link.client, _CLIENT_RESET)
        elif action is _CLOSE_TARGET_WRITE:
            self._close_write(link, link.target, _TARGET_RESET)
        else:
            self._close(link, reason, error, normally=action is _FINISH)

    def _close_write(self, link: Link, sock: SocketType, reset: Input) -> None:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as failure:
            # ENOTCONN: the peer has reset the connection since we last looked at it.
            number = sockets.pending_error(sock) or failure.errno
            name = "ECONNRESET" if number == errno.ENOTCONN else stream_error(number)
            self._happened(link, reset, name)

    def _close(self, link: Link, reason: CloseReason | None, error: str | None, *, normally: bool) -> None:
        """End both connections of a link, normally or by a reset, forget it, and report it."""
        for pump in (link.up, link.down):
            if pump.pipe is not None:
                pump.close()
            if self._unfinished:
                self._unfinished.pop(pump, None)
        if self._ends.pop(link.client.fileno(), None) is not None:
            # The supervisor may not have come to close its copy yet, and as long as it has one the kernel keeps
            # the registration (epoll(7)): its events would come under a number that is another session's by then.
            self._poller.remove(link.client.fileno())
        self._ends.pop(link.target.fileno(), None)
        for sock in (link.client, link.target):
            if normally:
                sockets.end_normally(sock)
            else:
                sock.close()
        self._connecting.pop(link, None)
        self._idle.pop(link, None)
        self._dirty.pop(link, None)
        duration_ms = (self._now - link.admitted_at) * 1000
        received = link.up.received, link.down.received
        self._uplink.report(Closed(link.serial, self._wall, duration_ms, reason, error, *received))

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
            self._uplink.report(Progress(link.serial, link.up.received, link.down.received))
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
