"""The way out of the supervisor: records go over a socket to the outlet, the process that owns stdout.

    put ──▶ what waits, in this process ──▶ socket ──▶ outlet ──▶ stdout

Rules:

1. Nothing here waits. The socket takes what it has room for, the rest waits in this process, and the supervisor's
   loop watches the socket for room. Above the high mark :attr:`Writer.congested` tells the supervisor to stop
   *accepting*; what is in flight makes a bounded number of records, so the backlog stays bounded and nothing is
   lost. Below the low mark it goes on.
2. Descriptors 0 to 2 of this process, and of all that it starts, are the way of complaints to the outlet: a
   socket that never blocks. So no child holds the real streams, and nobody who writes on stderr waits for its
   reader.
3. Nothing is sent before the outlet says that it is ready. Until then this process keeps the real streams: an
   outlet that never is ready has written nothing, and every record is still here to be written without it.
"""

import errno
import io
import multiprocessing.process
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

from mprelay.system import spawning
from mprelay.system.streams import END, READY, STDERR, STDOUT, WRITTEN, Handed, Sink, complain

HIGH: Final = 1024 * 1024
LOW: Final = 256 * 1024
"""Bytes of records that wait. A session writes about 3 KiB with every detail."""

_ENDED: Final = {errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET}  # the outlet has, and that is heard next
_FAREWELL: Final = 1.0  # seconds for the outlet's end; it gives its complaints half of one


