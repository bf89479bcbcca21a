"""The limit of open files, on POSIX. The only file that knows RLIMIT_NOFILE (getrlimit(2))."""

import sys
from typing import Final

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

SESSIONS_PER_WORKER: Final[int | None] = None
"""Sessions that one worker can hold at most; None: as many as it has descriptors for."""

PIPES: Final = 64
"""Pipes of a worker, at most, for flows that keep filling their buffer."""


def raise_limit(wanted: int, needed: int) -> int | None:
    """Raise the soft limit to `wanted`, or as far as the hard limit allows; return what then holds.

    None: there is no limit. If the hard limit is below `needed`, nothing is changed, and it is returned. Raises
    OSError or ValueError if the system refuses what is needed: it is above fs.nr_open, or this is a sandbox. A
    sandbox may also refuse to show the limit, which then counts as none.
    """
    import resource  # noqa: PLC0415 - a Python may be built without it

    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return None
    if soft == resource.RLIM_INFINITY:
        return None
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit < needed:
        return limit
    if limit <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):
        if soft < needed:
            raise
        return soft
    return limit
