"""What the service manager is told, if there is one: when the relay is ready, what it does, and that it lives.

    run ──▶ look, in each turn ──▶ READY, STATUS, STOPPING ─┐
            reloading ──────────▶ RELOADING, then READY ────┼──▶ notifier
            alarm ──────────────▶ WATCHDOG ─────────────────┘

Rules:

1. WATCHDOG comes from the loop and from nowhere else: a loop that is stuck says nothing.
2. STATUS follows the number of sessions, every few seconds at most, and only while that changes. So an idle relay
   is woken up for nothing but the watchdog.
3. What the service manager has no room for is told again, in its order, except for STATUS and WATCHDOG: others
   follow those. A manager that misses READY ends the relay.
4. A relay that drains may take its drain timeout, whatever the service manager's own limit is. A relay that ends
   is no longer watched, because it may have to wait for the reader of its records.
"""

import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from mprelay.core.ledger import Ledger
from mprelay.core.phases import Phase, RunState
from mprelay.supervisor.loop import Loop
from mprelay.system.notify import Notifier

_STATUS_PAUSE: Final = 5.0  # seconds between two of them
_AGAIN_PAUSE: Final = 0.2  # seconds until what found no room is told again
_UNTOLD: Final = 8  # messages that are told again, at most: the last ones
_END_TIME: Final = 5.0  # seconds that the end may take after the drain timeout
_MICROSECONDS: Final = 1_000_000


class Service:
    """Tells the service manager. `reloading` tells whether the rules are being read."""

    def __init__(
        self,
        notifier: Notifier,
        loop: Loop,
        state: RunState,
        ledger: Ledger,
        *,
        drain_timeout: float,
        reloading: Callable[[], bool],
    ) -> None:
        self._notifier = notifier
        self._loop = loop
        self._state = state
        self._ledger = ledger
        self._drain_timeout = drain_timeout
        self._reads = reloading
        self._told: Phase | None = None
        self._reloading = False
        self._untold: deque[tuple[str, ...]] = deque(maxlen=_UNTOLD)
        self._tell_again = loop.unset_alarm(self._tell_untold)
        self._status = ""
        self._status_at = -inf
        self._next_status = loop.unset_alarm(self._tell_status)
        self._ping_alarm = loop.unset_alarm(self._ping)

    def look(self) -> None:
        """Tell what has changed. Call it in each turn, and once after the last."""
        phase = self._state.phase
        if phase is Phase.OVER:
            phase = Phase.ENDING
        if phase is not self._told:
            if self._told is None:
                self._ping()
            self._told = phase
            self._enter(phase)
        elif self._reloading and not self._reads():
            self._reloading = False
            if phase is Phase.ACTIVE:
                self._tell("READY=1")
        if not self._next_status.pending and self._status != self._describe():
            self._next_status.move(self._status_at + _STATUS_PAUSE)

    def end(self) -> None:
        """Tell what has changed, and then nothing more."""
        self.look()
        self._tell_untold()
        self._notifier.close()

    def reload(self) -> None:
        """Tell that the rules are being read again. Call it when that begins, whatever will come of it."""
        if self._state.phase is Phase.ACTIVE:
            self._reloading = True
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def _tell(self, *assignments: str) -> None:
        """Tell what must not get lost."""
        self._untold.append(assignments)
        self._tell_untold()

    def _tell_untold(self) -> None:
        while self._untold and self._notifier.send(*self._untold[0]):
            self._untold.popleft()
        if self._untold:
            self._tell_again.move(self._loop.now + _AGAIN_PAUSE)

    def _enter(self, phase: Phase) -> None:
        """Tell that the relay has entered a phase."""
        said: tuple[str, ...] = ()
        match phase:
            case Phase.ACTIVE:
                said = ("READY=1",)
            case Phase.DRAINING:
                left = int((self._drain_timeout + _END_TIME) * _MICROSECONDS)
                said = ("STOPPING=1", f"EXTEND_TIMEOUT_USEC={left}")
            case Phase.ENDING:
                said = ("STOPPING=1", "WATCHDOG_USEC=0")
        self._tell_status(*said)

    def _describe(self) -> str:
        active, limit = self._ledger.active, self._ledger.limit
        match self._state.phase:
            case Phase.STARTING:
                return "starting"
            case Phase.ACTIVE:
                return f"{active} of {limit} sessions"
            case Phase.DRAINING:
                return f"draining, {active} sessions left"
            case _:
                return "ending"

    def _tell_status(self, *said: str) -> None:
        self._status = self._describe()
        self._status_at = self._loop.now
        status = f"STATUS={self._status}"
        if said:
            self._tell(*said, status)
        else:
            self._notifier.send(status)

    def _ping(self) -> None:
        if self._notifier.watchdog_s is not None:
            self._notifier.send("WATCHDOG=1")
            self._ping_alarm.move(self._loop.now + self._notifier.watchdog_s / 2)
