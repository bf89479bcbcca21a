"""The supervisor: the one loop that owns the listener, and the picture of how everything is wired.

    client ──TCP──▶ listener                                                  target
                      │ accept, in batches                                      ▲
      ┌───────────────┴────────── supervisor process ──────────────┐            │
      │  acl.decide(ip) ─▶ journal.admit() ─▶ roster.place()       │            │
      │        journal = the central JSON logger: it owns the      │            │
      │        ledger (slots, serials, totals) and writes each     │            │
      │        record, so what is counted is what is logged        │            │
      │                  │ lines                                   │            │
      │                  ▼                                         │            │
      │               writer ── socket, sends that never wait ─────┼─▶ outlet ──┼─▶ stdout
      └──┬──────────────────────────────────────▲──────────────────┘            │
         │ SOCK_SEQPACKET, SCM_RIGHTS           │ one multiprocessing queue     │
         │ tickets + sockets, many a message    │ per worker: batches of events │
      ═══╪══════════════════════════════════════╪═════ process boundary ════    │
      ┌──▼──────────────────────────────────────┴──────────────────┐            │
      │ worker 1..N: epoll relay loop; session = state machine;    ├──TCP───────┘
      │ pump = recv/send through a buffer, or splice through a pipe│
      └────────────────────────────────────────────────────────────┘

Down go tickets with sockets. Up go events. Nobody ever waits for a reply. End-of-file on the hand-off channel is
the stop message, so a stop, a supervisor's crash and a replacement are one mechanism.

The outlet is a process too. It owns stdout and stderr and nothing else, because whoever writes there may have to
wait for the reader in a way that not even SIGKILL ends (:mod:`mprelay.outlet`). It is started first: what is
started after it inherits a socket to it in the place of the standard streams.

The phases of a run::

    STARTING ──all are ready──────▶ ACTIVE ──signal, stdout gone──▶ DRAINING ──▶ ENDING ──no worker left──▶ OVER
        └───────────── failure, expiry, second signal ─────────────────────────────▲

Rules of the loop: what is due by the clock comes first, then what happened, and new connections last, so that a
slot that was given back is free for them. In no turn is anything done for each session. The loop never waits
but in ``poller.wait``. No worker is asked whether it lives: the ledger knows by when each session must have been
reported, and the loop wakes up for that only where the report has not come.

What becomes of a worker::

    start ──Ready, of our build──▶ ready ─────────────── dies ──────▶ start, at once if it lived for 5 s,
      │                              ├─ owes a report ─10 s─▶ killed            else after 1, 2, 4 … 60 s
      │                              └─ crashed, a lie ─────▶ killed
      └─ cannot be started, ends, hangs, is of another build ───────▶ start, after 0.1, 0.2 … 60 s

What a new connection costs here, with one record (about 7 000 a second, two CPUs shared with load and target,
CPython 3.11 built without optimisations; CPU times of the processes, py-spy): 38 µs of Python and 9 µs in the
kernel. Of the 38 the record takes 9 (structlog and orjson 4), hearing and unpacking the worker's two events 3,
and the rest is spread thin over accepting, placing and handing over. With all eight records it is 50 µs. Holding
the events within bounds came later, and takes 1.3 µs more (timeit). What the worker adds stands in
:mod:`mprelay.worker.relay`.
"""

import errno
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from math import inf
from typing import Final

from mprelay import __version__, outlet
from mprelay.channel import down
from mprelay.channel.build import BUILD
from mprelay.config.parameters import Config
from mprelay.core.exits import Exit
from mprelay.core.ledger import Session
from mprelay.core.protocol import (
    Closed,
    CloseReason,
    Connected,
    Crashed,
    Event,
    Progress,
    Ready,
    Settings,
    Ticket,
)
from mprelay.core.roster import LATE_LIMIT, PROGRESS_AFTER, SLACK, NoRoom
from mprelay.core.texts import ACL_LIMIT, NAME_LIMIT, cut, shown
from mprelay.core.unexpected import describe, place_of
from mprelay.records import catalogue
from mprelay.records.catalogue import Message
from mprelay.records.journal import Journal
from mprelay.records.writer import HIGH, Writer
from mprelay.supervisor.pool import Member, Pool
from mprelay.system import (
    addresses,
    boottime,
    garbage,
    limits,
    origin,
    poller,
    signals,
    sockets,
    spawning,
)
from mprelay.system.errnos import errno_name
from mprelay.system.streams import complain

