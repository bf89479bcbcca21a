"""The workers 1 to N: started, heard, buried, replaced.

    start ──Ready, of our build──▶ ready ─────────────── dies ──────▶ start, at once if it lived for 5 s,
      │                              ├─ owes a report ─10 s─▶ killed            else after 1, 2, 4 … 60 s
      │                              └─ a lie, crashed ──────▶ killed, if it does not end in 0.4 s
      └─ cannot be started, ends, hangs, is of another build ───────▶ start, after 0.1, 0.2 … 60 s

Rules:

1. A worker that dies is replaced by another with the same number, unless the run drains or ends. If no worker is
   left, and each was tried six times in vain, the run fails.
2. A worker's death is noted among the other events of a turn, but it is buried after all of them. The burial
   frees descriptors. Those opened next get the same numbers, for which events of this turn may still be listed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from mprelay.channel.build import BUILD
from mprelay.core.phases import Phase, RunState
from mprelay.core.protocol import CloseReason, Ready, Settings, Ticket
from mprelay.core.restarts import TRIES, Restarts
from mprelay.core.roster import LATE_LIMIT, Silent
from mprelay.core.texts import shown
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.loop import Alarm, Loop
from mprelay.supervisor.member import GRACE, Member
from mprelay.supervisor.orders import Orders
from mprelay.supervisor.reports import EVENTS_IN_PIPE, Report, Reports
from mprelay.supervisor.watchdog import Watchdog
from mprelay.system import signals
from mprelay.system.errnos import errno_name

START_LIMIT: Final = 10.0
"""Seconds until a worker must be ready. At the start of the relay, seconds since one process more was ready."""

_CONGESTED_PAUSE: Final = 1.0  # seconds between tries to start a worker while too many records wait


class Crew:
    """The worker processes of one run."""

    settings: Settings
    """With which workers are started. Set by :meth:`start`, and anew for other addresses of the target's name."""

    def __init__(
        self,
        size: int,
        loop: Loop,
        state: RunState,
        *,
        recorder: Recorder,
        writer: Writer,
        book: Book,
        on_report: Callable[[int, Report, float], bool],
        on_ready: Callable[[], None],
        on_gone: Callable[[int, str], None],
    ) -> None:
        """Make them; `on_gone` is told which worker is gone, and how, when its sessions are closed."""
        self._loop = loop
        self._state = state
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self.size = size
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._capacity = 0
        self._members: dict[int, Member] = {}
        self._dead: list[Member] = []
        self._starts: dict[int, Alarm] = {}  # by number: workers to be started later
        self._restarts = Restarts(size)
        self.restarts: Counter[int] = Counter()
        """How often each worker was replaced, by number."""
        self.reports = Reports(
            loop, recorder, book.workers, self._members, on_report=on_report, on_ready=self._on_worker_ready
        )
        self.orders = Orders(loop, self._members)
        self.watchdog = Watchdog(loop, book.workers, self.reports)

    # -- the start -------------------------------------------------------------------------------------------

    def start(self, settings: Settings, capacity: int) -> None:
        """Start all workers, each for up to `capacity` sessions. Raises Failure.

        Each turn starts one worker, so that signals and the expiry are noticed in between.
        """
        self.settings = settings
        self._capacity = capacity
        self._start_first(1)

    def _start_first(self, number: int) -> None:
        try:
            self._start_worker(number)
        except OSError as failure:
            raise Failure(
                catalogue.POOL_START_FAILED,
                error=errno_name(failure.errno),
                detail=f"worker {number} could not be started: {failure.strerror}",
            ) from failure
        if number < self.size:
            self._starts[number + 1] = self._loop.after(0, partial(self._start_first, number + 1))

    def _start_worker(self, number: int) -> None:
        """Start worker `number`. Raises OSError."""
        member = self._members[number] = Member(number, self._loop.now, self.settings)
        try:
            self._loop.watch(member.reader.fileno(), partial(self.reports.hear, member))
            self._loop.watch(member.sentinel, partial(self._on_death, member))
        except OSError:
            self._loop.unwatch(member.reader.fileno())
            member.join()
            member.close()
            del self._members[number]
            raise
        member.alarm = self._loop.after(START_LIMIT + LATE_LIMIT, partial(self._never_ready, member))

    def _start_later(self, number: int, pause: float) -> None:
        if (alarm := self._starts.get(number)) is not None:
            alarm.cancel()
        self._starts[number] = self._loop.after(pause, partial(self._start_again, number))

    def _start_again(self, number: int) -> None:
        """Start a replacement. An error may pass, and the other workers go on meanwhile."""
        if self._state.phase is Phase.ACTIVE and self._writer.congested:
            # No session is admitted now, so no worker is needed, and each failed try would write a record.
            self._start_later(number, _CONGESTED_PAUSE)
            return
        try:
            self._start_worker(number)
        except OSError as failure:
            error = errno_name(failure.errno)
            self._start_failed(number, error, f"could not be started: {failure.strerror}")

    def _start_failed(self, number: int, error: str | None, how: str) -> None:
        """Try again later. Raises Failure if tried too often: during the start, or with no worker left."""
        tries, pause = self._restarts.failed(number)
        starting = self._state.phase is Phase.STARTING
        if tries >= TRIES and (starting or (not self.ready_members() and self._restarts.hopeless())):
            detail = shown(f"worker {number} {how}, {tries} times in a row")
            raise Failure(catalogue.POOL_START_FAILED, error=error, detail=detail)
        self._start_later(number, pause)
        if not starting:
            self._recorder.write(
                catalogue.WORKER_START_FAILED,
                worker=number,
                error=error,
                detail=shown(how),
                tries=tries,
                again_in_s=pause,
            )

    def _on_worker_ready(self, member: Member, event: Ready) -> None:
        """Let a worker take sessions from now on, if it runs the same build as this process."""
        if event.build != BUILD:
            member.reader.stop()
            member.trouble = f"is of another build: {event.build}, this relay is {BUILD}"
            member.kill()
            return
        now = self._loop.now
        member.get_ready(now)
        self._restarts.ready(member.number)
        replaces = self._state.phase is not Phase.STARTING
        self.restarts[member.number] += replaces
        self._book.workers.open(member.number, self._capacity, now if replaces else None)
        self._recorder.write(catalogue.WORKER_STARTED, event.at, worker=member.number, pid=member.pid)
        self._on_ready()

    def _never_ready(self, member: Member) -> None:
        """Kill a worker that hangs before it is ready. If the loop itself stood still, give it more time.

        While the relay starts, the limit of the start decides.
        """
        self.reports.hear(member)
        if self._state.phase is Phase.STARTING or self._loop.now < self.watchdog.judges_from:
            member.alarm = self._loop.after(LATE_LIMIT, partial(self._never_ready, member))
        elif not member.ready:
            member.trouble = f"was not ready after {START_LIMIT:g} seconds"
            self.reports.end_silent(Silent(member.number, member.started_at))

    # -- death -----------------------------------------------------------------------------------------------

    def _on_death(self, member: Member) -> None:
        self._loop.unwatch(member.sentinel)
        self._dead.append(member)

    def bury_and_judge(self) -> None:
        """Bury dead workers, and find unresponsive ones. Call it after the events of each turn."""
        while self._dead:
            self._bury(self._dead.pop(0))
        if self.watchdog.due:
            self.watchdog.judge(self._loop.now)

    def _bury(self, member: Member) -> None:
        """Read a dead worker's last events, close its sessions, and replace it."""
        member.join()
        del self._members[member.number]
        member.reader.expect_end()
        # Limited, because another process may still hold the queue open, and fill it.
        self.reports.hear(member, EVENTS_IN_PIPE)
        self._loop.unwatch(member.reader.fileno())
        code = member.close()
        self._book.workers.close(member.number)
        asked_for = self._state.phase is Phase.ENDING
        lost = self._book.ledger.of_worker(member.number)
        self._recorder.write(
            catalogue.WORKER_EXITED if asked_for and not lost else catalogue.WORKER_DIED,
            worker=member.number,
            pid=member.pid,
            exitcode=code if code >= 0 else None,
            signal=signals.name(-code) if code < 0 else None,
        )
        reason = self._state.ending.session_end if asked_for else CloseReason.WORKER_LOST
        for session in lost:
            self._book.lost(session, self._loop.wall, self._loop.now, reason)
        self._on_gone(
            member.number, "was not judged before the relay ended" if asked_for else "was lost with its worker"
        )
        if self._state.phase in (Phase.STARTING, Phase.ACTIVE):
            self._replace(member, code)

    def _replace(self, member: Member, code: int) -> None:
        if member.ready_at is None:
            self._start_failed(member.number, None, member.how_it_ended(code))
            return
        self._start_later(member.number, self._restarts.died(member.number, self._loop.now - member.ready_at))
        if not self.ready_members():
            for worker in self._restarts.waiting(self._members):
                self._start_later(worker, 0.0)  # no other is left: those that failed to start are needed now

    # -- orders ----------------------------------------------------------------------------------------------

    def send(self, worker: int, tickets: Sequence[Ticket], descriptors: Sequence[int]) -> None:
        """Hand sockets over to a worker (see :meth:`mprelay.channel.down.Sender.send`)."""
        self._members[worker].send(tickets, descriptors)

    def drain(self) -> None:
        """Stop replacing workers. The remaining sessions need no new worker."""
        for alarm in self._starts.values():
            alarm.cancel()
        for member in self._members.values():
            member.cancel_alarm()

    def stop(self) -> None:
        """Tell all workers to end their sessions and exit. Kill those that have not done so after the grace."""
        self.drain()
        self.watchdog.stop()
        for member in self._members.values():
            member.stop()
        self._loop.after(GRACE, self.kill)

    def kill(self) -> None:
        """Kill all workers at once."""
        for member in self._members.values():
            member.kill()

    def abandon(self) -> None:
        """Kill all workers, and read no more reports, because the state of this process is unknown."""
        self.kill()
        for member in list(self._members.values()):
            self._loop.unwatch(member.sentinel)
            self._loop.unwatch(member.reader.fileno())
            member.wait()
            del self._members[member.number]

    @property
    def empty(self) -> bool:
        """Whether no worker is left."""
        return not self._members

    def ready_members(self) -> list[Member]:
        """List the workers that can take tickets."""
        return [member for member in self._members.values() if member.ready]
