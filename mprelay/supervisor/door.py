"""The door: new connections are accepted, judged, recorded, and handed over to workers.

Rules:

1. A connection is accepted only if it can be admitted or refused, and recorded, right now. Otherwise it waits in
   the kernel's backlog.
2. All connections of a batch that go to one worker are handed over in one message. After the hand-over the
   message owns the sockets.
3. A flood of refusals from one address is summed up (:mod:`mprelay.core.floods`). While many records wait to be
   written, all refusals are, because each record of one takes room that other records need. So refused
   connections alone never fill the room up to the mark at which admission pauses.
4. After a pause, each client that connected before it ended is examined. It has given up if it has reset the
   connection, or has waited longer than the connect timeout. An end of data is no sign of that: ``nc -N`` has
   sent one before the connection is accepted.
"""

import socket
from typing import Final, TypeAlias

from mprelay.channel.down import BATCH
from mprelay.config.validation import Config
from mprelay.core.acl import Acl
from mprelay.core.admission import Patience, Policy, PortSearch
from mprelay.core.ledger import Session
from mprelay.core.pauses import Pauses
from mprelay.core.phases import Phase, RunState
from mprelay.core.protocol import CloseReason, Ticket
from mprelay.core.roster import NoRoom
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.announcements import Announcements, Awaited
from mprelay.supervisor.book import Book
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.listener import Listener
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.sums import Sums
from mprelay.system import addresses, oneway, sockets
from mprelay.system.errnos import errno_name

_ACCEPT_PAUSE: Final = 0.1  # seconds without accepting after accept(2) failed, to avoid a busy loop
_NO_PORTS_PAUSE: Final = 1.0  # seconds without accepting after a worker found no local port towards the target
_SLOT_PATIENCE: Final = oneway.REPORT_TIME  # seconds that a connection waits for a slot before it is refused

_ACTIVE: Final = Phase.ACTIVE  # before 3.12, finding an enum member takes as long as a dozen other steps
_Batch: TypeAlias = list[tuple[Session | Awaited, int]]
"""Sessions, and connections that may become some, each with the descriptor of its client."""


