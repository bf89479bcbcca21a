"""Who came through a relay and who did not, as its records tell. Pure, and in bounded memory.

Rules:

1. Records may come in any order: a session's end may be read before its beginning.
2. A refused connection counts once: by its own record, or in the sum of a ``connection.refused_more``.
3. A session began with its ``connection.accepted``. Without one (``--log-detail session``), its duration tells
   when.
4. A session that was closed twice counts twice, and `closed_twice` says so.
"""

import heapq
from itertools import islice
from typing import Final, NamedTuple

from mprelay.audit.fields import Record, number, text, whole
from mprelay.audit.serials import Numbers
from mprelay.audit.tables import Table
from mprelay.audit.timeline import Timeline
from mprelay.audit.times import Moment, bounded, moment

REFUSALS: Final = {
    "connection.rejected": "rejected",
    "connection.limited": "limited",
    "connection.abandoned": "abandoned",
    "connection.proxy_invalid": "proxy_invalid",
    "connection.pool_exhausted": "exhausted",
}
"""The kinds of refusals, by the records that tell of one."""

KINDS: Final = tuple(REFUSALS.values())

# The counts in a row of a table of sessions.
SESSIONS: Final = 0
FROM_CLIENT: Final = 1
FROM_TARGET: Final = 2
DURATION: Final = 3  # microseconds
ERRORS: Final = 4
_WIDTH: Final = 5

ODD: Final = frozenset({"killed", "acl_revoked"})
"""Reasons by which somebody ended this very session. Ends at the level `error` are odd too."""

_UNKNOWN: Final = "?"
_ROWS: Final = 1_000  # of a table, while its run goes on
_ROWS_AFTERWARDS: Final = 25
_OPEN: Final = 20_000
_BEST: Final = 10


class Session(NamedTuple):
    """A session. One without an end has neither duration, bytes nor reason."""

    serial: int | None
    client_ip: str
    client_port: int | None
    target_ip: str
    begun: Moment | None
    ended: Moment | None = None
    duration: int = 0
    """Microseconds."""
    from_client: int = 0
    from_target: int = 0
    reason: str | None = None
    error: str | None = None
    error_from: str | None = None
    rule: str | None = None
    """The entry of the ACL that let the client in."""


