"""The worker's loop: readiness → pump → session → act.

    messages ──▶ Connector ──▶ Session ⇄ Pump ──▶ Reports
                                ▲    ▲      │
               poller.wait ─────┘    │      ▼
                 Deadlines ──────────┴── BulkQueue

Rules:

1. Each turn waits once and then acts, in this order: edges, bulk flows, timeouts, messages, reports.
2. Descriptors of sessions that ended in this turn may still be in the rest of the turn's events, and a new
   socket could get the same number. So messages, which bring new sessions, and tries of other addresses, which
   are due at once, come after all events.
3. The clock is read once for each wake-up.
"""

import time
from typing import TYPE_CHECKING, Final

from mprelay.channel.down import Received, Receiver
from mprelay.channel.up import Uplink
from mprelay.core.lifecycle import Input
from mprelay.core.protocol import Admit, CloseReason, Expiry, Kill, NewExpiry, Refuse, Settings, Targets
from mprelay.system import poller
from mprelay.system.boottime import Deadline
from mprelay.worker.connecting import Connector
from mprelay.worker.deadlines import PROGRESS_INTERVAL, Deadlines
from mprelay.worker.level import make_poller
from mprelay.worker.pump import ORDINARY_EDGE, Pump, Pumps
from mprelay.worker.reports import Reports
from mprelay.worker.session import Session, Worker

if TYPE_CHECKING:
    from mprelay.worker.headers import Headers


_LATE: Final = 0.05  # seconds by which a wait must miss a deadline to be repeated


