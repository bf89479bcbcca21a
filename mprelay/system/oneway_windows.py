"""The ends of a named pipe, on Windows, where select takes only sockets.

How it keeps the rules of :mod:`mprelay.system.oneway`:

- A thread of the reading end waits for data, and wakes the loop through a socket. It reads ahead only a little,
  so a reader that does not keep up makes the writer's pipe fill.
- The pipe holds a megabyte: hundreds of sockets for a busy worker. A write is an overlapped one. If the pipe has
  no room for it, it stays pending in the kernel, which takes it when the reader reads. Meanwhile the next write
  is refused. A pending write is lost if its process ends.
- What cannot be read is the end: a message that is too long, or no memory for one.
- multiprocessing passes a handle to a child by a duplicate in its own process, from which the child takes it. A
  child that dies before that would leave the duplicate behind, and the end of the pipe would never come. So a
  handle is duplicated into the child at once.
"""

import _winapi
import errno
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, context, reduction
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from mprelay.system import poller
from mprelay.system.waker import Waker

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

ATOMIC: Final = 4096
"""Bytes that are taken whole or not at all: messages always are. Enough for all that is sent here."""

REPORT_TIME: Final = 0.05
"""As on POSIX systems. A thread of each of the two processes takes part here, and timers may tick every 16 ms."""

_READ_AHEAD: Final = 64 * 1024  # bytes
_END_LIMIT: Final = 1.0  # seconds
_SIZE: Final = 1 << 20  # bytes

HOLDS: Final = _SIZE + _READ_AHEAD
"""Bytes that a writer can have written and a reader not yet taken, about."""

connection.BUFSIZE = _SIZE  # type: ignore[attr-defined,unused-ignore] # bytes; also of multiprocessing's queues

PipeConnection: TypeAlias = "connection.PipeConnection[Any, Any]"
End: TypeAlias = PipeConnection
"""One end of a pipe, as it goes to another process."""


def _reduce(end: PipeConnection) -> tuple[Any, ...]:
    """Duplicate a pipe's handle into the process that is being started."""
    return connection.PipeConnection, (passed_handle(end.fileno()), end.readable, end.writable)


def passed_handle(handle: int) -> int:
    """Duplicate a handle into the process that is being started; return its number there."""
    child: Any = context.get_spawning_popen()
    own, its = _winapi.GetCurrentProcess(), int(child._handle)  # noqa: SLF001 - there is no public way
    return _winapi.DuplicateHandle(own, handle, its, 0, False, _winapi.DUPLICATE_SAME_ACCESS)  # noqa: FBT003


def start_thread(body: Callable[[], None]) -> None:
    """Start a thread that does not keep its process alive. Raises OSError if there is none."""
    try:
        threading.Thread(target=body, daemon=True).start()
    except RuntimeError as failure:
        raise OSError(errno.EAGAIN, str(failure)) from failure


reduction.register(connection.PipeConnection, _reduce)


