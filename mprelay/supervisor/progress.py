"""The records ``session.progress``: how the sessions get on that have moved bytes, once an interval.

    the workers' reports ──▶ book ─▶ moved ── each interval, a part in each turn ──▶ records

Rules:

1. A session that has moved nothing costs nothing, and a relay in which nothing moves is not woken up.
2. In one turn only so many records are written as take a millisecond or two.
3. They never take the room that other records need: they wait while the backlog is half full, as the sums of
   refusals do. The figures are those of the moment of writing.
"""

from math import floor
from typing import Final

from mprelay.core.moved import Moved
from mprelay.core.phases import Phase, RunState
from mprelay.records.writer import HIGH, Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.loop import Loop

_ROOM: Final = HIGH // 2  # bytes of waiting records, above which none of these is added
_IN_TURN: Final = 100  # records
_RETRY_PAUSE: Final = 1.0  # seconds until room is looked for again
_LIVELY: Final = {Phase.ACTIVE, Phase.DRAINING}


class SessionProgress:
    """Writes ``session.progress`` of the sessions that moved bytes, each `interval` seconds."""

    def __init__(self, interval: float, loop: Loop, state: RunState, *, writer: Writer, book: Book) -> None:
        self._interval = interval
        self._loop = loop
        self._state = state
        self._writer = writer
        self._book = book
        self._moved = book.moved = Moved()
        self._alarm = loop.unset_alarm(self._write)
        self._begun_at = loop.now

    def look(self) -> None:
        """See whether something is to be written at the end of this interval. Call it after each report."""
        if self._moved and not self._alarm.pending and self._state.phase in _LIVELY:
            past = floor((self._loop.now - self._begun_at) / self._interval)
            self._alarm.move(self._begun_at + (past + 1) * self._interval)

    def _write(self) -> None:
        """Write some of the records that are due, if there is room for them."""
        if not self._moved.due:
            self._moved.begin()
        room = self._writer.backlog <= _ROOM
        if room:
            for session, moved_at in self._moved.take(_IN_TURN):
                self._book.progressed(session, self._loop.wall, self._loop.now - moved_at)
        if self._moved.due:
            self._alarm.move(self._loop.now + (0.0 if room else min(self._interval, _RETRY_PAUSE)))
        else:
            self.look()