class Door:
    """Accepts new connections, judges them, and hands over those that are admitted."""

    def __init__(
        self,
        config: Config,
        loop: Loop,
        state: RunState,
        *,
        recorder: Recorder,
        writer: Writer,
        book: Book,
        crew: Crew,
        offer: str | None,
    ) -> None:
        """Make it; `offer` is the listener that is handed over, if one is (:mod:`mprelay.system.inherited`)."""
        self._loop = loop
        self._state = state
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self._crew = crew
        self._connect_timeout = config.connect_timeout
        self._names_clients = config.proxy_protocol is not None  # the workers tell the target who they are
        _, read = config.acl
        self._policy = Policy(read.acl, config.max_rate, config.max_per_client, book.ledger.sessions_of)
        address = config.bind, config.fwd_port
        self.listener = Listener(loop, recorder, address, self._on_connection, offer=offer)
        self._connections_wait = False
        self._patience = Patience()
        self._lapse = loop.unset_alarm(self._patience.lapse)
        self.ports = PortSearch()
        """Whether there are local ports towards the target."""
        self._pause = loop.unset_alarm(self._on_pause_over)  # while it is pending, no connection is accepted
        self._sums = Sums(loop, writer, book)
        self.announcements = Announcements(
            config.accept_proxy,
            loop,
            state,
            book=book,
            crew=crew,
            policy=self._policy,
            ports=self.ports,
            sums=self._sums,
        )
        """The connections that must begin with a PROXY header."""
        self._may_be_proxied = config.accept_proxy is not None
        self.held = False
        """Whether the operator holds admission back."""
        self.pauses: Pauses | None = None
        """Counts the seconds of pauses, if somebody wants to know."""
        self._paused = False
        self._resumed_at = loop.now
        self._examining = False  # clients that connected before `_resumed_at` may have given up
        self._log_paused_at: float | None = None  # since when waiting records hold back admission

    def judge_by(self, acl: Acl) -> None:
        """Judge all connections from now on by another list."""
        self._policy.acl = acl

    # -- open and shut ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen on the port. No client is admitted before the run is active. Raises Failure."""
        self.listener.open()

    def close(self) -> None:
        """Close the listener. Connections that still wait in the backlog are reset."""
        self.listener.close()

    def update_watch(self) -> None:
        """Watch the listener exactly while connections may be accepted. Call it at the end of each turn."""
        if self.pauses is not None:
            self.pauses.note(self.paused_by if self._state.phase is _ACTIVE else None, self._loop.now)
        if not self.listener.is_open or self._state.phase is not _ACTIVE:
            return
        if self._paused != (paused := self._must_pause()):
            self._paused = paused
            if not paused:
                self._examining = True
                self._resumed_at = self._loop.now
        if self._writer.paused != (self._log_paused_at is not None):
            self._record_pause()
        wanted = not (paused or (self._patience.waiting and self._book.ledger.full))
        if wanted != self.listener.watched:
            self.listener.watch(wanted=wanted)

    def _must_pause(self) -> bool:
        """True while no connection can be admitted or refused.

        Too many records wait, accept(2) has just failed, there is no local port towards the target, the operator
        holds admission back, or no worker has room although there are slots (workers died, and their replacements
        are just starting).
        """
        return (
            self._writer.congested  # always asked, because `update_watch` then reads `Writer.paused`
            or self._pause.pending
            or self.held
            or not (self._book.workers.has_room() or self._book.ledger.full)
        )

    @property
    def paused_by(self) -> str | None:
        """What holds admission back; None: nothing."""
        if self.held:
            return "operator"
        if self._state.phase is not _ACTIVE:
            return None
        if self._writer.paused:
            return "log"
        if self._pause.pending:
            return "system"
        return None if self._book.workers.has_room() or self._book.ledger.full else "workers"

    def _may_accept(self) -> bool:
        """True if a new connection could be admitted or refused, and recorded, right now."""
        if self._state.phase is not _ACTIVE or self._must_pause():
            return False
        return not (self._patience.waiting and self._book.ledger.full)

    def _record_pause(self) -> None:
        """Record that waiting records hold back admission, or no longer do."""
        if self._log_paused_at is None:
            self._log_paused_at = self._loop.now
            self._recorder.write(catalogue.ADMISSION_PAUSED)
        else:
            paused_s = round(self._loop.now - self._log_paused_at, 3)
            waiting = self.listener.waiting()
            self._recorder.write(catalogue.ADMISSION_RESUMED, paused_s=paused_s, waiting=waiting)
            self._log_paused_at = None
        self._recorder.flush()

    def _on_pause_over(self) -> None:
        if self.ports.found:
            self.ports.end()

    # -- new connections -------------------------------------------------------------------------------------

    def _on_connection(self) -> None:
        self._connections_wait = True

    def admit(self) -> None:
        """Accept waiting connections. Call it last in each turn, after slots have been given back."""
        if not self._connections_wait:
            return
        self._connections_wait = False
        if not self.listener.is_open or not self._may_accept():
            return
        if not self._book.ledger.full or self._has_waited():
            self._accept()

    def _has_waited(self) -> bool:
        """At the limit: True if the next client has waited long enough, or need not wait. Else wait a moment."""
        self._crew.reports.hear_all()  # a report that came since this turn's wait may free a slot
        if not self._may_accept():
            return False  # … or end the relay, or a worker that had room
        if self._patience.refusable or not self._book.ledger.full:
            return True
        waiting = self.listener.waiting()
        self._patience.begin(waiting or BATCH, counted=bool(waiting))
        self._lapse.move(self._loop.now + _SLOT_PATIENCE)
        return False

    def _accept(self) -> None:
        """Accept a batch of connections: judge and book each, then hand over one message to each worker."""
        book, at, now = self._book, self._loop.wall, self._loop.now
        self._sums.begin()
        batches: dict[int, _Batch] = {}
        failed: OSError | None = None
        slots = book.ledger.free
        for _ in range(BATCH):
            if not slots and not self._patience.refusable:
                break
            try:
                client, address = self.listener.accept()
            except BlockingIOError:
                self._patience.queued = 0
                self._examining = False
                break
            except OSError as failure:
                failed = failure
                break
            self.listener.replaced = False
            if self._patience.queued:
                self._patience.queued -= 1
            ip = sockets.plain_ip(address[0])
            waited_ms = self._waited_in_vain(client) if self._examining else None
            booking: Session | Awaited | None
            if self._may_be_proxied and self.announcements.trusts(ip):
                booking = self.announcements.begin((ip, address[1]), free=slots > 0, waited_ms=waited_ms)
            else:
                verdict = self._policy.decide(ip, now, free=slots > 0, given_up=waited_ms is not None)
                booking = book.enter((ip, address[1]), verdict, at, now, waited_ms or 0.0)
            if booking is None:
                sockets.refuse(client)
                continue
            slots -= 1
            batches.setdefault(book.workers.place(booking, now), []).append((booking, client))
            if self.ports.running:
                if isinstance(booking, Session):
                    self.ports.admitted(booking.serial)
                self._pause.move(self._loop.now + _NO_PORTS_PAUSE)
                break
            if slots and not book.workers.has_room():
                break
        self._sums.end()
        for worker, batch in batches.items():
            self._hand_over(worker, batch, frozenset((worker,)))
        if batches:
            self._crew.watchdog.expect(now)
            if not self._patience.counted:
                self._patience.forget()  # whoever waited has a slot now, and nobody knows who is behind them
        if failed is not None:
            self._accept_failed(failed)

    def _waited_in_vain(self, client: int) -> float | None:
        """Return the milliseconds that a client waited if it came during a pause and gave up; else None."""
        arrival = sockets.arrival(client)
        if arrival is None:
            return None
        if arrival.waited_ms < (self._loop.now - self._resumed_at) * 1000:
            self._examining = False  # it came after the pause, as did all that are behind it
            return None
        late = arrival.waited_ms > self._connect_timeout * 1000
        return float(arrival.waited_ms) if arrival.reset or late else None

    def _hand_over(self, worker: int, batch: _Batch, tried: frozenset[int]) -> None:
        """Hand `batch` over to `worker`; on failure, each session to the least loaded worker not in `tried`."""
        tickets = (
            [Ticket(one.serial, one.admitted_at, (one.client_ip, one.client_port)) for one, _ in batch]
            if self._names_clients
            else [Ticket(one.serial, one.admitted_at) for one, _ in batch]
        )
        try:
            self._crew.send(worker, tickets, [client for _, client in batch])
        except OSError as failure:
            for session, client in batch:
                try:
                    other = self._book.workers.place(session, self._loop.now, tried)
                except NoRoom:
                    sockets.refuse(client)
                    error = errno_name(failure.errno)
                    if isinstance(session, Awaited):
                        self.announcements.not_handed_over(session, error)
                        continue
                    self._book.lost(session, self._loop.wall, self._loop.now, CloseReason.HANDOFF_FAILED, error)
                else:
                    self._hand_over(other, [(session, client)], tried | {other})
            return
        for session, client in batch:
            socket.close(client)  # the message owns the socket now
            if not session.is_awaited:
                self._book.allocated(session, self._loop.wall)

    def _accept_failed(self, failure: OSError) -> None:
        """Pause accepting, unless the listener was replaced, or a client has reset its connection.

        Most errors are a lack of descriptors or memory.
        """
        if self.listener.handle_error(failure):
            self._patience.forget()
        elif failure.errno not in sockets.CLIENT_GONE_ERRNOS:
            self._pause.move(self._loop.now + _ACCEPT_PAUSE)

    # -- ports towards the target ----------------------------------------------------------------------------

    def on_port_found(self, serial: int) -> None:
        """Note that a session found a local port towards the target."""
        if self.ports.tells(serial):
            self.ports.end()
            self._pause.cancel()

    def on_port_missing(self, target_ip: str | None) -> None:
        """Note that a session found no local port towards this address of the target.

        Each port stays in TIME_WAIT for a minute, and a search for a free one costs the kernel milliseconds. So
        sessions are admitted one by one until one has found a port. connect(2) gives the same error if there is
        no address to send from; then there is nothing to wait for.
        """
        if target_ip is not None and addresses.has_route(target_ip):
            self.ports.begin()
            self._pause.move(self._loop.now + _NO_PORTS_PAUSE)
