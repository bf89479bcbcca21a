"""The clock that counts sleep, and the timer on it, on Linux.

The only file that knows CLOCK_BOOTTIME and timerfd. A kernel, a C library or a sandbox may lack either.
"""

import os
import sys
import time
from contextlib import suppress
from typing import Final

assert sys.platform == "linux"  # noqa: S101 - for mypy, which checks the other platforms too

_TFD_TIMER_ABSTIME: Final = 1  # linux/timerfd.h
_TIMER_DELAY: Final = 1000
"""Nanoseconds: :func:`now` is rounded to a float, and must not be below the moment when the timer fires."""


def _boot_clock() -> int | None:
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        return None
    try:
        time.clock_gettime(clock)
    except OSError:  # a kernel without it, or a sandbox
        return None
    return clock


_CLOCK: Final = _boot_clock()


def now() -> float:
    """Seconds since the machine was started, including its sleep. Parent and child share this clock."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def timer(at: float, *, wall: bool = False) -> int:
    """Make a timer that fires at `at`, or at once if that has passed; -1 if the system has none.

    On the `wall` clock it follows when that clock is set (clock_settime(2)).
    """
    clock = time.CLOCK_REALTIME if wall else _CLOCK
    if clock is None:
        return -1
    moment = int(at * 1e9) + _TIMER_DELAY
    made: int = -1
    with suppress(ImportError, AttributeError, OSError):  # a Python, a C library or a kernel without it
        if sys.version_info >= (3, 13):
            made = os.timerfd_create(clock, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
            os.timerfd_settime_ns(made, flags=os.TFD_TIMER_ABSTIME, initial=moment)
        else:
            import ctypes  # noqa: PLC0415 - only needed with an expiry

            library = ctypes.CDLL(None)
            made = library.timerfd_create(clock, os.O_NONBLOCK | os.O_CLOEXEC)  # the same as TFD_… (timerfd.h)
            if made >= 0:
                value = (ctypes.c_long * 4)(0, 0, *divmod(moment, 10**9))  # struct itimerspec: interval, value
                if library.timerfd_settime(made, _TFD_TIMER_ABSTIME, value, None):
                    raise OSError
        return made
    if made >= 0:
        os.close(made)
    return -1
