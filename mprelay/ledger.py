"""The ledger: who holds a slot, who is where, and what has been.

Rules:

1. A slot is taken by :meth:`Ledger.admit`, before the hand-over, and given back by :meth:`Ledger.close`,
   exactly once: closing a serial that holds no slot raises :class:`UnknownSession`.
2. A serial is 1, 2, 3 … and never used again.
3. At all times ``attempts == rejected + exhausted + admitted`` and ``admitted == active + sum(closed)``.
4. No clock, no socket, no process: moments are arguments, in seconds on the monotonic clock.
5. Only a worker's death and the relay's own failure walk over sessions.
"""

from collections import Counter
from collections.abc import Container

from mprelay.events import CloseReason


class UnknownSession(KeyError):  # noqa: N818 - it names what is unknown
    """A serial that holds no slot: it was never admitted, or is closed already."""


class NoRoom(Exception):  # noqa: N818 - it says what is the matter
    """No worker can take a session now."""


class Entry:
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
        "inbound_ip",
        "outbound_port",
        "serial",
        "worker",
    )

    def __init__(self, serial: int, client_ip: str, client_port: int, admitted_at: float) -> None:
        self.serial = serial
        self.client_ip = client_ip
        self.client_port = client_port
        self.admitted_at = admitted_at
        self.inbound_ip: str | None = None
        self.worker: int | None = None
        self.connect_ms: float | None = None
        self.outbound_port: int | None = None
        self.bytes_from_client = 0
        self.bytes_from_target = 0
        self.bytes_to_client = 0
        self.bytes_to_target = 0


class Ledger:
    """Slots, serials and totals of one run."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.attempts = 0
        self.rejected = 0
        self.exhausted = 0
        self.admitted = 0
        self.bytes_from_client = 0
        self.bytes_from_target = 0
        self.closed: Counter[CloseReason] = Counter()
        self._active: dict[int, Entry] = {}
        self._room: dict[int, int] = {}  # worker: how many sessions it can still take
        self._load: dict[int, int] = {}  # worker: how many it has
        self._free = 0  # sessions that the workers can still take, all together

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return len(self._active)

    def reject(self) -> None:
        """Count an attempt that the ACL refused."""
        self.attempts += 1
        self.rejected += 1

    def admit(self, client_ip: str, client_port: int, now: float) -> Entry | None:
        """Count an attempt and take a slot for it; None at the limit."""
        self.attempts += 1
        if len(self._active) >= self.limit:
            self.exhausted += 1
            return None
        self.admitted += 1
        entry = self._active[self.admitted] = Entry(self.admitted, client_ip, client_port, now)
        return entry

    def open_worker(self, worker: int, capacity: int) -> None:
        """Let `worker` take up to `capacity` sessions. It has none."""
        self._room[worker] = capacity
        self._load[worker] = 0
        self._free += capacity

    def close_worker(self, worker: int) -> None:
        """Give `worker` no more sessions."""
        if worker in self._room:
            self._free -= self._room.pop(worker) - self._load[worker]

    def has_room(self) -> bool:
        """Tell whether any worker can take a session."""
        return self._free > 0

    def place(self, entry: Entry, but: Container[int] = ()) -> int:
        """Book a session on the least loaded worker with room, none of `but`, and return that worker.

        Where it was booked before, it is no longer; with NoRoom it is booked nowhere.
        """
        self._unbook(entry)
        entry.worker = None
        best = None
        least = 0
        for worker, room in self._room.items():  # at most 64
            load = self._load[worker]
            if load < room and (best is None or load < least) and worker not in but:
                best, least = worker, load
        if best is None:
            raise NoRoom
        entry.worker = best
        self._load[best] += 1
        self._free -= 1
        return best

    def _unbook(self, entry: Entry) -> None:
        worker = entry.worker
        if worker is not None:
            self._load[worker] -= 1
            if worker in self._room:
                self._free += 1

    def entry(self, serial: int) -> Entry:
        """Look up a session that holds a slot; UnknownSession otherwise."""
        try:
            return self._active[serial]
        except KeyError:
            raise UnknownSession(serial) from None

    def has(self, worker: int, serial: int) -> bool:
        """Tell whether `worker` has the session `serial`, and that holds a slot."""
        entry = self._active.get(serial)
        return entry is not None and entry.worker == worker

    def close(self, serial: int, reason: CloseReason) -> Entry:
        """Give a slot back; UnknownSession where it holds none. The entry's byte counts join the totals."""
        entry = self._active.pop(serial, None)
        if entry is None:
            raise UnknownSession(serial)
        self._unbook(entry)
        self.closed[reason] += 1
        self.bytes_from_client += entry.bytes_from_client
        self.bytes_from_target += entry.bytes_from_target
        return entry

    def load(self, worker: int) -> int:
        """How many sessions `worker` has."""
        return self._load.get(worker, 0)

    def all_active(self) -> list[Entry]:
        """List the sessions that hold a slot, oldest first."""
        return list(self._active.values())

    def of_worker(self, worker: int) -> list[Entry]:
        """List the sessions of `worker`, oldest first."""
        return [entry for entry in self._active.values() if entry.worker == worker]