_COARSEST: Final = 0.001  # seconds: what a monotonic clock must tell apart for timeouts of whole seconds
_ACCEPT_PAUSE: Final = (
    0.1  # seconds without accepting after accept(2) failed: neither a busy loop nor a dead listener
)
_ACCEPT_SAID: Final = 1.0  # seconds between two records of errors of accept(2)
_LISTENER_GONE: Final = {errno.EINVAL, errno.EBADF, errno.ENOTSOCK}
"""Errors of accept(2) that never pass: the listener listens no longer (``ss -K``), or is no socket."""
_SLOT_PATIENCE: Final = 0.005
"""Seconds that a connection waits for a slot before it is refused. The end of the session before it reaches its
worker at the moment at which the connection reaches this process, and the worker has yet to report that."""
_NO_PORTS_PAUSE: Final = 1.0  # seconds without accepting after a worker found no local port towards the target
_REFUSALS_ROOM: Final = HIGH // 2
"""Bytes of records that wait, above which refused connections are summed up. The rest of the room is left to the
others: refused connections alone never fill it up to the mark at which admission pauses."""
_NO_PORT: Final = errno_name(errno.EADDRNOTAVAIL)
_SUM_EVERY: Final = 10.0  # seconds until connections that were summed up are recorded
_SUMS: Final = 256  # records of sums at once; they take a quarter of the room for refusals
_SUM_ON: Final = 1.0  # seconds until the rest of them is tried
_HEARD: Final = 1536  # events of one worker in one turn: 64 full frames, more than a pipe of 64 KiB holds
_PIPEFUL: Final = 8192  # events, of the shortest and one a frame: more than any pipe of 64 KiB holds
_STATS_WORKERS: Final = 16  # in one relay.stats record, which must stay below 4096 bytes
_START_LIMIT: Final = 10.0  # seconds until every worker must be ready
_ROUNDING: Final = 1e-6  # seconds: more than floats of Unix time lose, a quarter of a microsecond each
_GRACE: Final = 0.4  # seconds in which workers end by themselves; the whole expiry takes less than one
_LAST_WORDS: Final = 1.0  # seconds for the records that are left, once a signal says not to wait for their reader
_TRIES: Final = 6  # starts of one worker in a row that may fail while there is no other
_BACK_OFF: Final = 0.1  # seconds before the second try, doubled for each further one
_SHORT_LIFE: Final = 5.0  # seconds: a worker that dies sooner after it was ready may die again and again
_CRASH_PAUSE: Final = 1.0  # seconds before it is replaced, doubled for each further crash in a row
_CONGESTED_PAUSE: Final = 1.0  # seconds until a start is thought of again while the log is congested
_LONGEST_PAUSE: Final = 60.0  # seconds before any further try, at most
_STOOD_STILL: Final = 1.0  # seconds that this loop was late: it was stopped, or the whole machine was
_HEARING: Final = PROGRESS_AFTER + SLACK  # seconds until workers that had no room in their queues have reported


class Phase(Enum):
    """Where the run stands."""

    STARTING = auto()
    ACTIVE = auto()
    DRAINING = auto()
    ENDING = auto()
    OVER = auto()


# Before 3.12 to look a member up in its class takes as long as a dozen other steps (0.1 µs).
_ACTIVE: Final = Phase.ACTIVE
_DRAINING: Final = Phase.DRAINING


class Failure(Exception):  # noqa: N818 - what ends the run
    """The relay cannot start, or go on: the record that says so, and the exit code."""

    def __init__(self, message: Message, code: int, **fields: str | float | None) -> None:
        super().__init__(message.event, fields)
        self.message = message
        self.code = code
        self.fields = fields


