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
         │ SOCK_SEQPACKET, SCM_RIGHTS           │ one multiprocessing queue     │
         │ tickets + sockets, many a message    │ per worker: batches of events │
      ═══╪══════════════════════════════════════╪═════ process boundary ════    │
      ┌──▼──────────────────────────────────────┴──────────────────┐            │
      │ worker 1..N: epoll relay loop; session = state machine;    ├──TCP───────┘
      │ pump = recv/send through a buffer, or splice through a pipe│
      └────────────────────────────────────────────────────────────┘

Down go tickets with sockets. Up go events. Nobody ever waits for a reply. End-of-file on the hand-off channel is
the stop message. Stop, supervisor crash and replacement therefore all work the same way.

The outlet is a process too. It owns stdout and stderr and nothing else, because whoever writes there may have to
wait for the reader in a way that not even SIGKILL ends (:mod:`mprelay.outlet.copying`). It is started first.
What is started after it inherits a socket to it in the place of the standard streams.

Rules:

1. What can happen to a run, and what follows, is the table of :mod:`mprelay.core.phases`.
2. A turn has an order: what is due by the clock comes first, then what happened, then the dead, and new
   connections last. So a slot that was given back is free for them.
"""

import os
import time
from contextlib import suppress
from functools import partial
from typing import Final

from mprelay import __version__
from mprelay.channel.down import BATCH
from mprelay.config.validation import Config
from mprelay.core.ledger import Ledger
from mprelay.core.phases import Action, Course, Happening, Phase
from mprelay.core.protocol import Closed, CloseReason, Connected, Progress, Settings
from mprelay.core.texts import ACL_LIMIT, NAME_LIMIT, cut, shown
from mprelay.core.unexpected import describe, place_of
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.render import Renderer
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.checks import check_clock, check_platform
from mprelay.supervisor.crew import START_LIMIT, Crew
from mprelay.supervisor.door import Door
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.reports import Report
from mprelay.supervisor.statistics import Statistics
from mprelay.supervisor.way_out import WayOut
from mprelay.system import boottime, garbage, limits, origin, signals, spawning
from mprelay.system.errnos import NO_LOCAL_PORT

_ACTIVE: Final = Phase.ACTIVE  # before 3.12, finding an enum's member takes as long as a dozen other steps
_ROUNDING: Final = 1e-6  # seconds: more than floats of Unix time lose, a quarter of a microsecond each


class Run:
    """One run of the relay: started, served, drained, ended."""

    def __init__(self, config: Config, started: float, render: Renderer) -> None:
        self._config = config
        self._started = started  # monotonic
        self._loop = loop = Loop(started)
        self._course = course = Course()
        self._deadline: boottime.Deadline | None = None
        self._expires_at: float | None = None
        if config.absolute_timeout:
            # The wall clock is read first here and last in `expire`: no expiry is stamped before `expires_at`.
            self._expires_at = loop.wall + config.absolute_timeout
            self._deadline = boottime.Deadline(boottime.now() + config.absolute_timeout + _ROUNDING)
        writer = Writer()
        self._way_out = WayOut(
            loop, course, writer, on_ready=self._on_ready, on_gone=partial(self._happened, Happening.STDOUT_GONE)
        )
        self._recorder = recorder = Recorder(render, self._way_out.put, labels=config.labels)
        self._book = book = Book(
            recorder,
            Ledger(config.max_sessions, (config.connect_timeout, config.idle_timeout)),
            (config.trg_host, config.trg_port),
            inbound_ip=config.bind,
            every_message=config.log_detail == "full",
        )
        self._crew = crew = Crew(
            config.workers,
            loop,
            course,
            recorder=recorder,
            writer=writer,
            book=book,
            on_report=self._on_report,
            on_ready=self._on_ready,
        )
        self._door = Door(config, loop, course, recorder=recorder, writer=writer, book=book, crew=crew)
        self._statistics = Statistics(
            config.stats_interval, loop, recorder=recorder, writer=writer, book=book, crew=crew
        )
        self._origin = origin.Origin(None, None, None)  # not known yet
        self._start_limit = loop.alarm(self._start_took_too_long)
        self._hurry = False  # a signal came when all was ending already

    def run(self) -> int:
        """Start, serve, end; return the exit code."""
        try:
            self._start()
            while self._course.phase is not Phase.OVER:
                self._turn()
        except Exception as unexpected:  # noqa: BLE001 - the barrier: it is recorded, and the process ends
            self._abandon(unexpected)
        return self._finish()

    def _turn(self) -> None:
        """Wait once, and do what is due and what came."""
        if self._crew.watchdog.hasty:
            self._crew.watchdog.put_off()
        try:
            self._loop.turn()
            self._crew.look_after()
            self._door.admit()
        except Failure as failure:
            self._fail(failure)
        if self._course.phase is not _ACTIVE:
            if self._course.phase is Phase.DRAINING and not self._book.ledger.active:
                self._happened(Happening.NO_SESSION_LEFT)
            if self._course.phase is Phase.ENDING and self._crew.empty:
                self._happened(Happening.NO_WORKER_LEFT)
        self._recorder.flush()  # then the writer knows how much waits
        self._door.settle()

    # -- the start -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make everything, in the order in which a failure costs least."""
        garbage.collect_rarely()
        with suppress(OSError):  # a sandbox refuses it
            os.chdir("/")  # workers inherit the working directory, and this one may be removed meanwhile
        try:
            check_clock()
            check_platform()
            self._loop.open(self._on_signal)
            self._way_out.start()
            if self._deadline is not None:
                self._loop.expire(self._deadline, self.expire)
            self._door.start()
            self._start_crew()
            self._origin = origin.find()  # while the first worker starts
        except Failure as failure:
            self._fail(failure)

    def _start_crew(self) -> None:
        config = self._config
        try:
            share = limits.reserve(config.max_sessions, config.workers, BATCH)
        except limits.LimitTooLow as low:
            raise Failure(catalogue.POOL_START_FAILED, error="EMFILE", detail=str(low)) from low
        settings = Settings(
            target_ip=config.trg_host,
            target_port=config.trg_port,
            connect_timeout=config.connect_timeout,
            idle_timeout=config.idle_timeout,
            buffer=config.buffer,
            pipes=share.pipes,
            any_address=config.bind is None,
            deadline=None if self._deadline is None else self._deadline.at,
        )
        self._start_limit.move(self._loop.now + START_LIMIT)
        self._crew.start(settings, share.sessions)

    def _start_took_too_long(self) -> None:
        who = "not every worker was ready" if self._way_out.ready else "the outlet was not ready"
        detail = f"{who} after {START_LIMIT:g} seconds"
        raise Failure(catalogue.POOL_START_FAILED, error="ETIMEDOUT", detail=detail)

    def _on_ready(self) -> None:
        """Open the door once every worker is ready, and the outlet too."""
        all_ready = len(self._crew.ready_members()) == self._config.workers and self._way_out.ready
        if self._course.phase is Phase.STARTING and all_ready:
            self._happened(Happening.ALL_READY)

    def _serve(self) -> None:
        """Let clients in from now on, and say so."""
        config = self._config
        self._start_limit.cancel()
        self._statistics.start()
        listen_ip, listen_port, *_ = self._door.listener.address
        host, opened_by, clock_synchronised = self._origin
        self._recorder.write(
            catalogue.RELAY_ACTIVE,
            listen_ip=listen_ip,
            listen_port=listen_port,
            target_ip=config.trg_host,
            target_port=config.trg_port,
            acl=cut(config.acl.written, ACL_LIMIT),
            workers=config.workers,
            max_sessions=config.max_sessions,
            log_detail=config.log_detail,
            expires_at=None if self._expires_at is None else self._recorder.show_time(self._expires_at),
            pid=os.getpid(),
            version=__version__,
            host=None if host is None else shown(host, NAME_LIMIT),
            opened_by=None if opened_by is None else shown(opened_by, NAME_LIMIT),
            clock_synchronised=clock_synchronised,
        )

    # -- what happens ----------------------------------------------------------------------------------------

    def _happened(self, happening: Happening, signal: str | None = None) -> None:
        """Take a step, and do what it asks for."""
        match self._course.take(happening):
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
            self.stop(signals.name(number))

    def _on_report(self, worker: int, event: Report, now: float) -> bool:
        """Do what a worker says about one of its sessions; False: it cannot be true."""
        match event:
            case Connected():
                if not self._book.connected(worker, event, now):
                    return False
            case Progress():
                return self._book.progress(worker, event, now)
            case Closed():
                session = self._book.ledger.of(worker, event.serial)
                if session is None:
                    return False
                if event.reason is CloseReason.RELAY_EXPIRED:
                    if self._deadline is None or not self._deadline.reached():
                        return False
                    self.expire()  # a worker has seen it first; its cause stands before its effects
                self._book.closed(session, event, event.reason or self._course.ending.session_end)
                if event.error == NO_LOCAL_PORT and event.reason is CloseReason.CONNECT_FAILED:
                    self._door.no_port()
                    return True
        if self._door.ports.running:
            self._door.got_port(event.serial)
        return True

    def _fail(self, failure: Failure) -> None:
        """Record why the run cannot go on, and end it."""
        self._recorder.write(failure.message, None, **failure.fields)
        self._happened(failure.happening)

    # -- the end ---------------------------------------------------------------------------------------------

    def stop(self, signal: str | None = None) -> None:
        """Stop listening, and let sessions finish; a second time: end them; then: leave the records behind."""
        self._happened(Happening.SIGNAL, signal)

    def expire(self) -> None:
        """End at the absolute timeout, if it is not the end already."""
        self._happened(Happening.EXPIRED)

    def kill(self) -> None:
        """End all workers at once, whatever state this process is in: no relay without a record."""
        self._crew.kill()

    def _drain(self, signal: str | None) -> None:
        """Stop listening; let sessions finish."""
        self._door.close()
        self._crew.drain()
        self._start_limit.cancel()
        self._recorder.write(
            catalogue.RELAY_DRAINING,
            signal=signal,
            active=self._book.ledger.active,
            drain_timeout=self._config.drain_timeout,
        )
        self._loop.after(self._config.drain_timeout, partial(self._happened, Happening.DRAIN_TIMEOUT))

    def _expire(self) -> None:
        """Say that the time is over, and end. The door is shut before anything is said."""
        self._door.close()
        late = 0.0 if self._deadline is None else self._deadline.late()
        self._recorder.write(catalogue.RELAY_EXPIRED, time.time() - late)  # the wall clock last: see `__init__`
        self._end()

    def _end(self) -> None:
        """Tell all workers to end."""
        self._door.close()
        self._loop.cancel_alarms()
        self._crew.stop()
        if self._crew.empty:
            self._happened(Happening.NO_WORKER_LEFT)

    def _abandon(self, unexpected: Exception) -> None:
        """Nobody knows what state this loop is in: record it, and end every process and session by force."""
        self.kill()  # before anything else that could fail: no relay without a record
        self._happened(Happening.CRASHED)
        self._door.close()
        self._recorder.unexpected(time.time(), describe(unexpected), place_of(unexpected), None)
        self._recorder.flush()
        self._crew.abandon()
        now, wall = time.monotonic(), time.time()
        for session in self._book.ledger.all_active():
            self._book.lost(session, wall, now, self._course.ending.session_end)

    def _finish(self) -> int:
        """Write the records that are left; return the exit code. The door is shut and no worker is left."""
        signals.release()  # where it failed before anything could hear them
        self._loop.cancel_alarms()
        self._book.stopped(self._course.ending.stop_reason, time.monotonic() - self._started)
        self._recorder.flush()
        left = self._way_out.finish(self._started + START_LIMIT, lambda: self._hurry)
        if not self._way_out.written:
            self._happened(Happening.STDOUT_GONE)
        code = self._course.ending.exit_code
        if left:
            os._exit(code)  # a normal exit would wait for the outlet, and that for the reader of stdout
        spawning.end_helper()
        signals.ignore()  # all is said: a late one must not change the exit code
        return code
