"""The ends of a pipe (pipe(7)), both non-blocking.

Each end is an open file description of its own, so nobody else shares the flag. Neither is inherited by processes
that are started from now on; spawn had to make one of them inheritable.
"""

import os
import select
import sys
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final, TypeAlias

from mprelay.system import poller

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

End: TypeAlias = "Connection[Any, Any]"
"""One end of a pipe, as it goes to another process."""

ATOMIC: Final = getattr(select, "PIPE_BUF", 512)
"""Bytes that are taken whole or not at all."""

HOLDS: Final = 64 * 1024
"""Bytes that a writer can have written and a reader not yet taken (pipe(7))."""

REPORT_TIME: Final = 0.005
"""Seconds within which a process that is busy has done something, and another process has read of it."""


def _keep(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - os' signature


class Reader:
    """The end that reads. It owns the connection."""

    def __init__(self, end: End) -> None:
        self._connection = end
        self._descriptor = end.fileno()
        _keep(self._descriptor)
        self.read = partial(os.read, self._descriptor)
        """read(size): take bytes, b"" at the end. BlockingIOError: nothing waits."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when something waits, or the end."""
        return self._descriptor

    def expect_end(self) -> bool:
        """Tell whether the next reads wait for the end. A dead writer's bytes can all be read at once here."""
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        self._connection.close()


class Writer:
    """The end that writes. It owns the connection."""

    ROOM: Final = poller.WRITE
    """What :meth:`fileno` is ready for when there is room again."""

    def __init__(self, end: End) -> None:
        self._connection = end
        self._descriptor = end.fileno()
        _keep(self._descriptor)
        self.write = partial(os.write, self._descriptor)
        """write(data): send at most ATOMIC bytes. BlockingIOError: no room. BrokenPipeError: nobody reads."""

    def fileno(self) -> int:
        """Return the descriptor that tells of room: see :attr:`ROOM`."""
        return self._descriptor

    def check_room(self) -> None:
        """Raise BlockingIOError if there is certainly no room. A pipe tells only when it is written to."""

    def wait_for_room(self, seconds: float) -> None:
        """Wait for room, or for the end of the reader, up to `seconds`."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        room.poll(seconds * 1000)

    def settle(self, _seconds: float | None) -> None:
        """Wait until the last write is taken: the kernel has it already."""

    def close(self) -> None:
        """End the pipe. What was written can still be read."""
        self._connection.close()