class Supervisor:
    """One run of the relay."""

    def __init__(self, config: Config, started: float, *, as_text: bool) -> None:
        self._config = config
        self._started = started  # monotonic
        self._now = started
        self._wall = time.time()
        self._phase = Phase.STARTING
        self._code: int = Exit.OK
        self._stop_reason = "failed"
        self._session_end = CloseReason.WORKER_LOST  # why the sessions end that a worker is told to end
        self._deadline: boottime.Deadline | None = None
        self._expires_at: float | None = None
        if config.absolute_timeout:
            # The wall clock is read first here and last in `_expire`: no expiry is stamped before `expires_at`.
            self._expires_at = self._wall + config.absolute_timeout
            self._deadline = boottime.Deadline(boottime.now() + config.absolute_timeout + _ROUNDING)
        self._writer = Writer()
        self._journal = Journal(
            self._writer,
            limit=config.max_sessions,
            timeouts=(config.connect_timeout, config.idle_timeout),
            target=(config.trg_host, config.trg_port),
            inbound_ip=config.bind,
            as_text=as_text,
            every_session=config.log_detail == "full",
            labels=config.labels,
        )
        self._ledger = self._journal.ledger
        self._poller: poller.Poller  # this and the next one: see _make_loop
        self._signals: signals.Signals
        self._can_wait = False
        self._watched: dict[int, Callable[[], None]] = {}
        self._alarms: dict[str, tuple[float, Callable[[], None]]] = {}
        self._awaits_room = False  # on the way to the outlet
        self._listener: socket.socket | None = None
        self._listened_again = False  # the listener took the place of one that did not work, and has given nobody
        self._accepting = False
        self._accept_paused = False
        self._accept_errors: Counter[int] = Counter()  # since the last records of them
        self._awaits_slot = False  # who is in the backlog now is given a moment, because a slot may become free
        self._patience_over = False  # that moment is over; `_queued` connections may be refused
        self._queued = 0  # connections that were in the backlog when the moment began, and still are
        self._probing = False  # sessions are admitted one by one, until one finds a local port
        self._probe: int | None = None  # the first of these since the last one that found none
        self._admission_paused = False
        self._resumed_at = started
        self._examining = False  # whoever came before `_resumed_at` may have given up
        self._log_paused_at: float | None = None  # since when the log holds back admission
        self._hurry = False  # a signal came when all was ending already
        self._capacity = 0
        self._failed_starts: dict[int, int] = {}  # worker: how many in a row
        self._crashes: dict[int, int] = {}  # worker: how many in a row
        self._judge_from = started
        """Before this moment no worker is judged: what it has reported may not have come yet. Infinity: never."""
        self._judge_at = inf
        """Not later than the moment at which a report is overdue: reports only ever put that off."""
        self._judge_early = False  # whether that stands for sessions which were to be reported first
        self._dead: list[Member] = []
        self._pool = Pool()

    def run(self) -> int:
        """Start, serve, end; return the exit code."""
        try:
            try:
                self._live()
            except Exception as unexpected:  # noqa: BLE001 - the barrier: it is recorded, and the process ends
                self._abandon(unexpected)
            signals.release()  # where it failed before anything could hear them
            self._journal.stopped(self._stop_reason, time.monotonic() - self._started)
            left = self._write_rest()
        except Exception as unexpected:  # noqa: BLE001 - not even that could be recorded
            self._pool.kill()
            try:
                complain(f"{describe(unexpected)} at {place_of(unexpected)}")
            finally:
                os._exit(Exit.SOFTWARE)  # a normal exit would wait for the workers, and they for us
        if left:
            os._exit(self._code)  # a normal exit would wait for the outlet, and that for the reader of stdout
        spawning.end_helper()
        signals.ignore()  # all is said: a late one must not change the exit code
        return self._code

    def _live(self) -> None:
        try:
            self._start()
        except Failure as failure:
            self._fail(failure)
        while self._phase is not Phase.OVER:
            self._turn()

    # -- the start -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make everything, in the order in which a failure costs least. Raises Failure."""
        garbage.collect_rarely()
        with suppress(OSError):  # a sandbox refuses it
            os.chdir("/")  # workers inherit the working directory, and this one may be removed meanwhile
        _check_clock()
        _check_platform()
        self._make_loop()
        self._start_outlet()
        if self._deadline is not None:
            self._alarms["expiry"] = (self._deadline.monotonic, self._expire)
        self._listen()
        try:
            share = limits.reserve(self._config.max_sessions, self._config.workers, down.BATCH)
        except limits.LimitTooLow as low:
            raise Failure(catalogue.POOL_START_FAILED, Exit.SOFTWARE, error="EMFILE", detail=str(low)) from low
        self._capacity = share.sessions
        self._settings = Settings(
            target_ip=self._config.trg_host,
            target_port=self._config.trg_port,
            connect_timeout=self._config.connect_timeout,
            idle_timeout=self._config.idle_timeout,
            buffer=self._config.buffer,
            pipes=share.pipes,
            any_address=self._config.bind is None,
            deadline=None if self._deadline is None else self._deadline.at,
        )
        self._alarms["start"] = (self._now + _START_LIMIT, self._start_took_too_long)
        self._start_next(1)
        self._origin = origin.find()  # while the first worker starts

    def _listen(self) -> None:
        """Make the listener."""
        try:
            self._listener = sockets.listen(self._config.bind, self._config.fwd_port)
        except sockets.ListenerError as failure:
            raise Failure(
                _LISTENER_STEPS[failure.step], Exit.UNAVAILABLE, error=errno_name(failure.errno)
            ) from failure
        try:
            self._listen_address = self._listener.getsockname()
        except OSError as failure:
            raise _init_failed(failure, "getsockname") from failure

    def _start_next(self, number: int) -> None:
        """Start the first workers, one a turn: signals and the expiry are heard in between."""
        try:
            self._start_worker(number)
        except OSError as failure:
            raise Failure(
                catalogue.POOL_START_FAILED,
                Exit.SOFTWARE,
                error=errno_name(failure.errno),
                detail=f"worker {number} could not be started: {failure.strerror}",
            ) from failure
        if number < self._config.workers:
            self._alarms["start next"] = (self._now, partial(self._start_next, number + 1))

    def _make_loop(self) -> None:
        """Make what the loop waits with and for."""
        try:
            step = "epoll"
            self._poller = poller.Poller()
            step = "signals"
            # PID 1 becomes the parent of every orphan in its namespace. They stay until it has waited for them.
            self._signals = signals.Signals(spawning.reap if os.getpid() == 1 else None)
            step = "epoll"
            self._watch(self._signals.fileno(), self._on_signal)
            if self._deadline is not None and self._deadline.fileno() >= 0:
                self._poller.add(self._deadline.fileno(), poller.READ | poller.EDGE)  # to wake, nothing else
            self._poller.wait(0)
            if os.getpid() == 1:
                spawning.reap()  # what had ended before SIGCHLD was heard
        except OSError as failure:
            raise _init_failed(failure, step) from failure
        self._can_wait = True

    def _start_outlet(self) -> None:
        """Give stdout and stderr away. The first start of all, because other processes would inherit them."""
        try:
            self._writer.start(outlet.main)
            self._watch(self._writer.fileno(), self._on_outlet)
        except OSError as failure:
            self._writer.absent = True
            raise Failure(
                catalogue.POOL_START_FAILED,
                Exit.SOFTWARE,
                error=errno_name(failure.errno),
                detail=f"the outlet could not be started: {failure.strerror}",
            ) from failure

    def _start_worker(self, number: int) -> None:
        """Start worker `number`. Raises OSError."""
        member = self._pool.start(number, self._settings, self._now)
        try:
            self._watch(member.reader.fileno(), partial(self._hear, member))
            self._watch(member.sentinel, partial(self._on_death, member))
        except OSError:
            self._unwatch(member.reader.fileno())
            member.join()
            member.close()
            self._pool.forget(member)
            raise
        limit = self._now + _START_LIMIT + LATE_LIMIT
        self._alarms[f"worker {number}"] = (limit, partial(self._never_ready, member))

    def _start_took_too_long(self) -> None:
        raise Failure(
            catalogue.POOL_START_FAILED,
            Exit.SOFTWARE,
            error="ETIMEDOUT",
            detail=f"not every worker was ready after {_START_LIMIT:g} seconds"
            if self._writer.ready
            else f"the outlet was not ready after {_START_LIMIT:g} seconds",
        )

    def _activate(self) -> None:
        """Every worker is ready: open the door, as soon as the outlet is ready too."""
        if not self._writer.ready:
            return
        self._phase = Phase.ACTIVE
        del self._alarms["start"]
        if self._config.stats_interval:
            self._alarms["stats"] = (self._now + self._config.stats_interval, self._write_stats)
        host, opened_by, clock_synchronised = self._origin
        self._journal.write(
            catalogue.RELAY_ACTIVE,
            listen_ip=self._listen_address[0],
            listen_port=self._listen_address[1],
            target_ip=self._config.trg_host,
            target_port=self._config.trg_port,
            acl=cut(self._config.acl.written, ACL_LIMIT),
            workers=self._config.workers,
            max_sessions=self._config.max_sessions,
            log_detail=self._config.log_detail,
            expires_at=None if self._expires_at is None else self._journal.show_time(self._expires_at),
            pid=os.getpid(),
            version=__version__,
            host=None if host is None else shown(host, NAME_LIMIT),
            opened_by=None if opened_by is None else shown(opened_by, NAME_LIMIT),
            clock_synchronised=clock_synchronised,
        )

    # -- the loop --------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait once, and do what is due and what came."""
        if self._judge_early and self._ledger.workers.all_reported:
            self._judge_early = False  # so that nothing wakes an idle relay
            self._judge_at = self._ledger.workers.due()
        nearest = min([at for at, _ in self._alarms.values()], default=inf)
        nearest = min(nearest, self._judge_at)
        before = time.monotonic()
        ready = self._poller.wait(None if nearest == inf else nearest - before)
        now = time.monotonic()
        late_since = now - _STOOD_STILL
        if self._now < before - _STOOD_STILL or (nearest < late_since and before < late_since):
            self._judge_from = max(self._judge_from, now + _HEARING)
        self._now = now
        self._wall = time.time()
        try:
            if self._deadline is not None and self._deadline.reached():
                self._expire()
            for name, (at, ring) in list(self._alarms.items()):
                if at <= self._now and name in self._alarms:
                    del self._alarms[name]
                    ring()
            connections_wait = False
            for descriptor, _mask in ready:
                if (happened := self._watched.get(descriptor)) is not None:
                    happened()
                elif self._listener is not None and descriptor == self._listener.fileno():
                    connections_wait = True
            while self._dead:
                self._bury(self._dead.pop(0))
            if self._now >= self._judge_at:
                self._judge()
            if connections_wait and self._listener is not None and self._may_accept():
                self._accept(self._listener)
        except Failure as failure:
            self._fail(failure)
        if self._phase is _DRAINING and not self._ledger.active:
            self._end("drained", CloseReason.DRAINED)
        self._journal.flush()  # then the writer knows how much waits
        self._open_or_shut()
        if self._awaits_room or self._writer.backlog:
            self._await_room()

    def _watch(self, descriptor: int, happened: Callable[[], None]) -> None:
        self._poller.add(descriptor, poller.READ)
        self._watched[descriptor] = happened

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None):
            self._poller.remove(descriptor)

    def _await_room(self) -> None:
        """Watch the way to the outlet for room exactly while records wait for it."""
        if self._awaits_room != (waits := self._writer.waits):
            self._awaits_room = waits
            self._poller.change(self._writer.fileno(), poller.READ | poller.WRITE if waits else poller.READ)

    def _on_outlet(self) -> None:
        """The outlet has said something, or has ended, or there is room on the way to it."""
        self._writer.attend()
        if self._writer.absent or self._writer.gone:
            self._awaits_room = False
            self._unwatch(self._writer.fileno())
        if self._writer.gone:
            self._on_stdout_gone()
        elif self._phase is Phase.STARTING:
            if self._writer.absent:
                detail = f"the outlet {_ended(*self._writer.ended())}"
                raise Failure(catalogue.POOL_START_FAILED, Exit.SOFTWARE, error=None, detail=detail)
            if sum(member.ready for member in self._pool.members.values()) == self._config.workers:
                self._activate()

    def _on_stdout_gone(self) -> None:
        if self._code != Exit.IOERR:
            self._code = Exit.IOERR
            self._drain(None)

    def _write_stats(self) -> None:
        self._alarms["stats"] = (self._now + self._config.stats_interval, self._write_stats)
        if self._writer.congested:
            return  # a collector that stalls for days must not fill the memory with figures
        usage = self._pool.usage()
        for figures in usage:
            figures["sessions"] = self._ledger.workers.load(figures["worker"])
        for first in range(0, max(1, len(usage)), _STATS_WORKERS):  # one also while no worker is ready
            self._journal.write(
                catalogue.RELAY_STATS,
                active=self._ledger.active,
                max_sessions=self._ledger.limit,
                **self._journal.totals(),
                supervisor=self._pool.own_usage(),
                worker_stats=usage[first : first + _STATS_WORKERS],
            )

    # -- new connections -------------------------------------------------------------------------------------

    def _may_accept(self) -> bool:
        """True if a new connection could be admitted or refused, and recorded, right now.

        Otherwise it waits in the kernel's backlog: while admission is paused, and for a moment at the limit.
        """
        return self._phase is _ACTIVE and not self._must_pause() and not self._left_waiting()

    def _left_waiting(self) -> bool:
        """True while there is no slot, but one may become free in a moment."""
        return self._awaits_slot and self._ledger.active >= self._ledger.limit

    def _must_pause(self) -> bool:
        """True while nobody can be admitted or refused.

        The log is congested, accept(2) fails, there is no local port towards the target, or no worker has room
        although there are slots (workers died, and others are just starting).
        """
        return (
            self._writer.congested  # first, because `_open_or_shut` asks what it was
            or self._accept_paused
            or not (self._ledger.workers.has_room() or self._ledger.active >= self._ledger.limit)
        )

    def _open_or_shut(self) -> None:
        """Watch the listener exactly while connections may be accepted; note where a pause begins and ends."""
        if self._listener is None or self._phase is not _ACTIVE:
            return
        if self._admission_paused != (paused := self._must_pause()):
            self._admission_paused = paused
            if not paused:
                self._examining = True
                self._resumed_at = self._now
        if self._writer.paused != (self._log_paused_at is not None):
            self._record_pause(self._listener)
        if self._accepting != (may := not (paused or self._left_waiting())):
            self._accepting = may
            if may:
                self._poller.add(self._listener.fileno(), poller.READ)
            else:
                self._poller.remove(self._listener.fileno())

    def _record_pause(self, listener: socket.socket) -> None:
        """Record that the log holds back admission, or no longer does."""
        if self._log_paused_at is None:
            self._log_paused_at = self._now
            self._journal.write(catalogue.ADMISSION_PAUSED)
        else:
            self._journal.write(
                catalogue.ADMISSION_RESUMED,
                paused_s=round(self._now - self._log_paused_at, 3),
                waiting=sockets.backlog(listener),
            )
            self._log_paused_at = None
        self._journal.flush()

    def _accept(self, listener: socket.socket) -> None:
        """Take a batch of connections: filter, admit, and hand over together what goes to one worker."""
        ledger = self._ledger
        if ledger.active >= ledger.limit:
            for member in self._pool.members.values():
                self._hear(member)  # what was reported since this turn's wait began may have made room
            if not self._may_accept():
                return  # … or ended the relay, or a worker that had room
            if ledger.active >= ledger.limit and not self._patience_over:
                self._await_slot(listener)
                return
        journal, at = self._journal, self._wall
        journal.summing_up = self._writer.backlog > _REFUSALS_ROOM
        batches: dict[int, list[tuple[Session, int]]] = {}
        failed: OSError | None = None
        slots = ledger.limit - ledger.active
        for _ in range(down.BATCH):
            if not slots and not (self._patience_over and self._queued):
                break
            try:
                client, address = sockets.accept(listener)
            except BlockingIOError:
                self._queued = 0
                self._examining = False
                break
            except OSError as failure:
                failed = failure
                break
            self._listened_again = False
            if self._queued:
                self._queued -= 1
            ip, port = sockets.plain_ip(address[0]), address[1]
            decision = self._config.acl.decide(ip)
            if not decision.allowed:
                journal.reject(ip, port, at, decision.entry)
                os.close(client)
                continue
            if self._examining and (waited_ms := self._given_up(client)) is not None:
                journal.abandon(ip, port, at, waited_ms)
                os.close(client)
                continue
            session = journal.admit(ip, port, at, self._now)
            if session is None:
                os.close(client)
                continue
            slots -= 1
            batches.setdefault(ledger.workers.place(session, self._now), []).append((session, client))
            if self._probing:
                if self._probe is None:
                    self._probe = session.serial
                self._pause_accepting(_NO_PORTS_PAUSE)
                break
            if slots and not ledger.workers.has_room():
                break
        self._patience_over = self._patience_over and self._queued > 0
        if journal.summing_up and journal.refusals and "refusals" not in self._alarms:
            self._alarms["refusals"] = (self._now + _SUM_EVERY, self._write_refusals)
        if self._judge_at > (due := self._now + ledger.workers.first_report):
            self._judge_at = due
            self._judge_early = True
        for worker, batch in batches.items():
            self._hand_over(worker, batch, frozenset((worker,)))
        if failed is not None:
            self._accept_failed(failed)

    def _await_slot(self, listener: socket.socket) -> None:
        """Leave who waits in the backlog for a moment, in which a slot may become free."""
        self._awaits_slot = True
        self._queued = sockets.backlog(listener) or down.BATCH
        self._alarms["slot"] = (self._now + _SLOT_PATIENCE, self._await_slot_no_longer)

    def _await_slot_no_longer(self) -> None:
        self._awaits_slot = False
        self._patience_over = self._queued > 0

    def _given_up(self, client: int) -> int | None:
        """Return how long a connection waited (ms) that came during a pause and must not be admitted; else None.

        The client has reset it, or is taken to have given up because it waited longer than the connect timeout.
        An end of data is no sign of that: ``nc -N`` has sent one before the connection is accepted.
        """
        arrival = sockets.arrival(client)
        if arrival is None:
            return None
        if arrival.waited_ms < (self._now - self._resumed_at) * 1000:
            self._examining = False  # it came after the pause, and all behind it too
            return None
        late = arrival.waited_ms > self._config.connect_timeout * 1000
        return arrival.waited_ms if arrival.reset or late else None

    def _write_refusals(self) -> None:
        """Record what was summed up, as far as the records find room."""
        if self._writer.backlog <= _REFUSALS_ROOM:
            self._journal.write_refusals(_SUMS)
        if self._journal.refusals:
            self._alarms["refusals"] = (self._now + _SUM_ON, self._write_refusals)

    def _hand_over(self, worker: int, batch: list[tuple[Session, int]], tried: frozenset[int]) -> None:
        """Give `batch` to `worker`; what it cannot take, to the least loaded of those not `tried`."""
        tickets = [Ticket(session.serial, session.admitted_at) for session, _ in batch]
        try:
            self._pool.members[worker].send(tickets, [client for _, client in batch])
        except OSError as failure:
            for session, client in batch:
                try:
                    other = self._ledger.workers.place(session, self._now, tried)
                except NoRoom:
                    os.close(client)
                    error = errno_name(failure.errno)
                    self._journal.lost(session, self._wall, self._now, CloseReason.HANDOFF_FAILED, error)
                else:
                    self._hand_over(other, [(session, client)], tried | {other})
            return
        for session, client in batch:
            os.close(client)  # the message owns it now
            self._journal.allocated(session, self._wall)

    def _accept_failed(self, failure: OSError) -> None:
        """No descriptor or no memory, most likely: record it, and leave the others waiting for a while."""
        number = failure.errno or 0
        self._accept_errors[number] += 1
        if "accept failed" not in self._alarms:
            self._say_accept_failed()
        if number in _LISTENER_GONE:
            self._listen_again(number)
        else:
            self._pause_accepting(_ACCEPT_PAUSE)

    def _say_accept_failed(self) -> None:
        """Record the errors of accept(2) since the last such record; not again within a second."""
        if self._accept_errors:
            for number, count in self._accept_errors.items():
                self._journal.accept_failed(number, errno_name(number), count)
            self._accept_errors.clear()
            self._alarms["accept failed"] = (self._now + _ACCEPT_SAID, self._say_accept_failed)

    def _listen_again(self, number: int) -> None:
        """Make another listener in the place of one that has given this error.

        One that was destroyed is always replaced. One that listens, but from which nobody can be accepted, is
        replaced once.
        """
        useless = self._listener is not None and sockets.listens(self._listener)
        self._shut()
        if useless and self._listened_again:
            raise Failure(catalogue.LISTENER_LISTEN_FAILED, Exit.UNAVAILABLE, error=errno_name(number))
        self._listened_again = useless
        self._awaits_slot = self._patience_over = False
        self._queued = 0
        self._listen()

    def _pause_accepting(self, seconds: float) -> None:
        self._accept_paused = True
        self._alarms["accept"] = (self._now + seconds, self._accept_again)

    def _accept_again(self) -> None:
        self._accept_paused = False
        if self._probe is not None:
            self._ports_again()  # connect(2) tells at once where there is none, so this one has got one

    def _no_ports(self) -> None:
        """A worker found no local port towards the target: admit one session a second until one is found.

        The ports wait in TIME_WAIT for a minute each. To search for one takes the kernel milliseconds. connect(2)
        gives the same error where there is no address to send from; then there is nothing to wait for.
        """
        if not addresses.has_route(self._config.trg_host):
            return
        self._probing = True
        self._probe = None
        self._pause_accepting(_NO_PORTS_PAUSE)

    def _ports_again(self) -> None:
        self._probing = False
        self._probe = None
        self._alarms.pop("accept", None)
        self._accept_again()

    # -- workers ---------------------------------------------------------------------------------------------

    def _hear(self, member: Member, most: int = _HEARD) -> None:
        """Hear all that a worker has reported, so that no slot is thought taken that was given back.

        At most about so many events: one that reports faster than we hear must not hold up the others.
        """
        while most > 0:
            events = member.reader.take()
            if events:
                most -= len(events)
                self._apply(member, events)
            if events is None or member.reader.garbled:
                self._unwatch(member.reader.fileno())  # the process is about to be gone
                return
            if not member.reader.more:
                return

    def _apply(self, member: Member, events: list[Event]) -> None:
        """Do what a worker's events mean: they are about its own sessions, or it is no longer believed."""
        ledger = self._ledger
        has, first_heard, heard = ledger.has, ledger.first_heard, ledger.heard
        now = time.monotonic()  # later than each of these reports, however long this turn takes
        for event in events:
            match event:
                case Connected() if first_heard(member.number, event.serial, now):
                    self._journal.connected(event)
                    if self._probe is not None and event.serial >= self._probe:
                        self._ports_again()
                case Closed() if has(member.number, event.serial) and self._may_end_for(event.reason):
                    if event.reason is CloseReason.RELAY_EXPIRED:
                        self._expire()  # a worker has seen it first; its cause stands before its effects
                    self._journal.closed(event, event.reason or self._session_end)
                    if event.error == _NO_PORT and event.reason is CloseReason.CONNECT_FAILED:
                        self._no_ports()
                    elif self._probe is not None and event.serial >= self._probe:
                        self._ports_again()
                case Progress() if heard(member.number, event.serial, now):
                    self._journal.progress(event)
                case Ready() if not member.ready:
                    self._on_ready(member, event)
                    if not member.ready:
                        return
                case Crashed():
                    self._on_crash(member, event)
                    return
                case _:
                    self._on_crash(member, member.reader.distrust(f"report that cannot be true: {event}"))
                    return

    def _may_end_for(self, reason: CloseReason | None) -> bool:
        """Tell whether it is late enough for this reason."""
        if reason is not CloseReason.RELAY_EXPIRED:
            return True
        return self._deadline is not None and self._deadline.reached()

    def _on_ready(self, member: Member, event: Ready) -> None:
        """Give a worker sessions from now on, if it runs the same program as we do."""
        if event.build != BUILD:
            member.reader.stop()
            member.trouble = f"is of another build: {event.build}, this relay is {BUILD}"
            member.kill()
            return
        member.ready_at = self._now
        member.words.end()
        self._failed_starts[member.number] = 0
        self._alarms.pop(f"worker {member.number}", None)
        replaces = self._phase is not Phase.STARTING
        self._ledger.workers.open(member.number, self._capacity, self._now if replaces else None)
        self._journal.write(catalogue.WORKER_STARTED, event.at, worker=member.number, pid=member.pid)
        ready = sum(other.ready for other in self._pool.members.values())
        if self._phase is Phase.STARTING and ready == self._config.workers:
            self._activate()

    def _on_crash(self, member: Member, event: Crashed) -> None:
        """Believe that a worker crashed, or that it lies. Either is its last report: nothing is read after it.

        A worker that crashed ends by itself, so that its exit code tells it; one that does not is killed.
        """
        self._ledger.workers.close(member.number)
        if not member.reader.garbled:
            member.reader.stop()
            member.trouble = f"crashed before it was ready: {event.error}"
            self._alarms[f"grace {member.number}"] = (self._now + _GRACE, member.kill)
        else:
            member.kill()
            if not member.ready:
                member.trouble = f"is perhaps of another build, its first report was none: {event.error}"
                return
        self._journal.unexpected(event.at, event.error, event.place, member.number)

    def _judge(self) -> None:
        """Find the workers that do not answer for their sessions: a report was due, and may have come."""
        if self._now < self._judge_from:
            self._judge_at = self._judge_from
            return
        for member in self._pool.members.values():
            self._hear(member, _PIPEFUL)
        if self._phase is Phase.ENDING:
            return
        for silent in self._ledger.workers.judge(self._now):
            self._unresponsive(self._pool.members[silent.worker], silent.since)
        self._judge_at = self._ledger.workers.due()

    def _never_ready(self, member: Member) -> None:
        """End a replacement that hangs before it is ready; if this loop stood still it is given more time."""
        self._hear(member)
        if self._now < self._judge_from:
            self._alarms[f"worker {member.number}"] = (self._now + LATE_LIMIT, partial(self._never_ready, member))
        elif not member.ready:
            member.trouble = f"was not ready after {_START_LIMIT:g} seconds"
            self._unresponsive(member, member.started_at)

    def _unresponsive(self, member: Member, since: float) -> None:
        """Record that a worker does not answer, and kill it; its burial does the rest."""
        self._ledger.workers.close(member.number)
        silent_s = round(self._now - since, 3)
        self._journal.write(
            catalogue.WORKER_UNRESPONSIVE, worker=member.number, pid=member.pid, silent_s=silent_s
        )
        member.kill()

    def _on_death(self, member: Member) -> None:
        """Note that a worker's process is gone.

        Its burial waits for the end of this turn's events: it sets descriptors free, and what follows it gets
        the same numbers, for which events of this turn may still be listed.
        """
        self._unwatch(member.sentinel)
        self._dead.append(member)

    def _bury(self, member: Member) -> None:
        """Hear a dead worker's last events, end its sessions for it, and replace it."""
        member.join()
        self._pool.forget(member)
        self._hear(member, _PIPEFUL)  # not without end: whoever still holds the queue open is no worker
        self._unwatch(member.reader.fileno())
        code = member.close()
        for name in ("worker", "grace"):
            self._alarms.pop(f"{name} {member.number}", None)
        self._ledger.workers.close(member.number)
        asked_for = self._phase is Phase.ENDING
        lost = self._ledger.of_worker(member.number)
        followed = asked_for and not lost
        self._journal.write(
            catalogue.WORKER_EXITED if followed else catalogue.WORKER_DIED,
            worker=member.number,
            pid=member.pid,
            exitcode=code if code >= 0 else None,
            signal=signals.name(-code) if code < 0 else None,
        )
        for session in lost:
            reason = self._session_end if asked_for else CloseReason.WORKER_LOST
            self._journal.lost(session, self._wall, self._now, reason)
        if self._phase in (Phase.STARTING, Phase.ACTIVE):
            self._replace(member, code)
        elif asked_for and not self._pool.members:
            self._phase = Phase.OVER

    def _replace(self, member: Member, code: int) -> None:
        """Start another worker in the place of a dead one, the later, the more often it crashed."""
        number = member.number
        if member.ready_at is None:
            self._start_failed(number, None, member.trouble or _ended(code, member.words.last))
            return
        crashes = self._crashes.get(number, 0) + 1 if self._now - member.ready_at < _SHORT_LIFE else 0
        self._crashes[number] = crashes
        self._start_later(number, _growing(_CRASH_PAUSE, crashes) if crashes else 0.0)
        if not self._any_ready():
            for other, failed in self._failed_starts.items():
                if failed and other not in self._pool.members:
                    self._start_later(other, 0.0)  # nobody is left: what could not be started is needed now

    def _any_ready(self) -> bool:
        return any(member.ready for member in self._pool.members.values())

    def _none_can_start(self) -> bool:
        """Tell whether no worker is ready, and each has been tried in vain often enough."""
        numbers = range(1, self._config.workers + 1)
        return not self._any_ready() and all(self._failed_starts.get(number, 0) >= _TRIES for number in numbers)

    def _start_later(self, number: int, pause: float) -> None:
        self._alarms[f"worker {number}"] = (self._now + pause, partial(self._start_again, number))

    def _start_again(self, number: int) -> None:
        """Start a replacement; what goes wrong may pass, and the other workers go on meanwhile."""
        if self._phase is Phase.ACTIVE and self._writer.congested:
            # Nobody is admitted now, so it is not needed; and each try that fails makes records.
            self._start_later(number, _CONGESTED_PAUSE)
            return
        try:
            self._start_worker(number)
        except OSError as failure:
            error = errno_name(failure.errno)
            self._start_failed(number, error, f"could not be started: {failure.strerror}")

    def _start_failed(self, number: int, error: str | None, how: str) -> None:
        """Try again, the later, the more often it did not help; without any other worker not for ever."""
        tries = self._failed_starts[number] = self._failed_starts.get(number, 0) + 1
        if tries >= _TRIES and (self._phase is Phase.STARTING or self._none_can_start()):
            detail = shown(f"worker {number} {how}, {tries} times in a row")
            raise Failure(catalogue.POOL_START_FAILED, Exit.SOFTWARE, error=error, detail=detail)
        pause = _growing(_BACK_OFF, tries)
        self._start_later(number, pause)
        if self._phase is Phase.ACTIVE:
            self._journal.write(
                catalogue.WORKER_START_FAILED,
                worker=number,
                error=error,
                detail=shown(how),
                tries=tries,
                again_in_s=pause,
            )

    # -- the end ---------------------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        for number in self._signals.take():
            if self._phase in (Phase.STARTING, Phase.ACTIVE):
                self._drain(signals.name(number))
            elif self._phase is Phase.DRAINING:
                self._end("signal", CloseReason.DRAINED)
            else:
                self._hurry = True

    def _drain(self, signal: str | None) -> None:
        """Stop listening; let sessions finish."""
        if self._phase not in (Phase.STARTING, Phase.ACTIVE):
            return
        self._phase = Phase.DRAINING
        self._shut()
        for name in list(self._alarms):
            if name.startswith(("start", "worker")):
                del self._alarms[name]  # what is left to do can be done without another worker
        self._journal.write(
            catalogue.RELAY_DRAINING,
            signal=signal,
            active=self._ledger.active,
            drain_timeout=self._config.drain_timeout,
        )
        self._alarms["drain"] = (
            self._now + self._config.drain_timeout,
            partial(self._end, "signal", CloseReason.DRAINED),
        )

    def _expire(self) -> None:
        """End at the absolute timeout, if it is not the end already. The door is shut before anything is said."""
        if self._deadline is None or self._phase in (Phase.ENDING, Phase.OVER):
            return
        self._shut()
        late = self._deadline.late()
        self._journal.write(catalogue.RELAY_EXPIRED, time.time() - late)  # the wall clock last: see `__init__`
        self._end("expired", CloseReason.RELAY_EXPIRED)

    def _fail(self, failure: Failure) -> None:
        """Record why the run cannot go on, and end it."""
        self._code = failure.code
        self._journal.write(failure.message, None, **failure.fields)
        self._end("failed", CloseReason.WORKER_LOST)

    def _end(self, stop_reason: str, session_end: CloseReason) -> None:
        """Tell all workers to end, for this reason; kill those who do not within the grace."""
        if self._phase in (Phase.ENDING, Phase.OVER):
            return
        self._phase = Phase.ENDING
        self._stop_reason = stop_reason
        self._session_end = session_end
        self._judge_from = inf
        self._shut()
        self._pool.stop()
        self._alarms = {"kill": (self._now + _GRACE, self._pool.kill)}
        if not self._pool.members:
            self._phase = Phase.OVER

    def _shut(self) -> None:
        """Close the listener; who still waits in its backlog is reset."""
        if self._listener is not None:
            if self._accepting:
                self._accepting = False
                self._poller.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._say_accept_failed()

    def _abandon(self, unexpected: Exception) -> None:
        """Nobody knows what state this loop is in: record it, and end every process and session by force."""
        self._code = Exit.SOFTWARE
        self._stop_reason = "failed"
        self._pool.kill()  # before anything else that could fail: no relay without a record
        self._shut()
        self._journal.unexpected(time.time(), describe(unexpected), place_of(unexpected), None)
        self._journal.flush()
        for member in list(self._pool.members.values()):
            self._unwatch(member.sentinel)
            self._unwatch(member.reader.fileno())
            member.process.join()
            self._pool.forget(member)
        now, wall = time.monotonic(), time.time()
        for session in self._ledger.all_active():
            self._journal.lost(session, wall, now, CloseReason.WORKER_LOST)

    def _write_rest(self) -> bool:
        """Wait until the reader of stdout has taken every record, or a signal says not to wait any longer.

        The door is shut and no worker is left; only the records keep this process. Returns whether the outlet is
        left behind.
        """
        self._journal.flush()
        self._writer.close()
        ready_by = self._started + _START_LIMIT
        give_up_at = time.monotonic() + _LAST_WORDS if self._hurry else math.inf
        while not (self._writer.written or self._writer.gone):
            now = time.monotonic()
            if self._writer.absent or (not self._writer.ready and now >= ready_by):
                self._write_without_outlet()
                break
            if self._signals.take():
                give_up_at = min(give_up_at, now + _LAST_WORDS)
            if now >= give_up_at:
                backlog, outlet = self._writer.backlog, self._writer.pid
                complain(f"{backlog} bytes of records are given up; process {outlet} still writes what it has")
                self._code = Exit.IOERR
                return self._writer.outlives(wait=False)
            self._await_room()
            self._poller.wait(min(give_up_at, math.inf if self._writer.ready else ready_by) - now)
            self._writer.attend()
        if not self._writer.written:
            self._code = Exit.IOERR
        return self._writer.outlives(wait=True)

    def _write_without_outlet(self) -> None:
        """Write the records here, because no outlet is ready. It may block: this process holds nothing more."""
        if self._can_wait:
            self._signals.close()  # so that a signal ends the process
        try:
            self._writer.write_directly()
        except OSError as failure:
            complain(f"stdout is gone: {failure.strerror}")


