"""One run of the relay, and the picture of how everything is wired.

    client ──TCP──▶ listener                                                  target
                      │ accept, in batches                                      ▲
      ┌───────────────┴────────── supervisor process ──────────────┐            │
      │  door ── policy.decide() ─▶ book.enter() ─▶ roster.place() │            │
      │                              │                             │            │
      │    book = ledger (slots, serials, totals) and the record   │            │
      │    of whatever happens to it: what is counted is written   │            │
      │                              │                             │            │
      │                              ▼                             │            │
      │  recorder ─▶ writer ── socket, sends that never wait ──────┼─▶ outlet ──┼─▶ stdout
      │                              ▲                             │            │
      │  crew ── reports ────────────┘                             │            │
      └──┬──────────────────────────────────────▲──────────────────┘            │
         │ SCM_RIGHTS, or socket.share          │ one multiprocessing queue     │
         │ tickets + sockets, many per message  │ per worker: batches of events │
      ═══╪══════════════════════════════════════╪═════ process boundary ════    │
      ┌──▼──────────────────────────────────────┴──────────────────┐            │
      │ worker 1..N: relay loop; session = state machine;          ├──TCP───────┘
      │ pump = recv/send through a buffer, or splice through a pipe│
      └────────────────────────────────────────────────────────────┘

Tickets with sockets go down, events come up. Nobody ever waits for a reply. End of file on the hand-over channel
is the stop message. Stop, supervisor crash and replacement therefore all work the same way.

The outlet is a process too. It owns stdout and stderr and nothing else, because a write there may wait for the
reader in a way that not even SIGKILL ends (:mod:`mprelay.outlet.copying`). It is started first. Every process
started after it inherits a socket to the outlet in place of the standard streams.

Rules:

1. The table in :mod:`mprelay.core.phases` lists everything that can happen to a run, and what follows from it.
2. A turn has a fixed order: calls that are due, ready descriptors, dead workers, the operator's requests, new
   connections. New connections come last because they can then use the slots given back in the same turn.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from mprelay import __version__
from mprelay.channel.down import BATCH
from mprelay.config.validation import Config
from mprelay.core.ledger import Ledger
from mprelay.core.phases import Action, Happening, Phase, RunState
from mprelay.core.protocol import (
    Announced,
    Closed,
    CloseReason,
    Connected,
    Measured,
    NotAnnounced,
    Progress,
    Settings,
    Targets,
    Trying,
)
from mprelay.core.texts import ACL_LIMIT, NAME_LIMIT, cut, shown
from mprelay.core.unexpected import describe, place_of
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.render import Renderer
from mprelay.records.sealed import SealedRecorder
from mprelay.records.writer import Writer
from mprelay.seal.sealer import Signer
from mprelay.supervisor.book import Book
from mprelay.supervisor.checks import check_clock, check_platform
from mprelay.supervisor.commands import Commands
from mprelay.supervisor.control import DESCRIPTORS, Control
from mprelay.supervisor.crew import START_LIMIT, Crew
from mprelay.supervisor.door import Door
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.idleness import Idleness
from mprelay.supervisor.lifetime import Lifetime
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.metrics import METRICS_DESCRIPTORS, Metrics
from mprelay.supervisor.outlet_link import OutletLink
from mprelay.supervisor.progress import SessionProgress
from mprelay.supervisor.reload import Reload
from mprelay.supervisor.reports import Report
from mprelay.supervisor.resolver import Resolver
from mprelay.supervisor.sealing import Sealing
from mprelay.supervisor.service import Service
from mprelay.supervisor.statistics import Statistics
from mprelay.supervisor.status import Status
from mprelay.system import garbage, limits, origin, signals, spawning, unix_socket
from mprelay.system.errnos import NO_LOCAL_PORT
from mprelay.system.notify import Notifier

_ACTIVE: Final = Phase.ACTIVE  # before 3.12, finding an enum member takes as long as a dozen other steps


class Run:
    """One run of the relay: started, served, drained, ended."""

    def __init__(
        self,
        config: Config,
        started: float,
        render: Renderer,
        *,
        notifier: Notifier,
        offer: str | None,
        control: unix_socket.Listener | None,
        new_key: Callable[[], Signer] | None,
        notes: int | None,
    ) -> None:
        """Make all parts.

        Args:
            config: What was asked for.
            started: When (monotonic).
            render: The form of the records.
            notifier: The way to the service manager.
            offer: The listener that it hands over, if it does.
            control: The socket for commands, if there is one.
            new_key: Makes a key that seals the log, if that is asked for.
            notes: The descriptor of the file for checkpoints, if there is one; the run owns it.

        """
        self._config = config
        self._started = started  # monotonic
        self._begun = time.monotonic()  # the parameters are read: the time for the start begins
        self._loop = loop = Loop(started)
        self._state = state = RunState()
        self._lifetime = Lifetime(config, loop, started)
        writer = Writer(notes)
        self._outlet = OutletLink(
            loop,
            state,
            writer,
            on_ready=self._on_ready,
            on_gone=partial(self._happened, Happening.STDOUT_GONE),
            on_notes_lost=lambda: self._recorder.write(
                catalogue.LOG_NOTES_LOST, file=shown(config.checkpoint_to or "")
            ),
        )
        recorder: Recorder
        self._sealing: Sealing | None = None
        if new_key is None:
            recorder = Recorder(render, self._outlet.put, labels=config.labels)
        else:
            _, owner = config.seal_key or ("", None)
            recorder = SealedRecorder(
                render,
                self._outlet.put,
                labels=config.labels,
                new_key=new_key,
                owner=owner,
                note_sink=None if notes is None else self._outlet.put_notes,
            )
            self._sealing = Sealing(loop, recorder)
        self._recorder = recorder
        self._book = book = Book(
            recorder,
            Ledger(
                config.max_sessions,
                (config.connect_timeout, config.idle_timeout),
                by_client=config.max_per_client > 0,
            ),
            (config.trg_host, config.trg_port),
            inbound_ip=config.bind,
            every_message=config.log_detail == "full",
            tcp_info=config.tcp_info,
        )
        self._crew = crew = Crew(
            config.workers,
            loop,
            state,
            recorder=recorder,
            writer=writer,
            book=book,
            on_report=self._on_report,
            on_ready=self._on_ready,
            on_gone=lambda worker, how: self._door.announcements.lost(worker, how),  # noqa: PLW0108 - made below
        )
        self._door = Door(
            config, loop, state, recorder=recorder, writer=writer, book=book, crew=crew, offer=offer
        )
        self._idle: Idleness | None = None
        if config.exit_idle:
            stop = partial(self._happened, Happening.IDLE)
            self._idle = Idleness(config.exit_idle, loop, book.ledger, stop)
        rules, _ = config.acl
        self._reload: Reload | None = None
        if rules.has_files:
            self._reload = Reload(
                loop,
                config.acl,
                recorder=recorder,
                book=book,
                orders=crew.orders,
                on_read=self._door.judge_by,
                ends_sessions=config.acl_ends_sessions,
            )
        self._service: Service | None = None
        if notifier.present:
            reload = self._reload
            self._service = Service(
                notifier,
                loop,
                state,
                book.ledger,
                drain_timeout=config.drain_timeout,
                reloading=lambda: reload is not None and reload.busy,
            )
        self._resolver: Resolver | None = None
        if config.target is not None:
            self._resolver = Resolver(
                loop,
                config.target,
                config.answer,
                config.resolve,
                recorder=recorder,
                writer=writer,
                book=book,
                crew=crew,
            )
        self._statistics = Statistics(
            config.stats_interval, loop, recorder=recorder, writer=writer, book=book, crew=crew
        )
        status = Status(
            config,
            state,
            recorder=recorder,
            writer=writer,
            book=book,
            crew=crew,
            door=self._door,
            lifetime=self._lifetime,
            started=started,
        )
        self._control: Control | None = None
        if control is not None:
            commands = Commands(
                status,
                state,
                recorder=recorder,
                writer=writer,
                book=book,
                crew=crew,
                door=self._door,
                reload=self._reload,
                lifetime=self._lifetime,
                drain=self.stop,
            )
            self._control = Control(loop, control, commands.obey, recorder.watch)
        self._progress: SessionProgress | None = None
        if config.progress_interval:
            self._progress = SessionProgress(config.progress_interval, loop, state, writer=writer, book=book)
        self._metrics: Metrics | None = None
        if config.metrics is not None:
            self._metrics = Metrics(
                config.metrics,
                config.options["metrics"],
                loop,
                state,
                recorder=recorder,
                writer=writer,
                book=book,
                crew=crew,
                door=self._door,
                status=status,
                on_ready=self._on_ready,
            )
        self._origin = origin.Origin(None, None, None)  # not known yet
        self._start_limit = loop.unset_alarm(self._start_took_too_long)
        self._most_ready = 0  # processes, at any time of the start
        self._hurry = False  # a stop signal came while the run was ending

    def run(self) -> int:
        """Start, serve, end; return the exit code."""
        try:
            self._start()
            while self._state.phase is not Phase.OVER:
                self._turn()
        except Exception as unexpected:  # noqa: BLE001 - the barrier: it is recorded, and the process ends
            self._abandon(unexpected)
        return self._finish()

    def _turn(self) -> None:
        """Wait once, then handle everything that is due or ready."""
        if self._crew.watchdog.may_be_early:
            self._crew.watchdog.postpone()
        try:
            self._loop.turn()
            self._crew.bury_and_judge()
            if self._control is not None:
                self._control.work()
            self._door.admit()
        except Failure as failure:
            self._fail(failure)
        if self._state.phase is not _ACTIVE:
            if self._state.phase is Phase.DRAINING and self._book.ledger.unused:
                self._happened(Happening.NO_SESSION_LEFT)
            if self._state.phase is Phase.ENDING and self._crew.empty:
                self._happened(Happening.NO_WORKER_LEFT)
        elif self._idle is not None:
            self._idle.look()
        if self._sealing is not None:
            self._sealing.look()
        self._recorder.flush()  # before `update_watch`, which looks at the backlog of records
        self._door.update_watch()
        if self._service is not None:
            self._service.look()

    # -- the start -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start all parts, in the order in which a failure costs least."""
        self._loop.now = self._begun
        garbage.collect_rarely()
        with suppress(OSError):  # a sandbox may refuse it
            os.chdir("/")  # workers inherit the working directory, and the current one may be removed later
        try:
            check_clock()
            check_platform()
            self._loop.open(self._on_signal)
            self._lifetime.start(self.expire)
            self._outlet.start()
            if self._lifetime.reached():
                self.expire()
                return
            if self._metrics is not None:
                self._metrics.start()
            self._door.start()
            if self._control is not None:
                self._control.start()
            self._start_crew()
            self._origin = origin.find()  # while the first worker starts
        except Failure as failure:
            self._fail(failure)

    def _start_crew(self) -> None:
        config = self._config
        try:
            others = (DESCRIPTORS if self._control is not None else 0) + (
                METRICS_DESCRIPTORS if self._metrics is not None else 0
            )
            share = limits.reserve(config.max_sessions, config.workers, BATCH, others)
        except limits.LimitTooLow as low:
            raise Failure(catalogue.POOL_START_FAILED, error="EMFILE", detail=str(low)) from low
        settings = Settings(
            targets=Targets(config.answer.addresses, named=config.target is not None),
            target_port=config.trg_port,
            connect_timeout=config.connect_timeout,
            idle_timeout=config.idle_timeout,
            session_timeout=config.session_timeout or None,
            source=config.source,
            proxy_protocol=config.proxy_protocol,
            awaits_headers=config.accept_proxy is not None,
            keepalive=config.keepalive or None,
            tcp_info=config.tcp_info,
            buffer=config.buffer,
            pipes=share.pipes,
            any_address=config.bind is None,
            expiry=self._lifetime.told,
        )
        self._start_limit.move(self._loop.now + START_LIMIT)
        self._crew.start(settings, share.sessions)

    def _start_took_too_long(self) -> None:
        """Give up. If the loop itself stood still, read first what has come meanwhile."""
        judges_from = self._crew.watchdog.judges_from
        if self._loop.now < judges_from:
            self._start_limit.move(judges_from)
            return
        who = "not every worker was ready"
        if not self._outlet.ready:
            who = "the outlet was not ready"
        elif self._metrics is not None and not self._metrics.ready:
            who = "the metrics process was not ready"
        detail = f"{who}, and nothing had become ready for {START_LIMIT:g} seconds"
        raise Failure(catalogue.POOL_START_FAILED, error="ETIMEDOUT", detail=detail)

    def _on_ready(self) -> None:
        """Open the door once every worker and the outlet are ready."""
        if self._state.phase is not Phase.STARTING:
            return
        ready = len(self._crew.ready_members()) + self._outlet.ready
        wanted = self._config.workers + 1
        if self._metrics is not None:
            ready += self._metrics.ready
            wanted += 1
        if ready == wanted:
            self._happened(Happening.ALL_READY)
        elif ready > self._most_ready:  # one that only replaces another is no progress
            self._most_ready = ready
            self._start_limit.move(self._loop.now + START_LIMIT)

    def _serve(self) -> None:
        """Admit clients from now on, and record that."""
        config = self._config
        self._start_limit.cancel()
        self._statistics.start()
        if self._resolver is not None:
            self._resolver.start()
        listen_ip, listen_port, *_ = self._door.listener.address
        rules, _ = config.acl
        host, opened_by, clock_synchronised = self._origin
        self._recorder.write(
            catalogue.RELAY_ACTIVE,
            listen_ip=listen_ip,
            listen_port=listen_port,
            target_host=config.trg_host,
            target_ip=self._book.target_ip,
            target_port=config.trg_port,
            acl=cut(rules.written, ACL_LIMIT),
            workers=config.workers,
            max_sessions=config.max_sessions,
            log_detail=config.log_detail,
            expires_at=self._recorder.show_time(self._lifetime.expires_at),
            options=dict(config.options),
            pid=os.getpid(),
            version=__version__,
            host=None if host is None else cut(host, NAME_LIMIT),
            opened_by=None if opened_by is None else cut(opened_by, NAME_LIMIT),
            clock_synchronised=clock_synchronised,
        )

    # -- what happens ----------------------------------------------------------------------------------------

    def _happened(self, happening: Happening, signal: int | None = None) -> None:
        """Move the state one step, and do what that asks for."""
        match self._state.advance(happening):
            case Action.SERVE:
                self._serve()
            case Action.DRAIN:
                self._drain(signal)
            case Action.EXPIRE:
                self._expire()
            case Action.END:
                self._end()
            case Action.HURRY:
                self._hurry = True

    def _on_signal(self) -> None:
        for number in self._loop.take_signals():
            if self._reload is not None and self._reload.is_meant(number):
                if self._state.phase in {Phase.STARTING, Phase.ACTIVE, Phase.DRAINING}:
                    self._reload.begin()
                    if self._service is not None:
                        self._service.reload()
            else:
                self.stop(number)

    def _on_report(self, worker: int, event: Report, now: float) -> bool:
        """Act on a worker's report about one of its sessions. False: the report cannot be true."""
        match event:
            case Connected():
                if not self._book.connected(worker, event, now):
                    return False
            case Progress():
                believed = self._book.progress(worker, event, now)
                if self._progress is not None:
                    self._progress.look()
                return believed
            case Closed():
                session = self._book.ledger.of(worker, event.serial)
                if session is None:
                    return False
                if event.reason is CloseReason.RELAY_EXPIRED:
                    if not self._lifetime.may_seem_reached():
                        return False
                    if self._lifetime.reached():
                        self.expire()  # a worker noticed it first; that is recorded before what it ends
                self._book.closed(session, event, event.reason or self._state.ending.session_end)
                if event.error in NO_LOCAL_PORT and event.reason is CloseReason.CONNECT_FAILED:
                    self._door.on_port_missing(session.target_ip)
                    return True
            case Measured():
                return self._book.measured(worker, event)
            case Trying():
                return self._book.trying(worker, event)
            case Announced() | NotAnnounced():
                return self._door.announcements.on_report(worker, event)
        if self._door.ports.running:
            self._door.on_port_found(event.serial)
        return True

    def _fail(self, failure: Failure) -> None:
        """Record why the run cannot go on, and end it.

        A process that ended during the start may have heard a stop signal before this one did: Ctrl-C reaches
        every process of a console.
        """
        if self._loop.is_open and self._state.phase is Phase.STARTING:
            self._on_signal()
            if self._state.phase is not Phase.STARTING:
                return
        self._recorder.write(failure.message, None, **failure.fields)
        self._happened(failure.happening)

    # -- the end ---------------------------------------------------------------------------------------------

    def stop(self, signal: int | None = None) -> None:
        """Stop listening and let sessions finish. A second call ends them. A third gives up unwritten records.

        `signal` is the number of the one that asks for it.
        """
        self._happened(Happening.SIGNAL, signal)

    def expire(self) -> None:
        """End the run at the absolute timeout, unless it is ending already."""
        self._happened(Happening.EXPIRED)

    def kill(self) -> None:
        """Kill all workers, whatever state this process is in: there is no relay without a record."""
        self._crew.kill()

    def _drain(self, signal: int | None) -> None:
        """Close the door, and let sessions finish within the drain timeout."""
        self._door.close()
        if self._idle is not None:
            self._idle.stop()
        self._crew.drain()
        self._start_limit.cancel()
        self._recorder.write(
            catalogue.RELAY_DRAINING,
            signal=None if signal is None else signals.name(signal),
            active=self._book.ledger.active,
            drain_timeout=self._config.drain_timeout,
        )
        if self._sealing is not None:
            self._sealing.cover()
        self._loop.after(self._config.drain_timeout, partial(self._happened, Happening.DRAIN_TIMEOUT))

    def _expire(self) -> None:
        """Record the expiry, and end. The door is closed before the record is written."""
        self._door.close()
        late = self._lifetime.late()
        expires_at = self._recorder.show_time(self._lifetime.expires_at)
        # The wall clock is read last: see Lifetime.
        self._recorder.write(catalogue.RELAY_EXPIRED, time.time() - late, expires_at=expires_at)
        self._end()

    def _end(self) -> None:
        """Close the door, and stop all workers."""
        self._door.close()
        if self._reload is not None:
            self._reload.disappoint()
        if self._control is not None:
            self._control.shut()
        self._loop.cancel_alarms()
        self._crew.stop()
        if self._crew.empty:
            self._happened(Happening.NO_WORKER_LEFT)

    def _abandon(self, unexpected: Exception) -> None:
        """Record an exception that left this process in an unknown state; kill all workers, end all sessions."""
        self.kill()  # before anything else can fail: there is no relay without a record
        self._happened(Happening.CRASHED)
        self._door.close()
        self._recorder.unexpected(time.time(), describe(unexpected), place_of(unexpected), None)
        self._recorder.flush()
        self._crew.abandon()
        now, wall = time.monotonic(), time.time()
        for session in self._book.ledger.all_active():
            self._book.lost(session, wall, now, self._state.ending.session_end)
        self._door.announcements.lost(None, "was not judged before the relay ended")

    def _finish(self) -> int:
        """Write the remaining records; return the exit code. The door is closed and no worker is left."""
        signals.release()  # if the start failed before the loop could take them
        self._loop.cancel_alarms()
        self._book.stopped(self._state.ending.stop_reason, time.monotonic() - self._started)
        if self._sealing is not None:
            self._sealing.finish()
        self._recorder.flush()
        if self._control is not None:
            self._control.close()
        if self._service is not None:
            self._service.end()
        reading = self._reload is not None and self._reload.stop()
        resolving = self._resolver is not None and self._resolver.stop()
        metering = self._metrics is not None and self._metrics.stop()
        left = self._outlet.finish(self._begun + START_LIMIT, lambda: self._hurry)
        if not self._outlet.written:
            self._happened(Happening.STDOUT_GONE)
        code = self._state.ending.exit_code
        if left or reading or resolving or metering:
            os._exit(code)  # a normal exit would wait for the outlet, which waits for its reader, or for a disk
        spawning.end_helper()
        signals.ignore()  # everything is recorded: a late signal must not change the exit code
        return code
