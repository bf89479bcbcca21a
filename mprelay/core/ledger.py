"""The ledger: the sessions that hold a slot, and the totals so far.

Rules:

1. A slot is taken by :meth:`Ledger.admit`, before the hand-over, and given back by :meth:`Ledger.close`,
   exactly once: closing a serial that holds no slot raises :class:`UnknownSession`.
2. A serial is 1, 2, 3 … and never used again.
3. At all times ``attempts == rejected + limited + abandoned + proxy_invalid + exhausted + admitted`` and
   ``admitted == active + sum(closed)``. A connection whose PROXY header is awaited holds a slot
   (:meth:`Ledger.reserve`) and is counted when it has been judged.
4. No clock, no socket, no process: moments are arguments, in seconds on the monotonic clock, and never go back.
5. Only a worker's death and the relay's own failure walk over all sessions at once.
6. The :class:`~mprelay.core.roster.Roster` knows which worker has a session and when its next report is due. The
   ledger tells it of each session that is admitted, reported or closed.
"""

from collections import Counter
from itertools import islice
from math import inf
from typing import Literal

from mprelay.core.protocol import Address, Closed, CloseReason, Measured, Progress
from mprelay.core.rates import Client, client_of
from mprelay.core.roster import Booking, Roster


class NoSlot(Exception):  # noqa: N818 - it says what is the matter
    """All slots are taken."""


class UnknownSession(Exception):  # noqa: N818 - it names what is unknown
    """The serial holds no slot: it was never admitted, or is closed already."""


class Session(Booking):
    """The data of one session that holds a slot. Moments are monotonic, in seconds."""

    is_awaited: Literal[False] = False  # it was judged

    __slots__ = (
        "admitted_at",
        "bytes_from_client",
        "bytes_from_target",
        "bytes_to_client",
        "bytes_to_target",
        "client_ip",
        "client_port",
        "connect_ms",
        "entry",
        "measured",
        "outbound_port",
        "proxy",
        "target_ip",
        "told_to_end",
    )

    def __init__(
        self, serial: int, client_ip: str, client_port: int, admitted_at: float, proxy: Address | None
    ) -> None:
        self.serial = serial
        self.client_ip = client_ip
        self.client_port = client_port
        self.proxy = proxy
        """Who has announced the client; None: the client has connected itself."""
        self.admitted_at = admitted_at
        self.worker = None
        self.heard_at = admitted_at
        self.reported = False
        self.entry: str | None = None
        """The entry of the ACL that let the client in."""
        self.target_ip: str | None = None
        """The target's address that was tried last, or else is tried first; None: its name has none."""
        self.connect_ms: float | None = None
        self.outbound_port: int | None = None
        self.measured: Measured | None = None
        """What TCP has measured, once its worker has reported that."""
        self.bytes_from_client = 0
        self.bytes_from_target = 0
        self.bytes_to_client = 0
        self.bytes_to_target = 0
        self.told_to_end = False
        """Whether its worker was told to end it."""

    def progress(self) -> Progress:
        """Return the byte counts as last reported."""
        return Progress(
            self.serial,
            self.bytes_from_client,
            self.bytes_from_target,
            self.bytes_to_client,
            self.bytes_to_target,
        )