_LISTENER_STEPS: Final = {
    "socket": catalogue.LISTENER_SOCKET_FAILED,
    "bind": catalogue.LISTENER_BIND_FAILED,
    "listen": catalogue.LISTENER_LISTEN_FAILED,
}


def _growing(first: float, times: int) -> float:
    """Return `first`, doubled for each further time, at most the longest pause."""
    return min(first * 2.0 ** min(times - 1, 32), _LONGEST_PAUSE)


def _ended(code: int, last_words: str) -> str:
    """Tell how a process ended that should have become ready."""
    how = f"ended before it was ready ({f'exit code {code}' if code >= 0 else signals.name(-code)})"
    return f"{how}: {last_words}" if last_words else how


def _init_failed(failure: OSError, step: str) -> Failure:
    detail = f"{step}: {failure.strerror}"
    return Failure(catalogue.PLATFORM_INIT_FAILED, Exit.OSERR, error=errno_name(failure.errno), detail=detail)


def _check_clock() -> None:
    try:
        resolution = time.get_clock_info("monotonic").resolution
    except OSError:  # a sandbox does not tell it
        return
    if resolution > _COARSEST:
        raise Failure(catalogue.TIMER_UNAVAILABLE, Exit.OSERR, resolution_s=resolution)


def _check_platform() -> None:
    """Look whether this system has what the relay is made of, and whether it works here."""
    for lack in (poller.missing(), down.missing()):
        if lack is not None:
            raise Failure(catalogue.PLATFORM_UNSUPPORTED, Exit.OSERR, detail=f"this system has no {lack}")
    try:
        spawning.probe()
    except OSError as failure:
        raise _init_failed(failure, "waitpid") from failure
    try:
        down.probe()
    except down.NoSockets as failure:
        detail = "socketpair"
        raise Failure(
            catalogue.PLATFORM_INIT_FAILED, Exit.OSERR, error=errno_name(failure.errno), detail=detail
        ) from failure
    except down.NoPassing as failure:
        raise Failure(catalogue.PLATFORM_UNSUPPORTED, Exit.OSERR, detail=str(failure)) from failure
