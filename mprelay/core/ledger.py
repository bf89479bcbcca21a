"""The ledger: who holds a slot, who is where, who owes an answer, and what has been.

Rules:

1. A slot is taken by :meth:`Ledger.admit`, before the hand-over, and given back by :meth:`Ledger.close`,
   exactly once: closing a serial that holds no slot raises :class:`UnknownSession`.
2. A serial is 1, 2, 3 … and never used again.
3. At all times ``attempts == rejected + abandoned + exhausted + admitted`` and
   ``admitted == active + sum(closed)``.
4. No clock, no socket, no process: moments are arguments, in seconds on the monotonic clock, and never go back.
5. Only a worker's death and the relay's own failure walk over sessions.
6. A worker answers for its sessions. It reports each within the connect timeout after the admission, and again
   within the idle timeout after the report before. Sessions wait in two queues, in the order of these moments, so
   only the heads are ever looked at. One that is overdue makes its worker *late*: the worker gets no new session
   until it has reported all that is overdue.
"""

from collections import Counter, OrderedDict
from collections.abc import Container
from math import inf
from typing import Final, NamedTuple

from mprelay.core.protocol import Closed, CloseReason, Progress

SLACK: Final = 0.25
"""Seconds that a report may take, beyond what is due."""

PROGRESS_AFTER: Final = 1.0
"""Seconds after which a worker reports a byte that moved, at most."""

LATE_LIMIT: Final = 10.0
"""Seconds that a worker may be late with one session."""

PROBATION: Final = 10.0
"""Seconds for which the replacement of a dead worker is no favourite."""


class UnknownSession(KeyError):  # noqa: N818 - it names what is unknown
    """A serial that holds no slot: it was never admitted, or is closed already."""


class NoRoom(Exception):  # noqa: N818 - it says what is the matter
    """No worker can take a session now."""


class Silent(NamedTuple):
    """A worker that has been late for too long, and when it last reported the session that made it late."""

    worker: int
    since: float


class _Late:
    """What a late worker owes."""

    __slots__ = ("capacity", "sessions")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # given back when it has caught up
        self.sessions: dict[int, tuple[float, float]] = {}
        """What is overdue, by serial: since when, the oldest first, and the last report before."""

    @property
    def oldest(self) -> tuple[float, float]:
        """What has been overdue for longest, and still is: since when, and the last report before."""
        return next(iter(self.sessions.values()))


class Session:
    """What is known of one session that holds a slot."""

    __slots__ = (
        "admitted_at",
        "bytes_from_client",
        "bytes_from_target",
        "bytes_to_client",
        "bytes_to_target",
        "client_ip",
        "client_port",
        "connect_ms",
        "heard_at",
        "outbound_port",
        "reported",
        "serial",
        "worker",
    )

    def __init__(self, serial: int, client_ip: str, client_port: int, admitted_at: float) -> None:
        self.serial = serial
        self.client_ip = client_ip
        self.client_port = client_port
        self.admitted_at = admitted_at
        self.worker: int | None = None
        self.heard_at = admitted_at  # its worker's last report; the admission before the first
        self.reported = False
        self.connect_ms: float | None = None
        self.outbound_port: int | None = None
        self.bytes_from_client = 0
        self.bytes_from_target = 0
        self.bytes_to_client = 0
        self.bytes_to_target = 0