class Reader:
    """The end that reads. It owns the connection."""

    def __init__(self, end: PipeConnection) -> None:
        self._connection = end
        self.waker = Waker()
        """What wakes the reader. A writer may share it."""
        self._change = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes in `_waiting`
        self._over = False
        self._closed = False
        self._wait_until = 0.0  # reads wait up to this moment (monotonic)
        start_thread(self._fetch)

    def _fetch(self) -> None:
        """Read until the end of the pipe: the body of the thread."""
        while not self._over:
            try:
                data = self._connection.recv_bytes(_READ_AHEAD)
            except Exception:  # noqa: BLE001 - whatever it is, nothing can be read any more
                data = b""
            with self._change:
                self._over = not data
                self._waiting.append(data)
                self._size += len(data)
                if self._closed:
                    return
                self.waker.wake()
                self._change.notify()
                self._change.wait_for(lambda: self._closed or self._size < _READ_AHEAD)
                if self._closed:
                    return

    def fileno(self) -> int:
        """Return the descriptor that is readable when something waits, or the end."""
        return self.waker.fileno()

    def read(self, size: int) -> bytes:
        """Take bytes, b"" at the end. Raises BlockingIOError if nothing waits."""
        taken: list[bytes] = []
        with self._change:
            if self._wait_until:
                self._change.wait_for(lambda: self._waiting, self._wait_until - time.monotonic())
            while self._waiting and self._waiting[0] and size:
                data = self._waiting.popleft()
                if len(data) > size:
                    self._waiting.appendleft(data[size:])
                    data = data[:size]
                taken.append(data)
                size -= len(data)
                self._size -= len(data)
            if not self._waiting:
                self.waker.clear()
                if not taken:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._change.notify()
        return b"".join(taken)

    def expect_end(self) -> bool:
        """Let the next reads wait for the end, because the writer is dead; the thread may not have read it all.

        They wait a second in all: a process that got the writing end from the writer could keep it open.
        """
        self._wait_until = time.monotonic() + _END_LIMIT
        return True

    def close(self) -> None:
        """Give everything back."""
        with self._change:
            self._closed = True
            self._change.notify()
            self.waker.close()
        with suppress(OSError):
            self._connection.close()


class Writer:
    """The end that writes. It owns the connection."""

    ROOM: Final = poller.READ
    """What :meth:`fileno` is ready for when there is room again."""

    def __init__(self, end: PipeConnection, shared: Waker | None = None) -> None:
        self._connection = end
        self._handle = end.fileno()
        self._shared = shared  # another's, which clears it
        self._own: Waker | None = None
        self._pending_writes: SimpleQueue[Any] = SimpleQueue()
        self._taken = threading.Event()
        self._taken.set()
        self._broken = False
        self._pending_size = 0
        start_thread(self._await_room)

    def write(self, data: bytes) -> int:
        """Send `data`. BlockingIOError: no room. BrokenPipeError: nobody reads any more."""
        self.check_room()
        written, error = _winapi.WriteFile(self._handle, data, overlapped=True)
        if error == _winapi.ERROR_IO_PENDING:
            self._pending_size = len(data)
            self._taken.clear()
            self._pending_writes.put(written)
        else:
            written.GetOverlappedResult(True)  # noqa: FBT003 - nothing is waited for
        return len(data)

    def check_room(self) -> None:
        """Raise BlockingIOError if a write is pending, BrokenPipeError if nobody reads any more."""
        if self._own is not None:
            self._own.clear()  # first: the thread wakes after it has noted that the write was taken
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not self._taken.is_set():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _await_room(self) -> None:
        """Wait for each pending write: the body of the thread."""
        while (pending := self._pending_writes.get()) is not None:
            try:
                pending.GetOverlappedResult(True)  # noqa: FBT003 - wait
            except OSError:
                self._broken = True
            self._taken.set()
            if (waker := self._shared or self._own) is not None:
                with suppress(OSError):  # closed meanwhile
                    waker.wake()

    def fileno(self) -> int:
        """Return the descriptor that tells of room: see :attr:`ROOM`."""
        if self._own is None:
            self._own = Waker()
            if self._taken.is_set():  # taken before anybody waited
                self._own.wake()
        return self._own.fileno()

    def wait_for_room(self, seconds: float) -> None:
        """Wait for room, or for the end of the reader, up to `seconds`."""
        self._taken.wait(seconds)

    @property
    def unsettled(self) -> int:
        """Bytes that would be lost if this process ended now."""
        return 0 if self._taken.is_set() else self._pending_size

    def settle(self, seconds: float | None) -> None:
        """Wait up to `seconds` (None: for ever) until the last write is taken. Else it may be lost."""
        self._taken.wait(seconds)

    def close(self) -> None:
        """End the pipe. What was written can still be read, but for a write that is pending."""
        self._pending_writes.put(None)
        if self._own is not None:
            self._own.close()
        with suppress(OSError):
            self._connection.close()
