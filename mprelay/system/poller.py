"""Readiness of descriptors, through one persistent epoll. The only file that knows epoll.

``selectors`` folds hang-up and error into readable and writable, which is too coarse for a relay, and
``multiprocessing.connection.wait`` builds a selector at each call. On a platform without epoll importing works
and :func:`missing` says what is not there.
"""

import os
import select
import sys
from typing import Final

_LONGEST: Final = 86400.0  # seconds; epoll_wait(2) takes an int of milliseconds, less than 25 days


def missing() -> str | None:
    """Say what this platform lacks, or None."""
    return None if hasattr(select, "epoll") else "epoll"


if sys.platform == "linux":
    READ: Final = select.EPOLLIN
    WRITE: Final = select.EPOLLOUT
    URGENT: Final = select.EPOLLPRI
    END: Final = select.EPOLLRDHUP  # the peer will send no more
    HANGUP: Final = select.EPOLLHUP
    ERROR: Final = select.EPOLLERR
    EDGE: Final = select.EPOLLET

    class Poller:
        """A set of descriptors, waited for together. Without EDGE readiness is level-triggered."""

        EVENTS_AT_ONCE: Final = 256
        """Events that one :meth:`wait` returns at most. CPython allocates 12 bytes for each at every call."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self.add = self._epoll.register
            """add(fd, mask): OSError where the kernel cannot watch it (ENOMEM, ENOSPC, EPERM)."""
            self.change = self._epoll.modify
            self.remove = self._epoll.unregister

        def wait(self, timeout: float | None) -> list[tuple[int, int]]:
            """Wait up to `timeout` seconds (None: for ever); return (fd, mask) of what is ready.

            The time is rounded up to milliseconds, so a deadline is over when the call returns for it.
            """
            if timeout is None:
                left = -1.0
            elif timeout < _LONGEST:
                left = max(0.0, timeout)
            else:
                left = _LONGEST
            try:
                return self._epoll.poll(left, self.EVENTS_AT_ONCE)
            except MemoryError:
                return self._epoll.poll(left, 1)  # one at a time needs none that is not there

        def close(self) -> None:
            """Give the descriptor back."""
            self._epoll.close()

else:
    READ = WRITE = URGENT = END = HANGUP = ERROR = EDGE = 0

    class Poller:
        """Not here: see :func:`missing`."""

        EVENTS_AT_ONCE: Final = 1

        def add(self, fd: int, mask: int) -> None:
            """Not here."""
            raise NotImplementedError

        def change(self, fd: int, mask: int) -> None:
            """Not here."""
            raise NotImplementedError

        def remove(self, fd: int) -> None:
            """Not here."""
            raise NotImplementedError

        def wait(self, timeout: float | None) -> list[tuple[int, int]]:
            """Not here."""
            raise NotImplementedError


class Waker:
    """Lets a signal end a :meth:`Poller.wait` that watches :meth:`fileno` for READ."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        """`writer` is a descriptor: any byte written to it wakes."""
        if sys.platform != "win32":
            os.set_blocking(self._reader, False)
            os.set_blocking(self.writer, False)

    def fileno(self) -> int:
        """Return the descriptor that is readable after a wake-up."""
        return self._reader

    def clear(self) -> bytes:
        """Sleep again; return what was written."""
        try:
            return os.read(self._reader, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self.writer)
