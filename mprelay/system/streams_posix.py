"""What :mod:`mprelay.system.streams` does in its own way on POSIX systems."""

import os
import select
import sys
from collections.abc import Callable

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too


def are_one(one: int, other: int) -> bool:
    """Tell whether two descriptors are one stream, as by ``2>&1``."""
    return os.path.samestat(os.fstat(one), os.fstat(other))


def unless_full(descriptor: int, write: Callable[[], None]) -> None:
    """Call `write`, which writes to the descriptor, unless it would have to wait."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if poll.poll(0):
        write()


def shows_colours(descriptor: int) -> bool:
    """Tell whether a descriptor is a terminal that shows colours: any but one that says that it is dumb."""
    return os.isatty(descriptor) and os.environ.get("TERM") != "dumb"