class Writer:
    """The records that wait, and the outlet that they wait for."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self.paused = False
        """What :attr:`congested` was when it was last asked."""
        self._closed = False
        self._way: socket.socket | None = None  # our end of the socket of the records
        self._complaints: socket.socket | None = None  # the outlet's end, until it is ready
        self._real: tuple[int, int] | None = None  # stdout and stderr, until it is ready
        self._outlet: multiprocessing.process.BaseProcess | None = None
        self.backlog = 0
        """How many bytes wait here."""
        self.ready = False
        """Whether the outlet has begun."""
        self.written = False
        """Whether everything has been written, up to the last record."""
        self.absent = True
        """Whether there is no outlet: not started, or ended before it had begun. Every record is still here."""
        self.gone = False
        """Whether the outlet ended after that, and with it the way to stdout. What is put is thrown away."""

    # -- the outlet ------------------------------------------------------------------------------------------

    def start(self, outlet: Callable[..., None]) -> None:
        """Give stdout and stderr to a process that runs `outlet`. OSError: it could not be started.

        Before any other process is started, because that would inherit them.
        """
        with ExitStack() as theirs:
            way, records = socket.socketpair()
            theirs.enter_context(records)
            self._way = way
            self._complaints, voice = socket.socketpair()
            theirs.enter_context(voice)
            voice.setblocking(False)  # noqa: FBT003 - socket's signature
            self._real = (os.dup(STDOUT), os.dup(STDERR))
            for descriptor in (0, STDOUT, STDERR):
                os.dup2(voice.fileno(), descriptor)
            # A buffer would keep what the socket does not take, try it again at the interpreter's end, and make
            # the exit code 120.
            raw = io.FileIO(STDERR, "w", closefd=False)
            sys.stderr = io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)
            self._outlet = spawning.start(
                outlet, (records, self._complaints, voice, *map(Handed, self._real)), "mprelay: outlet"
            )
            self.connect(way)

    def connect(self, way: socket.socket) -> None:
        """Send records over `way`, which the writer owns from now on, once the other end is ready."""
        self._way = way
        way.setblocking(False)  # noqa: FBT003 - socket's signature
        self.absent = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when the outlet has said something, or has ended."""
        return -1 if self._way is None else self._way.fileno()

    @property
    def pid(self) -> int | None:
        """The outlet's process."""
        return None if self._outlet is None else self._outlet.pid

    @property
    def waits(self) -> bool:
        """Whether records wait for :meth:`fileno` to become writable."""
        return self.ready and bool(self._waiting)

    def attend(self) -> None:
        """Hear what the outlet says, and send what waits, as far as there is room."""
        if self._way is None or self.absent or self.gone:
            return
        try:
            said = self._way.recv(16)
        except BlockingIOError:
            pass
        except OSError:  # it ended without having read everything
            self._lose()
        else:
            if not said:
                self._lose()
            if READY in said:
                self.ready = True
                self._let_go()
            if WRITTEN in said:
                self.written = True
        self._push()

    def ended(self) -> tuple[int, str]:
        """Bury an outlet that is :attr:`absent`: its exit code (negative: the signal), and its last words."""
        said = b""
        if self._outlet is None or self._complaints is None:
            return 0, ""
        spawning.await_end(self._outlet, _FAREWELL)  # an exception closes its socket a moment before it ends
        self._outlet.kill()
        self._outlet.join()
        self._complaints.setblocking(False)  # noqa: FBT003 - socket's signature
        with suppress(OSError):
            said = self._complaints.recv(65536, socket.MSG_PEEK)  # it is still to be written to stderr
        return self._outlet.exitcode or 0, spawning.last_line(said)

    def outlives(self, *, wait: bool) -> bool:
        """Tell whether the outlet still runs; with `wait` give it a moment to end."""
        if self._outlet is None or self._way is None:
            return False
        if not self.ready:
            self._outlet.kill()  # it has got no record, and will get none
        self._way.settimeout(_FAREWELL if wait else 0)
        try:
            while self._way.recv(16):
                pass
        except (TimeoutError, BlockingIOError):
            return True
        except OSError:
            pass
        # The kernel closes the descriptors when the last thread ends: this no longer waits for any reader.
        self._outlet.join()
        return False

    # -- records ---------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the backlog rose above the high mark and has not fallen below the low mark since."""
        self.paused = self.backlog > (LOW if self.paused else HIGH)
        return self.paused

    def put(self, records: list[bytes]) -> None:
        """Add records, each a whole line. Never blocks."""
        if self.gone:
            return
        data = b"".join(records)
        sent = self._send(data) if self.ready and not self._waiting else 0
        if sent < len(data) and not self.gone:
            # Copied, because orjson gives back bytes that keep the 4 KiB in which they were made (3.13: a backlog
            # of 1 MiB took 14), and join gives back a single one as it is.
            self._waiting.append(bytes(memoryview(data)[sent:]))
            self.backlog += len(data) - sent

    def close(self) -> None:
        """Say that nothing more comes. When the outlet has written all, it says so, and ends."""
        self._closed = True
        self._push()

    def write_directly(self) -> None:
        """Write everything to stdout here and now, because no outlet is ready. OSError: nobody will read it.

        It may block: only for a process that holds nothing any more.
        """
        if self._outlet is not None:
            self._outlet.kill()  # it has got no record
        if self._real is not None:
            with suppress(OSError):  # where it is refused these still are the real ones
                for descriptor, place in zip(self._real, (STDOUT, STDERR), strict=True):
                    os.dup2(descriptor, place)
            if self._complaints is not None:
                self._complaints.setblocking(False)  # noqa: FBT003 - socket's signature
                with suppress(OSError):
                    while said := self._complaints.recv(65536):
                        Sink(STDERR).write(said)
            self._let_go()
        Sink(STDOUT, complain).write(b"".join(self._waiting))
        self._forget()
        self.written = True

    def _push(self) -> None:
        """Send what waits, as far as there is room; behind the last record comes the end."""
        if not self.ready:
            return
        while self._waiting:
            data = self._waiting[0]
            sent = self._send(data)
            if self.gone:
                return
            self.backlog -= sent
            if sent < len(data):
                self._waiting[0] = data[sent:]
                return
            self._waiting.popleft()
        if self._closed and self._way is not None:
            try:
                self._way.shutdown(socket.SHUT_WR)
            except OSError as failure:
                if failure.errno not in _ENDED:  # a sandbox refuses it
                    self._closed = False
                    self.put([END])

    def _send(self, data: bytes) -> int:
        """Send what there is room for; return how many bytes."""
        if self._way is None:
            return 0
        try:
            return self._way.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._lose()
            return 0

    def _lose(self) -> None:
        """Note that the outlet has ended. Records that were sent are its; those that wait go nowhere."""
        if self.ready:
            self.gone = True
            self._forget()
        else:
            self.absent = True

    def _forget(self) -> None:
        self._waiting.clear()
        self.backlog = 0

    def _let_go(self) -> None:
        """Close the real streams and the reading end of the complaints: they are the outlet's alone."""
        if self._real is not None:
            for descriptor in self._real:
                os.close(descriptor)
            self._real = None
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None
