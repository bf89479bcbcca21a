"""Which sessions have moved bytes since that was last told of them.

Rules:

1. A session is noted once, with the moment of its last move.
2. :meth:`Moved.begin` makes all that are noted due. A session that moves after it was told of is due with the
   next call, so that none is told of twice in between.
3. No clock: moments are arguments, in seconds on the monotonic clock.
"""

from collections.abc import Iterator

from mprelay.core.ledger import Session


class Moved:
    """Sessions that moved bytes, and when."""

    def __init__(self) -> None:
        self._noted: dict[Session, float] = {}
        self._due: dict[Session, float] = {}

    def __bool__(self) -> bool:
        """Whether there is one that has not been told of."""
        return bool(self._noted or self._due)

    @property
    def due(self) -> bool:
        """Whether one is left of those that :meth:`begin` made due."""
        return bool(self._due)

    def note(self, session: Session, now: float) -> None:
        """Note that bytes of a session moved."""
        if session in self._due:
            self._due[session] = now
        else:
            self._noted[session] = now

    def forget(self, session: Session) -> None:
        """Forget a session that has ended."""
        self._noted.pop(session, None)
        self._due.pop(session, None)

    def begin(self) -> None:
        """Make all due that are noted."""
        self._due |= self._noted
        self._noted = {}

    def take(self, most: int) -> Iterator[tuple[Session, float]]:
        """Tell of up to `most` sessions that are due, and when they moved last. Those are noted no more."""
        for session in list(self._due)[:most]:
            yield session, self._due.pop(session)
