"""The roster: which worker has room for a session, and which owes a report.

Rules:

1. A session goes to the least loaded worker with room. The replacement of a dead worker is on probation for a
   while. Otherwise it would be the least loaded, because it is empty, and a worker that dies of its sessions
   would get all the next ones too.
2. A worker must report its sessions: each within the connect timeout after the admission, and again within the
   idle timeout after the previous report. A session that is not reported in time is *overdue* and makes its
   worker *late*. A late worker gets no new session until it has reported all overdue ones.
   The same holds for a connection whose PROXY header is awaited, and the time that the header may take.
3. They wait for their reports in three queues, in the order in which they become overdue. Only the heads of the
   queues are ever looked at.
4. No clock, no process: moments are arguments, in seconds on the monotonic clock, and never go back.
"""

from collections import OrderedDict
from collections.abc import Container
from math import inf
from typing import Final, NamedTuple

from mprelay.core.protocol import HEADER_TIME

SLACK: Final = 0.25
"""Seconds that a report may take after it is due."""

PROGRESS_AFTER: Final = 1.0
"""Seconds until a worker reports a byte that moved, at most."""

LATE_LIMIT: Final = 10.0
"""Seconds that a worker may be late with one session."""

PROBATION: Final = 10.0
"""Seconds during which the replacement of a dead worker counts as loaded."""


class NoRoom(Exception):  # noqa: N818 - it says what is the matter
    """No worker can take a session now."""


class Silent(NamedTuple):
    """A worker that has been late for too long, and when it last reported the session that made it late."""

    worker: int
    since: float


class Booking:
    """The roster's part of a session: which worker has it, and when it was last reported (monotonic, seconds)."""

    __slots__ = ("heard_at", "reported", "serial", "worker")

    serial: int
    worker: int | None  # None: it is booked nowhere
    heard_at: float  # the last report; before the first, the admission
    reported: bool


class _Late:
    """The overdue sessions of a late worker."""

    __slots__ = ("capacity", "overdue")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # given back when the worker has caught up
        self.overdue: dict[int, tuple[float, float]] = {}
        """By serial, the oldest first: since when the session is overdue, and its last report."""

    @property
    def oldest(self) -> tuple[float, float]:
        """Of the session that has been overdue for longest: since when, and its last report."""
        return next(iter(self.overdue.values()))


