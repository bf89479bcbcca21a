"""The Poller of a system without epoll: select(2), level-triggered. The only file that knows select(2).

Rules:

1. Each :meth:`Poller.wait` tells readiness again, as long as it lasts. There are no edges: a descriptor added
   with EDGE is known but not watched until :meth:`Poller.change` says for what. END, HANGUP and URGENT are never
   told. An end of data makes a descriptor readable. A reset makes it readable and writable.
2. ERROR is watched for only if asked for, and is told together with WRITE. It is the third set of select(2), and
   means: ask SO_ERROR. Windows tells of a failed connect in that set only. POSIX tells of it by WRITE, and puts
   TCP's urgent data into that set, which must not wake whoever waits for room.
3. The sets are kept from wait to wait. :meth:`Poller.add` refuses what select(2) would refuse, so no wait fails.
   A descriptor must be removed before it is closed, because nothing else takes it out of the sets.
"""

import errno
import select
import sys
import time
from math import ceil, inf
from typing import Final

READ: Final = 0x1  # the numbers of poll(2)
URGENT: Final = 0x2
WRITE: Final = 0x4
ERROR: Final = 0x8
HANGUP: Final = 0x10
END: Final = 0x2000
EDGE: Final = 0x80000000

TELLS_EDGES: Final[bool] = False
"""Whether a descriptor added with EDGE is watched for what is new. It is not watched at all here."""

if sys.platform == "win32":
    _SET_SIZE: Final = 512  # CPython's FD_SETSIZE there: a set is a list of sockets
    _DESCRIPTORS_END: Final = inf
else:
    _SET_SIZE: Final = 1024  # FD_SETSIZE: a set has one bit for each descriptor (select(2))
    _DESCRIPTORS_END: Final = 1024

_WAIT_LIMIT: Final = 86400.0  # seconds of one system call; a longer wait makes several


def missing() -> str | None:
    """Name what this platform lacks; None if it lacks nothing."""
    return None


class Poller:
    """A set of descriptors, waited for together. On Windows only sockets can be waited for."""

    EVENTS_AT_ONCE: Final = _SET_SIZE
    """Events that one :meth:`wait` returns at most. It returns all that there are."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._exceptional: set[int] = set()

    def add(self, fd: int, mask: int) -> None:
        """Watch a descriptor. OSError if select(2) cannot watch it, or has no room for it (EMFILE)."""
        if fd >= _DESCRIPTORS_END or (fd not in self._known and len(self._known) >= _SET_SIZE):
            raise OSError(errno.EMFILE, f"select() takes {_SET_SIZE} descriptors at most")
        if not mask & EDGE:
            select.select([fd], [], [], 0)
        self._known.add(fd)
        self._sort(fd, 0 if mask & EDGE else mask)

    def change(self, fd: int, mask: int) -> None:
        """Watch a known descriptor for `mask` instead. OSError if it is not known."""
        if fd not in self._known:
            raise OSError(errno.ENOENT, f"descriptor {fd} is not watched")
        self._sort(fd, mask)

    def remove(self, fd: int) -> None:
        """Watch a descriptor no longer. OSError if it is not known."""
        self.change(fd, 0)
        self._known.remove(fd)

    def _sort(self, fd: int, mask: int) -> None:
        """Put a descriptor into the sets that belong to `mask`, and into no other."""
        for wanted, members in ((READ, self._readers), (WRITE, self._writers), (ERROR, self._exceptional)):
            if mask & wanted:
                members.add(fd)
            else:
                members.discard(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds (None: for ever); return (fd, mask) of what is ready.

        A deadline has passed when the call returns for it. The time is rounded up to milliseconds, and where the
        system counts it in ticks, and comes back too early, the wait goes on.
        """
        until = inf if timeout is None else time.monotonic() + timeout
        left = _WAIT_LIMIT if timeout is None else timeout
        while not (ready := self._ready_within(ceil(min(max(0.0, left), _WAIT_LIMIT) * 1000) / 1000)):
            left = until - time.monotonic()
            if left <= 0:
                break
        return ready

    def _ready_within(self, seconds: float) -> list[tuple[int, int]]:
        if not (self._readers or self._writers or self._exceptional):
            time.sleep(seconds)  # Windows refuses to wait for nothing (WSAEINVAL)
            return []
        readers, writers, exceptional = select.select(self._readers, self._writers, self._exceptional, seconds)
        ready = dict.fromkeys(readers, READ)
        for fd in writers:
            ready[fd] = ready.get(fd, 0) | WRITE
        for fd in exceptional:
            ready[fd] = ready.get(fd, 0) | WRITE | ERROR
        return [*ready.items()]

    def fileno(self) -> int:
        """Return -1: select(2) has nothing that another poller could watch."""
        return -1

    def close(self) -> None:
        """Forget everything. There is nothing to give back."""
        for members in (self._known, self._readers, self._writers, self._exceptional):
            members.clear()
