"""A relay that nobody uses can stop by itself."""

from collections.abc import Callable
from functools import partial

from mprelay.core.ledger import Ledger
from mprelay.core.protocol import HEADER_TIME
from mprelay.supervisor.loop import Loop


class Idleness:
    """Calls `on_idle` when there has been no session for `seconds`. Refused connections are none.

    Connections whose PROXY header is awaited then may still become some. Their time is waited for, once.
    """

    def __init__(self, seconds: float, loop: Loop, ledger: Ledger, on_idle: Callable[[], None]) -> None:
        self._seconds = seconds
        self._loop = loop
        self._ledger = ledger
        self._on_idle = on_idle
        self._alarm = loop.unset_alarm(partial(self._ring, last=False))
        self._last = loop.unset_alarm(partial(self._ring, last=True))
        self._admitted = -1  # sessions so far, when it was last seen that none is there

    def stop(self) -> None:
        """Wait no longer."""
        self._alarm.cancel()
        self._last.cancel()

    def look(self) -> None:
        """See whether there are sessions. Call it in each turn in which the relay serves."""
        if self._ledger.active:
            self.stop()
            self._admitted = -1
        elif self._admitted != self._ledger.admitted:
            self._admitted = self._ledger.admitted
            self._last.cancel()
            self._alarm.move(self._loop.now + self._seconds)

    def _ring(self, *, last: bool) -> None:
        if self._ledger.reserved and not last:
            self._last.move(self._loop.now + HEADER_TIME)
        else:
            self._on_idle()
