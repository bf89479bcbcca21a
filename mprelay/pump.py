"""Bytes for one direction of a session. The only file that calls recv and send, and that knows their errnos.

Rules:

1. A pump never blocks: every call is made with MSG_DONTWAIT, so the sockets need no O_NONBLOCK (one system
   call saved for each).
2. Nothing is read while anything read before is not yet delivered. So an end of data is only ever read when
   everything before it is delivered, and a session holds at most one buffer for each direction.
3. Readiness is edge-triggered (epoll(7)). `readable` and `writable` say what is known: an edge sets them, and
   they are cleared by what shows that the kernel is empty or full: EAGAIN, or fewer bytes moved than asked.
   A short read shows an empty socket only where nothing else can be waiting behind it: not behind a FIN or a
   reset that is already there, nor at TCP's urgent mark, where recv(2) stops early. Such an edge sets
   `insistent`, and then only EAGAIN counts.
4. A pump works for a bounded time, then yields (UNFINISHED): no flow starves the others.

A splicing pump for flows that keep filling the buffer will stand beside :class:`CopyPump` here.
"""

import errno
import socket
import sys
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

if sys.platform == "win32":
    _DONTWAIT: Final = 0
else:
    _DONTWAIT: Final = socket.MSG_DONTWAIT
_HEADROOM: Final = 16 * 1024
"""Bytes that must be left to the loop itself (to report, to poll) after a session got its buffers: so it is a
session that memory is refused to, and not the worker with all the others."""

_ROUNDS: Final = 8  # buffers moved before a pump yields


class Outcome(Enum):
    """Why a pump stopped moving."""

    STARVED = auto()  # nothing to read now
    BLOCKED = auto()  # the destination takes nothing more now
    UNFINISHED = auto()  # it could go on; others are waiting
    ENDED = auto()  # end of data read, all before it delivered
    READ_FAILED = auto()  # `error` says how
    WRITE_FAILED = auto()  # `error` says how
    NO_MEMORY = auto()


def errno_name(number: int | None) -> str:
    """Name an errno as errno(3) does: 104 is ECONNRESET."""
    return errno.errorcode.get(number or 0, f"E{number}")


def stream_error(number: int | None) -> str:
    """Name an errno that a connected TCP socket gave, a reset always as ECONNRESET.

    Linux reports a reset that comes after the peer's FIN as EPIPE (tcp_reset: CLOSE_WAIT), and a send after
    a reset that was already reported gives EPIPE too. We never send on a direction that we have shut down,
    so here EPIPE can mean nothing else.
    """
    return "ECONNRESET" if number == errno.EPIPE else errno_name(number)


class CopyPump:
    """Moves bytes from `source` to `sink` through a buffer with recv and send. It owns neither socket.

    `buffer` is the pump's own, or a scratch buffer that all pumps of a worker share; `keep` says how to hold
    what the sink did not take: a slice of one's own buffer may stay where it is, a scratch buffer's is copied.
    """

    __slots__ = (
        "_buffer",
        "_keep",
        "_rest",
        "_sink",
        "_source",
        "doom",
        "ended",
        "error",
        "insistent",
        "moved",
        "readable",
        "received",
        "writable",
    )

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        buffer: memoryview,
        keep: Callable[[memoryview], bytes | memoryview],
    ) -> None:
        self._source = source
        self._sink = sink
        self._buffer = buffer
        self._keep = keep
        self._rest: bytes | memoryview = b""
        self.received = 0  # bytes, since the beginning
        self.moved = False  # whether the last call moved any byte, in or out
        self.readable = False
        self.writable = True
        self.insistent = False
        self.ended = False
        self.doom: str | None = None
        """The source's error, where it was taken already: what then reads as an end is none."""
        self.error: str | None = None

    @property
    def can_move(self) -> bool:
        """Whether there is anything to try."""
        return self.writable and not self.ended and (self.readable or len(self._rest) > 0)

    def move(self) -> Outcome:
        """Move what can be moved now; tell why it stopped."""
        self.moved = False
        if self._rest and (outcome := self._deliver(memoryview(self._rest))):
            return outcome
        buffer = self._buffer
        size = len(buffer)
        for _ in range(_ROUNDS):
            try:
                got = self._source.recv_into(buffer, size, _DONTWAIT)
            except BlockingIOError:
                self.readable = False
                return Outcome.STARVED
            except OSError as failure:
                self.error = stream_error(failure.errno)
                return Outcome.READ_FAILED
            if not got and self.doom:
                self.error = self.doom
                return Outcome.READ_FAILED
            if not got:
                self.ended = True
                return Outcome.ENDED
            self.received += got
            self.moved = True
            if outcome := self._deliver(buffer[:got]):
                return outcome
            if got < size and not self.insistent:
                self.readable = False
                return Outcome.STARVED
        return Outcome.UNFINISHED

    def _deliver(self, data: memoryview) -> Outcome | None:
        """Send `data`; keep what the sink does not take. None: all of it was taken."""
        try:
            sent = self._sink.send(data, _DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as failure:
            self.error = stream_error(failure.errno)
            return Outcome.WRITE_FAILED
        if sent:
            self.moved = True
            if sent == len(data):
                self._rest = b""
                return None
        self.writable = False
        try:
            self._rest = self._keep(data[sent:])
        except MemoryError:
            self.error = errno_name(errno.ENOMEM)
            return Outcome.NO_MEMORY
        return Outcome.BLOCKED


class CopyPumps:
    """Makes the pumps of one worker.

    With `size` each pump gets a buffer of exactly that many bytes; without, all share one scratch buffer, and
    an idle session keeps nothing.
    """

    SCRATCH: Final = 256 * 1024
    """Bytes. The size at which the prototype's copying loop was measured."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._scratch = memoryview(bytearray(0 if size else self.SCRATCH))

    def make(self, source: socket.socket, sink: socket.socket) -> CopyPump:
        """Make a pump from `source` to `sink`. MemoryError: there is no memory for its buffer."""
        if self._size is None:
            return CopyPump(source, sink, self._scratch, bytes)
        buffer = bytearray(self._size + _HEADROOM)
        del buffer[self._size :]
        return CopyPump(source, sink, memoryview(buffer), _in_place)


def _in_place(rest: memoryview) -> memoryview:
    return rest
