"""A deadline that comes in time even if the machine sleeps before it: the absolute timeout.

CLOCK_MONOTONIC stands still while the machine sleeps, and so does the timeout of epoll_wait(2). CLOCK_BOOTTIME
goes on. Neither can be set (clock_gettime(2)). A timer on CLOCK_BOOTTIME makes a descriptor readable
(timerfd_create(2)).

The only file that knows CLOCK_BOOTTIME and timerfd. Without that clock the monotonic one takes its place, which
on Windows counts sleep, too (QueryPerformanceCounter). Without that timer a loop wakes by its own timeout
(:attr:`Deadline.monotonic`), late by as long as the machine has slept.
"""

import os
import sys
import time
from contextlib import suppress
from typing import Final

_TFD_TIMER_ABSTIME: Final = 1  # linux/timerfd.h
_TIMER_DELAY: Final = 1000
"""Nanoseconds: :func:`now` is rounded to a float, and must not be below the moment when the timer fires."""


def _boot_clock() -> int | None:
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if sys.platform == "win32" or clock is None:
        return None
    try:
        time.clock_gettime(clock)
    except OSError:  # a kernel without it, or a sandbox
        return None
    return clock


_CLOCK: Final = _boot_clock()


def now() -> float:
    """Seconds since the machine was started, including its sleep. Parent and child share this clock."""
    if sys.platform == "win32" or _CLOCK is None:
        return time.monotonic()
    return time.clock_gettime(_CLOCK)


class Deadline:
    """The moment `at`, in seconds as :func:`now` counts them, and a descriptor that is readable from then on."""

    def __init__(self, at: float) -> None:
        self.at = at
        ahead = at - now()
        # The monotonic clock is read last: time between the two readings makes the sum later, never earlier.
        self.monotonic = ahead + time.monotonic()
        """The moment on the monotonic clock if the machine does not sleep before. Never earlier than `at`."""
        self._timer = _timer(at)

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


def _timer(at: float) -> int:
    """Make a timer that fires at `at`, or at once if that has passed; -1 if the system has none."""
    if sys.platform != "linux" or _CLOCK is None:
        return -1
    moment = int(at * 1e9) + _TIMER_DELAY
    timer: int = -1
    with suppress(ImportError, AttributeError, OSError):  # a Python, a C library or a kernel without it
        if sys.version_info >= (3, 13):
            timer = os.timerfd_create(_CLOCK, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
            os.timerfd_settime_ns(timer, flags=os.TFD_TIMER_ABSTIME, initial=moment)
        else:
            import ctypes  # noqa: PLC0415 - only needed with an absolute timeout

            library = ctypes.CDLL(None)
            timer = library.timerfd_create(_CLOCK, os.O_NONBLOCK | os.O_CLOEXEC)  # the same as TFD_… (timerfd.h)
            if timer >= 0:
                value = (ctypes.c_long * 4)(0, 0, *divmod(moment, 10**9))  # struct itimerspec: interval, value
                if library.timerfd_settime(timer, _TFD_TIMER_ABSTIME, value, None):
                    raise OSError
        return timer
    if timer >= 0:
        os.close(timer)
    return -1
