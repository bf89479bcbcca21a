"""When something of a worker's sessions is due. No clock and no socket: the moments come from outside.

Rules:

1. Work is proportional to what happened, never to the number of sessions. Connect and idle timeouts are two
   queues in the order of their deadlines. A session that moved bytes goes to the end of the idle queue, so its
   head is always the session that has been quiet longest. There is no scan and no stale entry.
2. `look_at` is never later than the nearest of all deadlines, and the queues are looked at only then. It may be
   earlier, because a session that moves bytes leaves it as it is.
3. Sessions that linger, or have another address of the target to try, are few and short-lived. Each has a look of
   its own, in a heap.
4. A timeout is believed only when every event that was ready as it fell due has been seen (:meth:`all_seen`).
"""

from collections import OrderedDict
from heapq import heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

PROGRESS_INTERVAL: Final = 1.0
"""Seconds: the greatest age of the last known byte counts of a session whose worker is lost."""


class Timed(Protocol):
    """A session, as its deadlines know it. Moments are seconds on the monotonic clock."""

    admitted_at: float
    active_at: float
    look: int  # the number of its next look; 0: it has none


Session = TypeVar("Session", bound=Timed)


class Deadlines(Generic[Session]):
    """The deadlines of one worker."""

    def __init__(self, connect_timeout: float, idle_timeout: float, session_timeout: float | None = None) -> None:
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._session_timeout = session_timeout
        self._living: OrderedDict[Session, None] = OrderedDict()  # if there is a session timeout: oldest first
        self.look_at: float | None = None
        """When to see what is due; None: nothing can be."""
        self.expiry: float | None = None
        """When to see whether the relay has expired; None: it never will, or has."""
        self.progress_at: float | None = None
        """When the byte counts are to be reported; None: none has changed."""
        self.header_at: float | None = None
        """When the PROXY header that has been awaited longest is overdue; None: none is awaited."""
        self.connecting: OrderedDict[Session, None] = OrderedDict()
        self.idle: OrderedDict[Session, None] = OrderedDict()
        """The connected sessions, the one that has been quiet longest first. Whoever sets a session's `active_at`
        moves it to the end."""
        self._looked_at: dict[int, Session] = {}  # by the number of the next look
        self._looks: list[tuple[float, int]] = []  # a heap: moments, and numbers of looks
        self._last_look = 0
        self._unseen: int | None = None
        """Events to be seen before timeouts are believed; None: no timeout is held back."""

    def look_by(self, at: float) -> None:
        """See what is due at `at`, if not earlier."""
        if self.look_at is None or at < self.look_at:
            self.look_at = at

    def find_nearest(self) -> None:
        """Set `look_at` to the nearest deadline there is."""
        self.look_at = self.expiry
        if self.connecting:
            self.look_by(next(iter(self.connecting)).admitted_at + self._connect_timeout)
        if self.idle:
            self.look_by(next(iter(self.idle)).active_at + self._idle_timeout)
        if self._session_timeout is not None and self._living:
            self.look_by(next(iter(self._living)).admitted_at + self._session_timeout)
        if self._looks:
            self.look_by(self._looks[0][0])
        if self.progress_at is not None:
            self.look_by(self.progress_at)
        if self.header_at is not None:
            self.look_by(self.header_at)

    # -- what sets a deadline --------------------------------------------------------------------------------

    def expire_at(self, at: float | None) -> None:
        """Set when to see whether the relay has expired, or take it back."""
        self.expiry = at
        self.find_nearest()

    def connect(self, session: Session) -> None:
        """Begin the connect timeout and the session timeout, which count from the admission."""
        self.connecting[session] = None
        self.look_by(session.admitted_at + self._connect_timeout)
        if self._session_timeout is not None:
            self._living[session] = None
            self.look_by(session.admitted_at + self._session_timeout)

    def connected(self, session: Session, now: float) -> None:
        """Begin the idle timeout in the place of the connect timeout."""
        del self.connecting[session]
        if session.look:
            self.look_no_more(session)
        self.idle[session] = None
        session.active_at = now
        self.look_by(now + self._idle_timeout)

    def progress(self, now: float) -> None:
        """Byte counts have changed."""
        if self.progress_at is None:
            self.progress_at = now + PROGRESS_INTERVAL
            self.look_by(self.progress_at)

    def look_later(self, session: Session, at: float) -> None:
        """Look at a session when it is `at`, and not at the moment that was set for it before."""
        self._last_look += 1
        self._looked_at.pop(session.look, None)
        session.look = self._last_look
        self._looked_at[session.look] = session
        heappush(self._looks, (at, session.look))
        self.look_by(at)

    def look_no_more(self, session: Session) -> None:
        """Take back the moment that was set for a session."""
        self._looked_at.pop(session.look, None)
        session.look = 0

    def forget(self, session: Session) -> None:
        """Forget a session that has ended."""
        self.connecting.pop(session, None)
        self.idle.pop(session, None)
        if self._session_timeout is not None:
            self._living.pop(session, None)
        if session.look:
            self.look_no_more(session)

    # -- what is due -----------------------------------------------------------------------------------------

    def connect_timed_out(self, now: float) -> Session | None:
        """Return a session whose connect timeout is over. It must end before the next call."""
        for session in self.connecting:
            return session if session.admitted_at + self._connect_timeout <= now else None
        return None

    def idle_timed_out(self, now: float) -> Session | None:
        """Return a session whose idle timeout is over. It must end, or be active, before the next call."""
        for session in self.idle:
            return session if session.active_at + self._idle_timeout <= now else None
        return None

    def session_timed_out(self, now: float) -> Session | None:
        """Return a session whose session timeout is over. It must end before the next call."""
        if self._session_timeout is not None:
            for session in self._living:
                return session if session.admitted_at + self._session_timeout <= now else None
        return None

    def look_due(self, now: float) -> Session | None:
        """Return a session that is to be looked at. Each look is told once."""
        while self._looks and self._looks[0][0] <= now:
            if (session := self._looked_at.pop(heappop(self._looks)[1], None)) is not None:
                return session
        return None

    def all_seen(self, seen: int, most: int, watched: int) -> bool:
        """Tell whether every event has been seen that was ready when a timeout fell due.

        `seen` events came in this turn, of at most `most`, from `watched` descriptors. A session is not idle, nor
        late, while its event waits to be seen. The kernel's list of ready descriptors is first in, first out. So
        after as many events as there are descriptors, nothing is left of what was ready then, however much is
        ready now.
        """
        if seen < most:
            self._unseen = None
            return True
        if self._unseen is None:
            self._unseen = watched
        self._unseen -= seen
        if self._unseen > 0:
            return False
        self._unseen = None
        return True
