"""A deadline that comes in time even if the machine sleeps before it: the absolute timeout.

CLOCK_MONOTONIC stands still while the machine sleeps, and so does the timeout of epoll_wait(2). CLOCK_BOOTTIME
goes on. Neither can be set (clock_gettime(2)). A timer on CLOCK_BOOTTIME makes a descriptor readable
(timerfd_create(2)).

Variants: :mod:`mprelay.system.boottime_linux`, :mod:`mprelay.system.boottime_windows`. Without that clock the
monotonic one takes its place. Without that timer a loop wakes by its own timeout (:attr:`Deadline.monotonic`),
late by as long as the machine has slept.
"""

import os
import sys
import time

if sys.platform == "win32":
    from mprelay.system.boottime_windows import now, timer
else:
    from mprelay.system.boottime_linux import now, timer

__all__ = ["Deadline", "now"]


class Deadline:
    """The moment `at`, in seconds as :func:`now` counts them, and a descriptor that is readable from then on."""

    def __init__(self, at: float) -> None:
        self.at = at
        ahead = at - now()
        # The monotonic clock is read last: time between the two readings makes the sum later, never earlier.
        self.monotonic = ahead + time.monotonic()
        """The moment on the monotonic clock if the machine does not sleep before. Never earlier than `at`."""
        self._timer = timer(at)

    def fileno(self) -> int:
        """Return the descriptor; -1 if there is no timer. It stays readable, so watch it edge-triggered."""
        return self._timer

    def late(self) -> float:
        """Seconds that have passed since the moment; below 0 before it."""
        return now() - self.at

    def reached(self) -> bool:
        """Tell whether the moment has come."""
        return now() >= self.at

    def close(self) -> None:
        """Close the descriptor."""
        if self._timer >= 0:
            os.close(self._timer)
            self._timer = -1
