"""One session: what an edge of its sockets moves, and how it ends.

    edge ──▶ on_edge ──▶ drive ⇄ pumps ──▶ happened ──▶ _close ──▶ reports
                           ▲                  ▲  │
       queue of bulk flows ┘    timeouts, kill ┘  └──▶ look: lingering

Rules:

1. Whatever happens to a session goes through :func:`mprelay.core.lifecycle.step`.
2. Each socket is registered once, edge-triggered, for everything. Each edge updates the two pumps that it
   concerns, then runs those it unblocked. Closing the target's socket takes its registration back; the client's,
   of which the supervisor has a copy for a while, is taken back by hand. Without edges the rules of
   :mod:`mprelay.worker.level` hold.
3. The first error is kept, and whose it was, unless both sides then end normally.
"""

import errno
import time
from socket import SocketType
from typing import Final

from mprelay.core.lifecycle import Action, Input, State, step
from mprelay.core.protocol import (
    Address,
    Closed,
    CloseReason,
    Connected,
    Measured,
    Progress,
    Settings,
    Side,
    Ticket,
)
from mprelay.system import poller, sockets
from mprelay.system.errnos import RESET_ERRNOS, stream_error
from mprelay.worker import lingering
from mprelay.worker.bulk import BulkQueue
from mprelay.worker.deadlines import Deadlines
from mprelay.worker.level import WorkerPoller
from mprelay.worker.pump import Outcome, Pump
from mprelay.worker.reports import Reports

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

# Before 3.12, looking a member up in its class takes as long as a dozen other steps (0.1 µs).
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
_ACKNOWLEDGED: Final = Input.ACKNOWLEDGED
_CLIENT_CUT: Final = Input.CLIENT_CUT
_TARGET_CUT: Final = Input.TARGET_CUT
_SETTLING: Final = lingering.SETTLING
_AWAITING: Final = lingering.AWAITING
_unacknowledged: Final = lingering.unacknowledged

_ERROR: Final = poller.ERROR
_NO_CONNECTION: Final = RESET_ERRNOS | {errno.ENOTCONN}
"""Errors of shutdown(2) if the connection is gone."""


class Worker:
    """The worker, as its sessions know it."""

    __slots__ = ("bulk", "deadlines", "expired", "now", "poller", "reports", "sessions", "settings", "unix_time")

    def __init__(
        self,
        settings: Settings,
        events: WorkerPoller,
        deadlines: "Deadlines[Session]",
        reports: Reports,
        sessions: "dict[int, tuple[Session, Pump, Pump]]",
    ) -> None:
        self.settings = settings
        self.poller = events
        self.deadlines = deadlines
        self.reports = reports
        self.bulk = BulkQueue()
        self.sessions = sessions
        """By descriptor: whose socket it is, the pump that reads it, the pump that writes it."""
        self.now = 0.0
        """The moment of this turn, on the monotonic clock."""
        self.unix_time: float | None = None
        """The same as Unix time, if it was asked for in this turn."""
        self.expired = False
        """Whether the absolute timeout has come: no session is opened any more."""

    def wall(self) -> float:
        """Return the Unix time of this turn: that clock is read only if there is something to report."""
        if self.unix_time is None:
            self.unix_time = time.time()
        return self.unix_time

    def note_progress(self, session: "Session") -> None:
        """Report within a second that bytes of a session moved, or were acknowledged."""
        self.reports.changed[session] = None
        self.deadlines.progress(self.now)

    def mark_active(self, session: "Session") -> None:
        """Count it as progress that something was acknowledged; the supervisor hears of it too."""
        session.active_at = self.now
        self.deadlines.idle.move_to_end(session)
        if session not in self.reports.changed:
            self.note_progress(session)


