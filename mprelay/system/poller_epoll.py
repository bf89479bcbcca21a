"""The Poller of Linux: one persistent epoll (epoll(7)). The only file that knows epoll."""

import select
import sys
from typing import Final

if sys.platform != "linux":
    raise ImportError("epoll is Linux's")  # for mypy too: it checks nothing below for other platforms

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
URGENT: Final = select.EPOLLPRI
END: Final = select.EPOLLRDHUP  # the peer will send no more
HANGUP: Final = select.EPOLLHUP
ERROR: Final = select.EPOLLERR
EDGE: Final = select.EPOLLET

TELLS_EDGES: Final[bool] = True
"""Whether a descriptor added with EDGE is watched for what is new. It is, and for END, HANGUP and ERROR too."""

_TIMEOUT_LIMIT: Final = 86400.0  # seconds; epoll_wait(2) takes an int of milliseconds, less than 25 days


def missing() -> str | None:
    """Name what this platform lacks; None if it lacks nothing."""
    return None if hasattr(select, "epoll") else "epoll"  # a Python may be built without it


class Poller:
    """A set of descriptors, waited for together. Without EDGE readiness is level-triggered."""

    EVENTS_AT_ONCE: Final = 256
    """Events that one :meth:`wait` returns at most. CPython allocates 12 bytes for each at every call."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.add = self._epoll.register
        """add(fd, mask): OSError if the kernel cannot watch it (ENOMEM, ENOSPC, EPERM)."""
        self.change = self._epoll.modify
        self.remove = self._epoll.unregister
        self.fileno = self._epoll.fileno
        """Returns the descriptor that is readable while anything is ready: a poller can watch another."""

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds (None: for ever); return (fd, mask) of what is ready.

        The time is rounded up to milliseconds, so a deadline has passed when the call returns for it.
        """
        if timeout is None:
            left = -1.0
        elif timeout < _TIMEOUT_LIMIT:
            left = max(0.0, timeout)
        else:
            left = _TIMEOUT_LIMIT
        try:
            return self._epoll.poll(left, self.EVENTS_AT_ONCE)
        except MemoryError:
            # A single event needs no extra memory. If it was missing for the list, after epoll_wait(2), what is
            # level-triggered is told again. Edges would be lost: a worker keeps memory free for that list.
            return self._epoll.poll(left, 1)

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
