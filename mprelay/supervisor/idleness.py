"""A relay that nobody uses can stop by itself."""

from collections.abc import Callable

from mprelay.core.ledger import Ledger
from mprelay.supervisor.loop import Loop


class Idleness:
    """Calls `on_idle` when there has been no session for `seconds`. Refused connections are none."""

    def __init__(self, seconds: float, loop: Loop, ledger: Ledger, on_idle: Callable[[], None]) -> None:
        self._seconds = seconds
        self._loop = loop
        self._ledger = ledger
        self._alarm = loop.unset_alarm(on_idle)
        self._admitted = -1  # sessions so far, when it was last seen that none is there

    def stop(self) -> None:
        """Wait no longer."""
        self._alarm.cancel()

    def look(self) -> None:
        """See whether there are sessions. Call it in each turn in which the relay serves."""
        if self._ledger.active:
            self._alarm.cancel()
            self._admitted = -1
        elif self._admitted != self._ledger.admitted:
            self._admitted = self._ledger.admitted
            self._alarm.move(self._loop.now + self._seconds)
