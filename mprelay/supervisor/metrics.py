"""The metrics process, seen from the supervisor: it asks when somebody looks, and is answered with a snapshot.

    scraper ──HTTP──▶ metrics process ── a question ─▶ Metrics ── one JSON line ─▶ metrics process ──▶ scraper

Rules:

1. Nothing is done unless the process asks. So a relay that nobody looks at is never woken.
2. All questions that wait are answered by one snapshot. There is one every :data:`PAUSE` at most.
3. If an answer before it still waits for room, a snapshot is dropped. So the supervisor holds one, at most.
4. The process that can be reached from outside gets nothing that it must not show.
5. The relay is not active before the process serves. One that ends later is replaced, and the relay goes on.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from mprelay import metering
from mprelay.config.parsers import Endpoint
from mprelay.core.histogram import Durations, Histogram
from mprelay.core.pauses import Pauses
from mprelay.core.phases import Phase, RunState
from mprelay.core.restarts import Restarts
from mprelay.core.scrapes import LINE_LIMIT, START_LIMIT, NotSaid, question_of, start_of
from mprelay.core.texts import PROBLEM_LIMIT, cut, quoted
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.door import Door
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.helper import Helper
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.status import Status
from mprelay.system.errnos import errno_name

PAUSE: Final = 0.05
"""Seconds between two snapshots, at least."""

METRICS_DESCRIPTORS: Final = 6
"""Descriptors for the metrics process: two pipes, its sentinel, its first words; more while it is started."""

SESSIONS: Final = 200
"""Sessions in a snapshot, at most: the oldest ones."""

_READY_LIMIT: Final = 20.0  # seconds until a replacement must serve; the first one has the run's start limit
_SHORTEST_PAUSE: Final = 1.0  # seconds until a process that has ended is replaced
_OF_CLIENTS: Final = ("client_ip", "client_port", "proxy_ip", "proxy_port")
_NUMBER: Final = 1  # of the process, among those that are started again: there is only one


class Metrics:
    """Runs the metrics process, and answers it. `typed` is the parameter as the user wrote it."""

    def __init__(
        self,
        endpoint: Endpoint,
        typed: str,
        loop: Loop,
        state: RunState,
        *,
        recorder: Recorder,
        writer: Writer,
        book: Book,
        crew: Crew,
        door: Door,
        status: Status,
        on_ready: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._typed = typed
        self._loop = loop
        self._state = state
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self._crew = crew
        self._status = status
        self._started_at = time.time() - status.uptime_s  # once: the clock may be set
        self._on_ready = on_ready
        self._durations = book.durations = Durations()
        self._pauses = door.pauses = Pauses()
        self._process: Helper | None = None
        self._ready_at: float | None = None
        self._part = b""  # the beginning of a line
        self._problem: tuple[str, str | None] | None = None  # why the process does not serve, and the errno
        self._question = 0  # the last one
        self._wants_sessions = False
        self._answered_at = loop.now - PAUSE
        self._restarts = Restarts(_NUMBER)
        self._answer_later = loop.unset_alarm(self._answer)
        self._begin_again = loop.unset_alarm(self._begin)
        self._too_long = loop.unset_alarm(self._give_up)

    @property
    def ready(self) -> bool:
        """Whether the process serves."""
        return self._ready_at is not None

    def start(self) -> None:
        """Start the process. Raises Failure."""
        try:
            self._start()
        except OSError as failure:
            raise Failure(
                catalogue.POOL_START_FAILED,
                error=errno_name(failure.errno),
                detail=f"the metrics process could not be started: {failure.strerror}",
            ) from failure

    def stop(self) -> bool:
        """End the process. True: it is still there, though it was killed."""
        for alarm in (self._answer_later, self._begin_again, self._too_long):
            alarm.cancel()
        if self._process is None:
            return False
        process, self._process = self._process, None
        return process.abandon()

    # -- the process -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        host, port = self._endpoint
        self._part, self._problem = b"", None
        self._process = Helper(
            self._loop,
            metering.main,
            "mprelay: metrics",
            orjson.dumps({"host": host, "port": port}, option=orjson.OPT_APPEND_NEWLINE),
            on_part=self._hear,
            on_end=self._on_end,
            stays_open=True,
        )

    def _begin(self) -> None:
        """Start a replacement."""
        try:
            self._start()
        except OSError as failure:
            self._failed(f"could not be started: {failure.strerror}", errno_name(failure.errno))
        else:
            self._too_long.move(self._loop.now + _READY_LIMIT)

    def _give_up(self) -> None:
        if self._process is None:
            return
        self._process.hear()  # if this loop stood still, it may have said that it serves
        if not self.ready:
            self._process.kill(f"was not ready after {_READY_LIMIT:g} seconds")

    def _on_end(self, how: str, _good: bool) -> None:  # noqa: FBT001 - called by the helper
        self._process = None
        self._too_long.cancel()
        self._answer_later.cancel()
        detail, error = self._problem or (how, None)
        if self._state.phase is Phase.STARTING:
            raise Failure(catalogue.POOL_START_FAILED, error=error, detail=f"the metrics process {detail}")
        if self._state.phase in {Phase.ACTIVE, Phase.DRAINING}:
            self._failed(detail, error)

    def _failed(self, detail: str, error: str | None) -> None:
        """Record that there is no process, and start another after a while."""
        if self._ready_at is None:
            _, pause = self._restarts.failed(_NUMBER)
        else:
            pause = self._restarts.died(_NUMBER, self._loop.now - self._ready_at)
        self._ready_at = None
        pause = max(pause, _SHORTEST_PAUSE)
        self._begin_again.move(self._loop.now + pause)
        if not self._writer.congested:
            detail = cut(detail, PROBLEM_LIMIT)
            self._recorder.write(catalogue.METRICS_FAILED, error=error, detail=detail, again_in_s=pause)

    # -- what it says ----------------------------------------------------------------------------------------

    def _hear(self, part: bytes) -> None:
        try:
            self._take(part)
        except NotSaid as wrong:
            if self._process is not None:
                self._process.kill(str(wrong))

    def _take(self, part: bytes) -> None:
        """Take the lines that are whole. Raises NotSaid."""
        lines, newline, self._part = (self._part + part).rpartition(b"\n")
        if newline and not self.ready and self._problem is None:
            first, _, lines = lines.partition(b"\n")
            self._begun(first)
        if lines:
            self._asked(lines)
        if len(self._part) > (LINE_LIMIT if self.ready else START_LIMIT):
            raise NotSaid("said too much")

    def _begun(self, line: bytes) -> None:
        """Note whether the process serves. Raises Failure if it cannot at the start."""
        problem, error = start_of(line)
        if problem is None:
            self._ready_at = self._loop.now
            self._restarts.ready(_NUMBER)
            self._too_long.cancel()
            self._on_ready()
            return
        self._problem = problem, error
        if self._state.phase is Phase.STARTING:
            raise Failure(
                catalogue.CONFIG_INVALID,
                parameter="metrics",
                value=self._typed,
                problem=cut(f"--metrics {quoted(self._typed)} {problem}.", PROBLEM_LIMIT),
            )

    def _asked(self, lines: bytes) -> None:
        question = question_of(lines)
        self._question = question.number
        self._wants_sessions |= question.sessions
        if not self._answer_later.pending:
            self._answer_later.move(max(self._loop.now, self._answered_at + PAUSE))

    # -- the answer ------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        if self._process is None:
            return
        self._answered_at = self._loop.now
        snapshot = self._snapshot()
        if self._wants_sessions:
            snapshot["sessions"] = self._sessions()
        self._wants_sessions = False
        self._process.say(orjson.dumps(snapshot, option=orjson.OPT_APPEND_NEWLINE))

    def _snapshot(self) -> dict[str, Any]:
        snapshot = self._status.read()
        if not self._endpoint.is_loopback:
            del snapshot["labels"], snapshot["acl"]
        return snapshot | {
            "question": self._question,
            "started_at": self._started_at,
            "outlet_pid": self._writer.pid,
            "workers_wanted": self._crew.size,
            "restarts": {str(worker): self._crew.restarts[worker] for worker in range(1, self._crew.size + 1)},
            "paused_s": self._pauses.seconds(self._loop.now),
            "connect": _shown(self._durations.connect),
            "session": _shown(self._durations.session),
        }

    def _sessions(self) -> list[dict[str, Any]]:
        shown = [self._status.show(session) for session in self._book.ledger.all_active(SESSIONS)]
        if not self._endpoint.is_loopback:
            for session in shown:
                for name in _OF_CLIENTS:
                    session.pop(name, None)
        return shown


def _shown(histogram: Histogram) -> dict[str, Any]:
    return {"total": histogram.total, "buckets": [count for _, count in histogram.buckets()]}