class Ledger:
    """Slots, serials and totals of one run.

    `timeouts` are the connect timeout and the idle timeout that the workers keep, in seconds. With `by_client`
    the sessions of each client are counted.
    """

    def __init__(
        self, limit: int, timeouts: tuple[float, float] = (inf, inf), *, by_client: bool = False
    ) -> None:
        self.limit = limit
        self._of_client: Counter[Client] | None = Counter() if by_client else None
        self.workers = Roster(timeouts)
        self.attempts = 0
        self.rejected = 0
        self.limited = 0
        self.abandoned = 0
        self.proxy_invalid = 0
        self.exhausted = 0
        self.admitted = 0
        self.bytes_from_client = 0
        self.bytes_from_target = 0
        self.closed: Counter[CloseReason] = Counter()
        self.reserved = 0
        """Slots that connections hold whose PROXY header is awaited."""
        self._active: dict[int, Session] = {}

    @property
    def active(self) -> int:
        """How many sessions there are."""
        return len(self._active)

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self.limit - self.reserved - len(self._active)

    def reject(self) -> None:
        """Count an attempt that the ACL refused."""
        self.attempts += 1
        self.rejected += 1

    def hold_off(self) -> None:
        """Count an attempt of a client that had come too often, or had too many sessions."""
        self.attempts += 1
        self.limited += 1

    def abandon(self) -> None:
        """Count an attempt whose client had given up, or had waited for too long."""
        self.attempts += 1
        self.abandoned += 1

    @property
    def unused(self) -> bool:
        """Whether no slot is taken."""
        return not self._active and not self.reserved

    def disbelieve(self) -> None:
        """Count an attempt without the PROXY header that it must have."""
        self.attempts += 1
        self.proxy_invalid += 1

    @property
    def full(self) -> bool:
        """Whether all slots are taken."""
        return len(self._active) + self.reserved >= self.limit

    def exhaust(self) -> None:
        """Count an attempt for which no slot was free."""
        self.attempts += 1
        self.exhausted += 1

    def reserve(self) -> None:
        """Take a slot for a connection that is not judged yet. Raises NoSlot."""
        if self.full:
            raise NoSlot
        self.reserved += 1

    def unreserve(self) -> None:
        """Give such a slot back: the connection is being judged."""
        self.reserved -= 1

    def admit(self, client_ip: str, client_port: int, now: float, proxy: Address | None = None) -> Session:
        """Count an attempt and take a slot for it. Raises NoSlot at the limit, and then counts nothing."""
        if len(self._active) + self.reserved >= self.limit:
            raise NoSlot
        self.attempts += 1
        self.admitted += 1
        session = self._active[self.admitted] = Session(self.admitted, client_ip, client_port, now, proxy)
        self.workers.expect(session)
        if self._of_client is not None:
            self._of_client[client_of(client_ip)] += 1
        return session

    def sessions_of(self, client: Client) -> int:
        """Count the sessions of a client, if the ledger counts them."""
        return 0 if self._of_client is None else self._of_client[client]

    def of(self, worker: int, serial: int) -> Session | None:
        """Look up a session that holds a slot and that `worker` has. None: there is no such session."""
        session = self._active.get(serial)
        return session if session is not None and session.worker == worker else None

    def session(self, serial: int) -> Session | None:
        """Look up a session that holds a slot. None: there is no such session."""
        return self._active.get(serial)

    def count(self, session: Session, reported: Progress | Closed) -> None:
        """Note the byte counts of a session so far. The totals sum up all sessions, as last reported."""
        self.bytes_from_client += reported.bytes_from_client - session.bytes_from_client
        self.bytes_from_target += reported.bytes_from_target - session.bytes_from_target
        session.bytes_from_client = reported.bytes_from_client
        session.bytes_from_target = reported.bytes_from_target
        session.bytes_to_client = reported.bytes_to_client
        session.bytes_to_target = reported.bytes_to_target

    def close(self, serial: int, reason: CloseReason) -> Session:
        """Give the slot of a session back. Raises UnknownSession if it holds none."""
        session = self._active.pop(serial, None)
        if session is None:
            raise UnknownSession(serial)
        self.workers.release(session)
        if self._of_client is not None:
            client = client_of(session.client_ip)
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]
        self.closed[reason] += 1
        return session

    def all_active(self, most: int | None = None) -> list[Session]:
        """List the sessions that hold a slot, oldest first: all, or up to `most`."""
        return list(islice(self._active.values(), most))

    def of_worker(self, worker: int) -> list[Session]:
        """List the sessions of `worker`, oldest first."""
        return [session for session in self._active.values() if session.worker == worker]