class Best:
    """The few largest of many sessions; of equals the first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Session]] = []
        self._order = 0

    def add(self, measure: int, session: Session) -> None:
        """Offer a session."""
        self._order -= 1
        if len(self._heap) < _BEST:
            heapq.heappush(self._heap, (measure, self._order, session))
        elif measure > self._heap[0][0]:
            heapq.heapreplace(self._heap, (measure, self._order, session))

    def sessions(self) -> list[Session]:
        """Return them, the largest first."""
        return [session for _, _, session in sorted(self._heap, reverse=True)]


class Traffic:
    """The connections and sessions of one run."""

    def __init__(self) -> None:
        self.attempts = 0
        """``connection.attempt``."""
        self.outcomes = dict.fromkeys(KINDS, 0)
        """Refusals by their kinds."""
        self.summed_up = 0
        """Refusals among them that stand in ``connection.refused_more`` only."""
        self.accepted = Numbers()
        self.closed = Numbers()
        self.closed_twice = 0
        self.nameless = 0
        """``session.closed`` without a serial."""
        self.reasons: Table[str] = Table(_WIDTH, 100)
        self.errors: Table[tuple[str, str]] = Table(_WIDTH, 100)
        """By the error's name, and whose connection gave it."""
        self.rules: Table[str] = Table(_WIDTH, _ROWS)
        self.targets: Table[str] = Table(_WIDTH, _ROWS)
        self.clients: Table[str] = Table(_WIDTH, _ROWS, (SESSIONS, FROM_CLIENT, FROM_TARGET, DURATION))
        self.refused: Table[str | None] = Table(1 + len(KINDS), _ROWS)
        """By address: all, and those of each kind."""
        self.causes: Table[tuple[str, str]] = Table(1, _ROWS)
        """By kind, and what decided: the entry of the ACL, the limit, the problem."""
        self.timeline = Timeline()
        self.longest = Best()
        self.largest = Best()
        self.odd: list[Session] = []
        self.odd_count = 0
        self.open: dict[int, Session] = {}
        """Sessions without an end, as many as are remembered."""
        self._open_limit = _OPEN
        self._takers = {
            "connection.attempt": self._attempted,
            "connection.accepted": self._accepted,
            "session.closed": self._closed,
            "connection.refused_more": self._refused_more,
            **dict.fromkeys(REFUSALS, self._refused),
        }

    def add(self, record: Record, event: str, when: Moment | None) -> None:
        """Take a record of a connection or a session."""
        taker = self._takers.get(event)
        if taker is not None:
            taker(record, when)

    @property
    def refusals(self) -> int:
        """How many connections were refused, as far as the log tells."""
        return self.refused.total()[0]

    def shrink(self) -> None:
        """Keep the largest rows only, and the first sessions without an end: no more records are expected."""
        for table in (self.clients, self.targets, self.rules):
            table.shrink(_ROWS_AFTERWARDS)
        self.refused.shrink(_ROWS_AFTERWARDS)
        self.causes.shrink(_ROWS_AFTERWARDS)
        self._open_limit = _ROWS_AFTERWARDS
        self.open = dict(islice(self.open.items(), self._open_limit))

    # -- refusals --------------------------------------------------------------------------------------------

    def _attempted(self, _record: Record, _when: Moment | None) -> None:
        self.attempts += 1

    def _refused(self, record: Record, when: Moment | None) -> None:
        why = text(record, "acl") or text(record, "limit") or text(record, "problem") or ""
        self._refuse(text(record, "client_ip"), (REFUSALS[record["event"]], why), 1, (when, when))

    def _refused_more(self, record: Record, when: Moment | None) -> None:
        count = whole(record, "count") or 0
        first, last = moment(record.get("first_at")), moment(record.get("last_at"))
        span = when if first is None else first, last
        self.summed_up += count
        self._refuse(text(record, "client_ip"), (text(record, "refused") or "", ""), count, span)

    def _refuse(
        self, client: str | None, cause: tuple[str, str], count: int, span: tuple[Moment | None, Moment | None]
    ) -> None:
        kind, first = cause[0], span[0]
        if kind in self.outcomes:
            self.outcomes[kind] += count
        self.refused.add(client, (count, *(count if kind == one else 0 for one in KINDS)), *span)
        self.causes.add(cause, (count,), *span)
        if first is not None:
            self.timeline.add(first, refused=count)

    # -- sessions --------------------------------------------------------------------------------------------

    def _accepted(self, record: Record, when: Moment | None) -> None:
        serial = whole(record, "session")
        if serial is None or not self.accepted.add(serial) or serial in self.closed:
            return
        if when is not None:
            self.timeline.add(when, begun=1)
        if len(self.open) < self._open_limit:
            self.open[serial] = Session(serial, *_who(record), when)

    def _closed(self, record: Record, when: Moment | None) -> None:
        serial = whole(record, "session")
        if serial is None:
            self.nameless += 1
        elif self.closed.add(serial):
            self.open.pop(serial, None)
        else:
            self.closed_twice += 1
        duration = round((number(record, "duration_ms") or 0) * 1000)
        session = Session(
            serial,
            *_who(record),
            begun=None if when is None else bounded(when - duration),
            ended=when,
            duration=duration,
            from_client=whole(record, "bytes_from_client") or 0,
            from_target=whole(record, "bytes_from_target") or 0,
            reason=text(record, "reason") or _UNKNOWN,
            error=text(record, "error"),
            error_from=text(record, "error_from"),
            rule=text(record, "acl"),
        )
        self._count(session)
        if session.reason in ODD or text(record, "level") == "error":
            self.odd_count += 1
            if len(self.odd) < _BEST:
                self.odd.append(session)

    def _count(self, session: Session) -> None:
        begun, ended, moved = session.begun, session.ended, session.from_client + session.from_target
        failed = int(session.error is not None)
        counts = (1, session.from_client, session.from_target, session.duration, failed)
        self.reasons.add(session.reason or _UNKNOWN, counts, ended)
        self.clients.add(session.client_ip, counts, begun, ended)
        self.targets.add(session.target_ip, counts, begun, ended)
        self.rules.add(session.rule or "", counts, begun, ended)
        if session.error is not None:
            self.errors.add((session.error, session.error_from or ""), counts, ended)
        if begun is not None and ended is not None:
            if session.serial is None or session.serial not in self.accepted:
                self.timeline.add(begun, begun=1)
            self.timeline.add(ended, ended=1, moved=moved)
        self.longest.add(session.duration, session)
        self.largest.add(moved, session)


def _who(record: Record) -> tuple[str, int | None, str]:
    client, target = (text(record, name) or _UNKNOWN for name in ("client_ip", "target_ip"))
    return client, whole(record, "client_port"), target