class Session:
    """One session in this worker: its state, its two sockets (owned) and its two pumps.

    `up` moves bytes from client to target, `down` the other way.
    """

    __slots__ = (
        "_client_reset",
        "_error",
        "_error_from",
        "_pause",
        "_reason",
        "_target_reset",
        "_unacknowledged",
        "_worker",
        "active_at",
        "address",
        "admitted_at",
        "client",
        "connected",
        "down",
        "failure",
        "header",
        "look",
        "others",
        "outbound_port",
        "serial",
        "state",
        "target",
        "up",
    )

    def __init__(
        self,
        worker: Worker,
        ticket: Ticket,
        address: Address,
        ends: tuple[SocketType, SocketType],
        pumps: tuple[Pump, Pump],
    ) -> None:
        self._worker = worker
        self.serial = ticket.serial
        self.admitted_at = ticket.admitted_at
        self.active_at = ticket.admitted_at
        self.state = _CONNECTING
        self.address = address
        """The target's: the one that is tried, or was tried last."""
        self.failure = 0
        """The errno of the last try, if another one follows; 0: its time was over."""
        self.others: tuple[str, ...] = ()
        """Addresses of the target that are to be tried if that one does not answer."""
        self.client, self.target = ends
        self.up, self.down = pumps
        self.connected = False
        """Whether the target is connected."""
        self.header = b""
        """What the target hears before the client's bytes: who the client is."""
        self.outbound_port = 0
        """Our port of the connection to the target; 0: not connected, or no longer known."""
        self.look = 0
        """The number of the next look at it, while it lingers."""
        self._pause = lingering.FIRST_PAUSE
        self._unacknowledged = 0  # bytes, at the last look
        self._reason: CloseReason | None = None  # what happened first
        self._error: str | None = None
        self._error_from: Side | None = None
        self._client_reset = False
        self._target_reset = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state is _CLOSED

    def progress(self) -> Progress:
        """Return the byte counts so far."""
        up, down = self.up, self.down
        return Progress(self.serial, up.received, down.received, down.sent, up.sent)

    # -- what moves ------------------------------------------------------------------------------------------

    def on_edge(self, reads: Pump, writes: Pump, edge: int) -> None:
        """Run the pumps that an edge sets free: `reads` reads the socket, `writes` writes it.

        What came after this turn's wait, an end perhaps, may already have been met through the other socket.
        """
        if reads.source_ready(edge):
            if reads.bulk:
                self._worker.bulk.add(self, reads)
            else:
                self.drive(reads)
        if not writes.writable and writes.sink_ready(edge) and self.state is not _CLOSED:
            self.drive(writes)
        if edge & _ERROR and self.state is not _CLOSED:
            self.on_error(reads)
        if self.state in _SETTLING and not _unacknowledged(self):
            self.happened(_ACKNOWLEDGED)

    def drive(self, pump: Pump) -> None:
        """Run a pump of this session as far as it goes."""
        outcome = pump.move()
        if pump.moved:
            worker = self._worker
            self.active_at = worker.now
            worker.deadlines.idle.move_to_end(self)
            if self not in worker.reports.changed:
                worker.note_progress(self)
        if outcome is _STARVED or outcome is _BLOCKED:
            return
        if outcome is _UNFINISHED:
            self._worker.bulk.add(self, pump)
        else:
            inputs = _UP_INPUTS if pump is self.up else _DOWN_INPUTS
            if self.state in _AWAITING and outcome is Outcome.ENDED and lingering.left_behind(self):
                outcome = Outcome.WRITE_FAILED
            self.happened(inputs[outcome], pump.error)

    def on_error(self, reads: Pump) -> None:
        """Take the error of the side that `reads` reads, unless reading has met it.

        It has not if nothing is read yet, or no more, or if what was read waits behind a full sink.
        """
        sock, cut = (self.client, _CLIENT_CUT) if reads is self.up else (self.target, _TARGET_CUT)
        if number := sockets.pending_error(sock):
            if self.state is _CONNECTING and not sockets.has_unread(self.client):
                cut = Input.CLIENT_RESET
            self.cut(cut, stream_error(number))

    def cut(self, cut: Input, error: str) -> None:
        """A side gave an error. Once both have ended, a reset that leaves only a farewell behind is no cut."""
        if self.state in _SETTLING and error == "ECONNRESET":
            writes, reset = (
                (self.down, Input.CLIENT_RESET) if cut is _CLIENT_CUT else (self.up, Input.TARGET_RESET)
            )
            if writes.not_arrived() <= lingering.FAREWELL:
                self.happened(reset)
                return
        self.happened(cut, error)

    # -- what happens ----------------------------------------------------------------------------------------

    def happened(self, what: Input, error: str | None = None) -> None:
        """Take a step and do what it asks for."""
        self.state, action, reason = step(self.state, what)
        if reason is not None:
            self._reason = reason
        if error is not None:
            self._note_error(what, error)
        if action is _START:
            self._start()
        elif action is _CLOSE_CLIENT_WRITE:
            self._close_write(self.down, self.client, _CLIENT_CUT)
        elif action is _CLOSE_TARGET_WRITE:
            self._close_write(self.up, self.target, _TARGET_CUT)
        elif action is _SETTLE:
            self._settle()
        elif action in _ENDS:
            self._close(action)
        else:
            self._after_reset(action)

    def kill(self, reason: CloseReason) -> None:
        """End it because the supervisor says so."""
        self._reason = reason
        self.happened(Input.KILLED)

    def _note_error(self, what: Input, error: str) -> None:
        side = _BLAMED.get(what)
        if error == "ECONNRESET":
            if side == "client":
                self._client_reset = True
            elif side == "target":
                self._target_reset = True
        if self._error is None:
            self._error, self._error_from = error, side

    def _start(self) -> None:
        """Move bytes from here on: the target is connected."""
        self.connected = True
        worker = self._worker
        worker.deadlines.connected(self, worker.now)
        connect_ms = (worker.now - self.admitted_at) * 1000
        worker.reports.report(Connected(self.serial, worker.wall(), connect_ms, self.outbound_port))
        if self.state is not State.RELAYING:
            self._drain(self.up, self.down)

    def _close_write(self, pump: Pump, sink: SocketType, cut: Input) -> None:
        """Tell the sink of a pump that the source has ended."""
        try:
            pump.end_sink()
        except OSError as failure:
            number = sockets.pending_error(sink)
            if number or failure.errno in _NO_CONNECTION:  # reset since we last looked at it
                self.cut(cut, stream_error(number) if number else "ECONNRESET")
            # Otherwise the system refuses shutdown(2), which is nobody's fault. The sink hears of this end when
            # the session ends.

    # -- after both ends, or a reset -------------------------------------------------------------------------

    def _settle(self) -> None:
        """Close both sockets, or wait until those which are still there have acknowledged everything."""
        if self._error is not None:  # a reset that came when everything was delivered
            self._error = self._error_from = None
            self._client_reset = self._target_reset = False
        if not _unacknowledged(self):  # happened's own lines, once more: nearly every session ends here
            self.state, action, _ = step(self.state, _ACKNOWLEDGED)
            self._close(action)
            return
        for pump, sink, cut, without in (
            (self.down, self.client, _CLIENT_CUT, State.SETTLING_WITH_TARGET),
            (self.up, self.target, _TARGET_CUT, State.SETTLING_WITH_CLIENT),
        ):
            pump.give_back()
            if self.state in _SETTLING and self.state is not without and not pump.fin_sent:
                self._close_write(pump, sink, cut)
        if self.state not in _SETTLING:
            return
        if not lingering.edge_will_tell(self):
            self._await_progress()
            return
        self._unacknowledged = 0  # the first look only notes how much it is, and counts nothing as progress
        worker = self._worker
        worker.mark_active(self)
        limit = lingering.time_limit(self, worker.settings.idle_timeout)
        worker.deadlines.look_later(self, worker.now + min(lingering.WINDOWS_FILL, limit / 2))

    def _after_reset(self, action: Action) -> None:
        """Do what is left to do for the other side."""
        match action:
            case Action.DRAIN_CLIENT:
                self._drain(self.up, self.down)
            case Action.DRAIN_TARGET:
                self._drain(self.down, self.up)
            case Action.AWAIT_TARGET_END:
                self._await_end(self.down)
            case Action.AWAIT_CLIENT_END:
                self._await_end(self.up)
            case Action.LINGER:
                self.up.stop()
                self.down.stop()
                self._await_progress()

    def _drain(self, last: Pump, over: Pump) -> None:
        """Deliver what a side that is gone has said (`last` reads it), and send it nothing more."""
        over.stop()
        last.source_failed(self._error or "ECONNRESET")
        if not self.connected:
            return
        if last.writable:
            self.drive(last)
        if self.state in lingering.DRAINING:
            self._await_progress()

    def _await_end(self, other: Pump) -> None:
        """See for a moment whether the side that `other` reads ends, with nothing more to say."""
        if other.sink_ready():  # a send fails now, which shows that something could not be delivered
            self.drive(other)
        if self.state in _AWAITING:
            self._worker.deadlines.look_later(self, self._worker.now + lingering.AWAIT_END)

    def _await_progress(self) -> None:
        """Give those which are there the linger time from now on, however long nothing has moved before.

        If the system does not tell what is unacknowledged, their time counts from the last byte that was sent.
        """
        left = _unacknowledged(self)
        self._unacknowledged = left or 0
        if left is not None or self.state in lingering.DRAINING:
            self._worker.mark_active(self)
        self.look_again()

    def look_again(self) -> None:
        """See whether it can end: everything is acknowledged, or nothing has moved for too long."""
        worker = self._worker
        now = worker.now
        if not poller.TELLS_EDGES and self._meets_error():
            return
        if self.state in _AWAITING:
            at = now
        else:
            left = _unacknowledged(self)
            if left == 0 and self.state not in lingering.DRAINING:
                self.happened(_ACKNOWLEDGED)
                return
            known = left is not None
            if left is not None and left < self._unacknowledged:
                worker.mark_active(self)
            self._unacknowledged = left or 0
            at = self.active_at + lingering.time_limit(self, worker.settings.idle_timeout, known=known)
            if known and not lingering.edge_will_tell(self):
                self._pause = lingering.longer(self._pause)
                at = min(at, now + self._pause)
        if now >= at:
            self.happened(Input.LINGER_TIMEOUT)
        else:
            worker.deadlines.look_later(self, at)

    def _meets_error(self) -> bool:
        """Look for errors that no edge tells of. True: one changed the state, and what follows is arranged."""
        before = self.state
        self.on_error(self.up)
        if self.state is before:
            self.on_error(self.down)
        return self.state is not before

    def _close(self, how: Action) -> None:
        """End both connections, normally or by a reset, forget the session, and report it."""
        worker = self._worker
        client, target, up, down = self.client, self.target, self.up, self.down
        to_client, to_target = down.received, up.received
        if how is not _FINISH:
            to_client = down.sent - min(down.sent, down.not_arrived())
            to_target = up.sent - min(up.sent, up.not_arrived())
        for pump in (up, down):
            if pump.pipe is not None:
                pump.close()
        if worker.sessions.pop(client.fileno(), None) is not None:
            # The supervisor may still hold its copy of this socket. Until it closes it, the kernel keeps our
            # registration (epoll(7)) and would report events under a descriptor number that another session may
            # have by then.
            worker.poller.remove(client.fileno())
        worker.sessions.pop(target.fileno(), None)
        if worker.settings.tcp_info:
            worker.reports.report(_measure(self))
        inbound_ip = sockets.local_ip(client) if worker.settings.any_address else None
        for sock, writes in ((client, down), (target, up)):
            # With our FIN acknowledged and the peer's read, the connection is over: a close resets nothing then.
            if how is _FINISH and not writes.acknowledged:
                sockets.end_normally(sock)
            else:
                sock.close()
        worker.deadlines.forget(self)
        worker.reports.changed.pop(self, None)
        worker.reports.report(
            Closed(
                self.serial,
                worker.wall(),
                (worker.now - self.admitted_at) * 1000,
                None if how is Action.STOP else self._reason,
                self._error,
                self._error_from,
                "reset" if self._client_reset else "end" if up.fin_received else None,
                "reset" if self._target_reset else "end" if down.fin_received else None,
                inbound_ip,
                up.received,
                down.received,
                to_client,
                to_target,
            )
        )


def _measure(session: Session) -> Measured:
    """Ask for what TCP has measured: nothing about a target that was never reached."""
    to_client = sockets.path(session.client)
    to_target = sockets.path(session.target) if session.connected else sockets.Path(None, None)
    return Measured(
        session.serial, to_client.rtt_ms, to_target.rtt_ms, to_client.retransmits, to_target.retransmits
    )