class Ledger:
    """Slots, serials and totals of one run.

    `timeouts` are the connect timeout and the idle timeout that the workers keep, in seconds.
    """

    def __init__(self, limit: int, timeouts: tuple[float, float] = (inf, inf)) -> None:
        self.limit = limit
        self.first_report = timeouts[0] + SLACK
        """Seconds from its admission until a session must have been reported."""
        self._next_report = timeouts[1] + PROGRESS_AFTER + SLACK
        self.attempts = 0
        self.rejected = 0
        self.abandoned = 0
        self.exhausted = 0
        self.admitted = 0
        self.bytes_from_client = 0
        self.bytes_from_target = 0
        self.closed: Counter[CloseReason] = Counter()
        self._active: dict[int, Session] = {}
        self._room: dict[int, int] = {}  # worker: how many sessions it can still take
        self._load: dict[int, int] = {}  # worker: how many it has
        self._free = 0  # sessions that the workers can still take, all together
        self._handicaps: dict[int, tuple[int, float]] = {}  # worker: sessions that it seems to have too, until
        self._unreported: OrderedDict[int, Session] = OrderedDict()  # by admission
        self._reported: OrderedDict[int, Session] = OrderedDict()  # by last report
        self._late: dict[int, _Late] = {}

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return len(self._active)

    def reject(self) -> None:
        """Count an attempt that the ACL refused."""
        self.attempts += 1
        self.rejected += 1

    def abandon(self) -> None:
        """Count an attempt whose client has given up, or has waited for too long."""
        self.attempts += 1
        self.abandoned += 1

    def admit(self, client_ip: str, client_port: int, now: float) -> Session | None:
        """Count an attempt and take a slot for it; None at the limit."""
        self.attempts += 1
        if len(self._active) >= self.limit:
            self.exhausted += 1
            return None
        self.admitted += 1
        session = self._active[self.admitted] = Session(self.admitted, client_ip, client_port, now)
        self._unreported[session.serial] = session
        return session

    def open_worker(self, worker: int, capacity: int, probation_from: float | None = None) -> None:
        """Let `worker` take up to `capacity` sessions. It has none.

        The replacement of a dead worker is on probation for a while, from this moment on. It is empty, so it
        would be the least loaded, and a worker that dies of its sessions would get all the next ones too. On
        probation it counts as if it also had as many as the fullest of the others has now.
        """
        if probation_from is not None and self._room:
            fullest = max(self._load[other] for other in self._room)
            self._handicaps[worker] = fullest, probation_from + PROBATION
        self._room[worker] = capacity
        self._load[worker] = 0
        self._free += capacity

    def close_worker(self, worker: int) -> None:
        """Give `worker` no more sessions, and expect no more of it."""
        self._late.pop(worker, None)
        self._handicaps.pop(worker, None)
        if worker in self._room:
            self._free -= self._room.pop(worker) - self._load[worker]

    def has_room(self) -> bool:
        """Tell whether any worker can take a session."""
        return self._free > 0

    def place(self, session: Session, now: float, but: Container[int] = ()) -> int:
        """Book a session on the least loaded worker with room, none of `but`, and return that worker.

        Where it was booked before, it is no longer; with NoRoom it is booked nowhere.
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

    def _unbook(self, session: Session) -> None:
        worker = session.worker
        if worker is not None:
            self._load[worker] -= 1
            if worker in self._room:
                self._free += 1

    # -- who owes an answer ----------------------------------------------------------------------------------

    def first_heard(self, worker: int, serial: int, now: float) -> bool:
        """Note the first report of a session that goes on; `now` is not earlier than the report.

        False, and nothing is noted, where it cannot be true: `worker` does not have it, or reported it before.
        """
        session = self._active.get(serial)
        if session is None or session.worker != worker or session.reported:
            return False
        if self._unreported.pop(serial, None) is None:
            self._caught_up(session)
        session.reported = True
        session.heard_at = now
        self._reported[serial] = session
        return True

    def heard(self, worker: int, serial: int, now: float) -> bool:
        """Note a further report of a session. False, and nothing is noted, where `worker` does not have it."""
        if not self.has(worker, serial):
            return False
        session = self._active[serial]
        self._answered(session)
        session.reported = True
        session.heard_at = now
        self._reported[serial] = session
        return True

    def _answered(self, session: Session) -> None:
        """Expect nothing of a session."""
        queue = self._reported if session.reported else self._unreported
        if queue.pop(session.serial, None) is None:
            self._caught_up(session)

    def _caught_up(self, session: Session) -> None:
        """Note that a session is overdue no more: its worker gets new ones if it was late with this one alone."""
        if session.worker is None:
            return
        late = self._late.get(session.worker)
        if late is None:
            return
        late.sessions.pop(session.serial, None)
        if not late.sessions:
            del self._late[session.worker]
            self._room[session.worker] = late.capacity
            self._free += late.capacity - self._load[session.worker]

    @property
    def all_reported(self) -> bool:
        """Whether each session has been reported, or is overdue."""
        return not self._unreported

    def due(self) -> float:
        """When :meth:`judge` has something to do unless a report comes first; infinity: never.

        A report only puts it off; an admission makes it `first_report` later than that, at the latest.
        """
        moments = [late.oldest[0] + LATE_LIMIT for late in self._late.values()]
        for queue, limit in ((self._unreported, self.first_report), (self._reported, self._next_report)):
            if queue:
                moments.append(next(iter(queue.values())).heard_at + limit)
        return min(moments, default=inf)

    def judge(self, now: float) -> list[Silent]:
        """Find the sessions that are overdue; return the workers that have been late for too long.

        All that the workers have reported must be heard before. A worker that is returned must be closed after.
        """
        for queue, limit in ((self._unreported, self.first_report), (self._reported, self._next_report)):
            while queue:
                session = next(iter(queue.values()))
                if session.heard_at + limit > now:
                    break
                del queue[session.serial]
                self._overdue(session, now)
        return [
            Silent(worker, late.oldest[1])
            for worker, late in self._late.items()
            if late.oldest[0] + LATE_LIMIT <= now
        ]

    def _overdue(self, session: Session, now: float) -> None:
        worker = session.worker
        if worker is None:
            return
        if worker in self._room:
            capacity = self._room.pop(worker)
            self._free -= capacity - self._load[worker]
            self._late[worker] = _Late(capacity)
        if worker in self._late:  # not one that is closed: nothing is expected of it
            self._late[worker].sessions[session.serial] = now, session.heard_at

    def session(self, serial: int) -> Session:
        """Look up a session that holds a slot; UnknownSession otherwise."""
        try:
            return self._active[serial]
        except KeyError:
            raise UnknownSession(serial) from None

    def has(self, worker: int, serial: int) -> bool:
        """Tell whether `worker` has the session `serial`, and that holds a slot."""
        session = self._active.get(serial)
        return session is not None and session.worker == worker

    def count(self, session: Session, reported: Progress | Closed) -> None:
        """Note the byte counts of a session so far. The totals are those of all sessions, as last reported."""
        self.bytes_from_client += reported.bytes_from_client - session.bytes_from_client
        self.bytes_from_target += reported.bytes_from_target - session.bytes_from_target
        session.bytes_from_client = reported.bytes_from_client
        session.bytes_from_target = reported.bytes_from_target
        session.bytes_to_client = reported.bytes_to_client
        session.bytes_to_target = reported.bytes_to_target

    def close(self, serial: int, reason: CloseReason) -> Session:
        """Give a slot back; UnknownSession where it holds none."""
        session = self._active.pop(serial, None)
        if session is None:
            raise UnknownSession(serial)
        self._unbook(session)
        self._answered(session)
        self.closed[reason] += 1
        return session

    def load(self, worker: int) -> int:
        """How many sessions `worker` has."""
        return self._load.get(worker, 0)

    def all_active(self) -> list[Session]:
        """List the sessions that hold a slot, oldest first."""
        return list(self._active.values())

    def of_worker(self, worker: int) -> list[Session]:
        """List the sessions of `worker`, oldest first."""
        return [session for session in self._active.values() if session.worker == worker]