class Loop:
    """Relays the sessions of one worker until it is told to stop."""

    def __init__(self, settings: Settings, inbox: Receiver, uplink: Uplink) -> None:
        self._inbox = inbox
        self._uplink = uplink
        sessions: dict[int, tuple[Session, Pump, Pump]] = {}
        self._poller = make_poller(sessions)
        self._poller.add(inbox.fileno(), poller.READ)
        self._deadlines: Deadlines[Session] = Deadlines(
            settings.connect_timeout, settings.idle_timeout, settings.session_timeout
        )
        self._reports = Reports(uplink, self._poller)
        self._pumps = Pumps(settings.buffer, settings.pipes)
        self._worker = Worker(settings, self._poller, self._deadlines, self._reports, sessions)
        self._connector = Connector(self._worker, settings, self._pumps)
        self._headers: Headers | None = None
        self._open = self._connector.open
        """open(ticket, descriptor) takes a connection that was handed over."""
        if settings.awaits_headers:
            from mprelay.worker import headers  # noqa: PLC0415 - only where it is needed

            self._headers = headers.Headers(self._worker, self._connector)
            self._open = self._headers.open
        self._late_for: float | None = (
            None  # the deadline for which an empty wait that took too long was repeated
        )
        self._expiry: Deadline | None = None
        """When the relay closes itself. Its descriptor tells of it in time even after the machine has slept;
        `_deadlines` does however many other events there are."""
        self._worker.now = time.monotonic()
        self._expire_at(settings.expiry)

    def run(self) -> None:
        """Relay until the inbox ends; then reset every session, report that, and return."""
        while self._turn():
            pass
        self._end_all(Input.STOPPED)
        if self._headers is not None:
            self._headers.close()
        self._pumps.close()
        if self._expiry is not None:
            self._expiry.close()
        self._poller.remove(self._inbox.fileno())
        self._reports.send_all()

    def _turn(self) -> bool:
        """Wait once and do what came; False when told to stop."""
        worker, deadlines = self._worker, self._deadlines
        messages_wait = False
        if worker.bulk.waiting:
            ready = self._poller.wait(0.0)
        else:
            ready = self._poller.wait(None if deadlines.look_at is None else deadlines.look_at - worker.now)
        worker.now, worker.unix_time = time.monotonic(), None
        for descriptor, edge in ready:
            found = worker.sessions.get(descriptor)
            if found is not None:
                session, reads, writes = found
                if edge == ORDINARY_EDGE and writes.writable and session.connected and not reads.bulk:
                    if reads.source_ready(edge):  # on_edge's own lines, once more: nearly every edge comes here
                        session.drive(reads)
                elif session.connected:
                    session.on_edge(reads, writes, edge)
                else:
                    self._connector.on_edge(session, reads, edge)
            elif descriptor == self._inbox.fileno():
                messages_wait = True
            elif self._expiry is not None and descriptor == self._expiry.fileno():
                deadlines.expire_at(worker.now)
            elif self._headers is not None:
                self._headers.on_ready(descriptor)
        if worker.bulk.waiting:
            worker.bulk.work_off()
        if deadlines.look_at is not None and worker.now >= deadlines.look_at:
            self._on_time(len(ready))
        if messages_wait and not self._take_messages():
            return False
        if self._uplink.waiting:
            self._reports.send()
        return True

    def _on_time(self, seen: int) -> None:
        """Do what is due, in a turn that saw this many events."""
        worker, deadlines = self._worker, self._deadlines
        now = worker.now
        due = deadlines.look_at
        if not seen and due is not None and now > due + _LATE and due != self._late_for:
            # A process that is stopped while it waits gets EINTR (signal(7)). If the time is over by then,
            # CPython looks for nothing that came in time. So look again before a deadline is believed.
            self._late_for = due
            return
        if deadlines.expiry is not None and now >= deadlines.expiry:
            self._look_at_expiry()
        watched = len(worker.sessions)
        if self._headers is not None:
            watched += len(self._headers) + seen  # those of this turn's events may be gone from there
        if not deadlines.all_seen(seen, poller.Poller.EVENTS_AT_ONCE, watched):
            return  # and look again in the next turn
        while (session := deadlines.session_timed_out(now)) is not None:
            session.kill(CloseReason.SESSION_TIMEOUT)
        while (session := deadlines.connect_timed_out(now)) is not None:
            session.happened(Input.CONNECT_TIMEOUT)
        while (session := deadlines.look_due(now)) is not None:
            if session.connected:
                session.look_again()
            else:
                self._connector.next_address(session)
        while (session := deadlines.idle_timed_out(now)) is not None:  # after the looks, which may see progress
            if session.up.queued or session.down.queued:
                session.active_at = now  # not idle: its bytes wait for their turn
                deadlines.idle.move_to_end(session)
            else:
                session.happened(Input.IDLE_TIMEOUT)
        if self._headers is not None:
            self._headers.end_late(now)
        if deadlines.progress_at is not None and now >= deadlines.progress_at:
            again = not self._reports.progress() or self._pumps.reclaim()
            deadlines.progress_at = now + PROGRESS_INTERVAL if again else None
        deadlines.find_nearest()

    def _take_messages(self) -> bool:
        """Do what the supervisor says; False at the end of the inbox."""
        message = self._inbox.receive()
        if message is None:
            return False
        self._obey(message)
        return True

    def _obey(self, message: Received) -> None:
        if type(message) is list:
            for ticket, descriptor in message:
                self._open(ticket, descriptor)
        elif isinstance(message, Kill):
            self._kill(message)
        elif isinstance(message, NewExpiry):
            self._expire_at(message.expiry)
        elif isinstance(message, Targets):
            self._connector.connect_to(message)
        elif self._headers is not None and isinstance(message, Admit | Refuse):
            self._headers.obey(message)

    def _kill(self, kill: Kill) -> None:
        """End these sessions, if they are still there."""
        serials = set(kill.serials)
        for session in self._sessions():
            if session.serial in serials:
                session.kill(kill.reason)

    def _look_at_expiry(self) -> None:
        """End everything if the moment has come. If the wall clock was set back, it has not."""
        assert self._expiry is not None  # noqa: S101 - `_deadlines` has it from there
        while self._expiry.reached() and (message := self._inbox.receive()):
            self._obey(message)  # it may be put off
            if self._expiry is None:
                return
        if not self._expiry.reached():
            self._deadlines.expire_at(self._expiry.ask_at())
            return
        self._deadlines.expire_at(None)
        self._worker.expired = True
        self._end_all(Input.EXPIRED)
        if self._headers is not None:
            self._headers.close()

    def _expire_at(self, expiry: Expiry | None) -> None:
        """Set the moment of the end, in the place of the one before."""
        if self._expiry is not None:
            self._expiry.close()  # which takes its registration back
            self._expiry = None
        self._worker.expired = False
        if expiry is None:
            self._deadlines.expire_at(None)
            return
        self._expiry = Deadline(expiry.at, wall=expiry.wall)
        self._deadlines.expire_at(self._expiry.ask_at())
        if self._expiry.fileno() >= 0:
            self._poller.add(self._expiry.fileno(), poller.READ | poller.EDGE)

    def _end_all(self, why: Input) -> None:
        """End every session."""
        for session in self._sessions():
            session.happened(why)

    def _sessions(self) -> list[Session]:
        return [*self._deadlines.connecting, *self._deadlines.idle]