class Roster:
    """The workers of one run and their sessions.

    `timeouts` are the connect timeout and the idle timeout that the workers keep, in seconds.
    """

    def __init__(self, timeouts: tuple[float, float] = (inf, inf)) -> None:
        self.first_report = timeouts[0] + SLACK
        """Seconds from its admission until a session must have been reported."""
        self._next_report = timeouts[1] + PROGRESS_AFTER + SLACK
        self._room: dict[int, int] = {}  # by worker that may get sessions: its capacity
        self._load: dict[int, int] = {}  # by worker: its sessions
        self._free = 0  # sessions that all workers together can still take
        self._handicaps: dict[int, tuple[int, float]] = {}  # by worker on probation: extra load, until when
        self.unreported: OrderedDict[int, Booking] = OrderedDict()
        """Sessions that have not been reported, and are not overdue, by admission."""
        self._reported: OrderedDict[int, Booking] = OrderedDict()  # by last report
        self._awaited: OrderedDict[int, Booking] = OrderedDict()  # connections whose header is awaited
        self._late: dict[int, _Late] = {}

    # -- room ------------------------------------------------------------------------------------------------

    def open(self, worker: int, capacity: int, probation_from: float | None = None) -> None:
        """Let `worker`, which has no session, take up to `capacity`.

        `probation_from` is the moment at which the replacement of a dead worker begins. For :data:`PROBATION`
        seconds it counts as if it also had as many sessions as the fullest of the others has now.
        """
        if probation_from is not None and self._room:
            fullest = max(self._load[other] for other in self._room)
            self._handicaps[worker] = fullest, probation_from + PROBATION
        self._room[worker] = capacity
        self._load[worker] = 0
        self._free += capacity

    def close(self, worker: int) -> None:
        """Give `worker` no more sessions, and expect no more of its reports."""
        self._late.pop(worker, None)
        self._handicaps.pop(worker, None)
        if worker in self._room:
            self._free -= self._room.pop(worker) - self._load[worker]

    def has_room(self) -> bool:
        """Tell whether any worker can take a session."""
        return self._free > 0

    def load(self, worker: int) -> int:
        """How many sessions `worker` has."""
        return self._load.get(worker, 0)

    def place(self, session: Booking, now: float, but: Container[int] = ()) -> int:
        """Book a session on the least loaded worker with room that is not in `but`; return that worker.

        An earlier booking of the session ends first. NoRoom: the session is booked nowhere.
        """
        self._unbook(session)
        session.worker = None
        handicaps = self._handicaps
        best = None
        least = 0
        for worker, room in self._room.items():  # at most 64
            load = self._load[worker]
            if load < room and worker not in but:
                if worker in handicaps:
                    load += self._handicap(worker, now)
                if best is None or load < least:
                    best, least = worker, load
        if best is None:
            raise NoRoom
        session.worker = best
        self._load[best] += 1
        self._free -= 1
        return best

    def _handicap(self, worker: int, now: float) -> int:
        sessions, until = self._handicaps[worker]
        if now < until:
            return sessions
        del self._handicaps[worker]
        return 0

    def _unbook(self, session: Booking) -> None:
        worker = session.worker
        if worker is not None:
            self._load[worker] -= 1
            if worker in self._room:
                self._free += 1

    # -- reports ---------------------------------------------------------------------------------------------

    def expect(self, session: Booking) -> None:
        """Expect the first report of a session that was admitted just now."""
        self.unreported[session.serial] = session

    def await_header(self, connection: Booking) -> None:
        """Expect what a worker says of the PROXY header of a connection that was accepted just now."""
        self._awaited[connection.serial] = connection

    def hand_on(self, connection: Booking, session: Booking | None = None) -> None:
        """Note that a worker has told of a header, or never will. `session` takes the connection's place."""
        if self._awaited.pop(connection.serial, None) is None:
            self._catch_up(connection)
        if session is None:
            self._unbook(connection)
        else:
            session.worker = connection.worker
        connection.worker = None

    def heard(self, session: Booking, now: float) -> None:
        """Note a report of a session, the first or a further one. `now` must not be earlier than the report."""
        queue = self._reported if session.reported else self.unreported
        if queue.pop(session.serial, None) is None:
            self._catch_up(session)
        session.reported = True
        session.heard_at = now
        self._reported[session.serial] = session

    def release(self, session: Booking) -> None:
        """Give back the place of a session that is over, and expect no more reports of it."""
        self._unbook(session)
        queue = self._reported if session.reported else self.unreported
        if queue.pop(session.serial, None) is None:
            self._catch_up(session)

    def _catch_up(self, session: Booking) -> None:
        """Note that a session is no longer overdue. Its worker gets new ones if no other session is overdue."""
        if session.worker is None:
            return
        late = self._late.get(session.worker)
        if late is None:
            return
        late.overdue.pop(session.serial, None)
        if not late.overdue:
            del self._late[session.worker]
            self._room[session.worker] = late.capacity
            self._free += late.capacity - self._load[session.worker]

    def due(self) -> float:
        """Return when :meth:`judge` has something to do unless a report comes first; infinity: never.

        A report only puts that moment off. After an admission it is at most `first_report` seconds away.
        """
        moments = [late.oldest[0] + LATE_LIMIT for late in self._late.values()]
        for queue, limit in self._waits():
            if queue:
                moments.append(next(iter(queue.values())).heard_at + limit)
        return min(moments, default=inf)

    def _waits(self) -> tuple[tuple[OrderedDict[int, Booking], float], ...]:
        """Return what is waited for, in queues, each with the seconds that a report may take."""
        return (
            (self.unreported, self.first_report),
            (self._awaited, HEADER_TIME + SLACK),
            (self._reported, self._next_report),
        )

    def judge(self, now: float) -> list[Silent]:
        """Find overdue sessions; return the workers that have been late for too long.

        All reports of the workers must be read before. Each worker that is returned must be closed after.
        """
        for queue, limit in self._waits():
            while queue:
                session = next(iter(queue.values()))
                if session.heard_at + limit > now:
                    break
                del queue[session.serial]
                self._make_overdue(session, now)
        return [
            Silent(worker, late.oldest[1])
            for worker, late in self._late.items()
            if late.oldest[0] + LATE_LIMIT <= now
        ]

    def _make_overdue(self, session: Booking, now: float) -> None:
        worker = session.worker
        if worker is None:
            return
        if worker in self._room:
            capacity = self._room.pop(worker)
            self._free -= capacity - self._load[worker]
            self._late[worker] = _Late(capacity)
        if worker in self._late:  # no report is expected of a closed worker
            self._late[worker].overdue[session.serial] = now, session.heard_at
