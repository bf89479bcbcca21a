"""A deadline that comes in time even if the machine sleeps before it: when the relay closes itself.

CLOCK_MONOTONIC stands still while the machine sleeps, and so does the timeout of epoll_wait(2). CLOCK_BOOTTIME
goes on. Neither can be set (clock_gettime(2)). A timer on CLOCK_BOOTTIME makes a descriptor readable
(timerfd_create(2)).

Variants: :mod:`mprelay.system.boottime_linux`, :mod:`mprelay.system.boottime_windows`. Without that clock the
monotonic one takes its place. Without that timer a loop wakes by its own timeout (:meth:`Deadline.ask_at`), late
by as long as the machine has slept.

A deadline may also be a moment of the wall clock (CLOCK_REALTIME), which can be set. Its timer follows that.
Whoever wakes for another reason asks whether it has come. Without a timer that clock is looked at every second.
"""

import os
import sys
import time
from typing import Final

if sys.platform == "win32":
    from mprelay.system.boottime_windows import now, timer
else:
    from mprelay.system.boottime_linux import now, timer

__all__ = ["Deadline", "now"]


_LOOK_INTERVAL: Final = 1.0  # seconds until the wall clock is looked at again, where there is no timer on it


class Deadline:
    """The moment `at`, and a descriptor that is readable from then on.

    `at` is in seconds as :func:`now` counts them or, with `wall`, Unix time.
    """

    def __init__(self, at: float, *, wall: bool = False) -> None:
        self.at = at
        self.wall = wall
        self._now = time.time if wall else now
        self._timer = timer(at, wall=wall)

    def ask_at(self) -> float:
        """Return the moment on the monotonic clock at which to ask whether it has come, if nothing wakes before.

        If the machine does not sleep, and nobody sets the wall clock, it has come then.
        """
        ahead = self.at - self._now()
        if self.wall and self._timer < 0:
            ahead = min(ahead, _LOOK_INTERVAL)
        # The monotonic clock is read last: time between the two readings makes the sum later, never earlier.
        return ahead + time.monotonic()

    def fileno(self) -> int:
        """Return the descriptor; -1 if there is no timer. It stays readable, so watch it edge-triggered."""
        return self._timer

    def late(self) -> float:
        """Seconds that have passed since the moment; below 0 before it."""
        return self._now() - self.at

    def reached(self) -> bool:
        """Tell whether the moment has come."""
        return self._now() >= self.at

    def close(self) -> None:
        """Close the descriptor."""
        if self._timer >= 0:
            os.close(self._timer)
            self._timer = -1
