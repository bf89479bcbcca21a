"""Checks that this system provides what the relay needs, made before anything is started."""

import time
from typing import Final

from mprelay.records import catalogue
from mprelay.supervisor.failure import Failure
from mprelay.system import passing, poller, spawning
from mprelay.system.errnos import errno_name

_COARSEST_CLOCK: Final = 0.001  # seconds of resolution that suffice for timeouts of whole seconds


def check_clock() -> None:
    """Raise Failure (message 1) if the monotonic clock is too coarse for the timeouts."""
    try:
        resolution = time.get_clock_info("monotonic").resolution
    except OSError:  # a sandbox may not tell it
        return
    if resolution > _COARSEST_CLOCK:
        detail = f"the clock counts in steps of {resolution:g} s; on Windows, Python 3.13 has a finer one"
        raise Failure(catalogue.TIMER_UNAVAILABLE, resolution_s=resolution, detail=detail)


def check_platform() -> None:
    """Raise Failure (messages 9 and 10) if something is missing, or does not work here."""
    for lack in (poller.missing(), passing.missing()):
        if lack is not None:
            raise Failure(catalogue.PLATFORM_UNSUPPORTED, detail=f"this system has no {lack}")
    try:
        spawning.probe()
    except OSError as failure:
        raise init_failed("waitpid", failure.errno, failure.strerror) from failure
    try:
        passing.probe()
    except passing.NoSockets as failure:
        error = errno_name(failure.errno)
        raise Failure(catalogue.PLATFORM_INIT_FAILED, error=error, detail="socketpair") from failure
    except passing.NoPassing as failure:
        raise Failure(catalogue.PLATFORM_UNSUPPORTED, detail=str(failure)) from failure


def init_failed(step: str, number: int | None, text: str | None) -> Failure:
    """Return the failure of one step of the start (message 9)."""
    return Failure(catalogue.PLATFORM_INIT_FAILED, error=errno_name(number), detail=f"{step}: {text}")
