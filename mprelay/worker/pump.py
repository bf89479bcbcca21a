"""Bytes for one direction of a session.

The only file that moves a session's bytes. splice(2) itself is in :mod:`mprelay.system.pipes`.

Rules:

1. A pump never blocks. If there is MSG_DONTWAIT, recv(2) and send(2) are called with it, so the sockets need no
   O_NONBLOCK, which saves a system call for each. Only a flow that borrows a pipe sets it.
2. Nothing is read while anything read before is undelivered. So the end of data is read only when everything
   before it has been delivered, and a session holds at most one buffer for each direction.
3. Readiness is edge-triggered (epoll(7)), and only this file knows what an edge means for a pump:
   :meth:`Pump.source_ready` and :meth:`Pump.sink_ready` take note of one. `readable` and `writable` hold what is
   known. An edge sets them. EAGAIN clears them, and so do fewer bytes moved than asked for: both show that the
   kernel's buffer is empty or full.
   A short read normally means that the source is empty. It does not if a FIN or a reset is already queued behind
   the data, or at TCP's urgent mark, where recv(2) stops early. For such an edge `_more_behind` is set, and only
   EAGAIN counts as empty. If the edge tells of a FIN and nothing else, `_only_fin_behind` is set: a FIN lies
   behind all data (tcp_fin), so a short read has reached it, and the system call that would read it is saved.
4. A pump moves a bounded number of bytes, then yields (UNFINISHED), so no flow starves the others. `bulk` tells
   a flow that moves much from one that moves little, which can then go first.
5. An error of the source that was not met by reading (:meth:`Pump.source_failed`) ends the pump when the source
   has nothing more to give, not before, because the kernel keeps what came before a reset.
6. What is in a pipe counts as read and undelivered. A pipe is filled only when it is empty, because the number of
   bytes in it does not tell whether it has room.
7. Splicing can be left out. If the system refuses splice(2), the flow goes back to copying, with what is in its
   pipe, and recv(2) and send(2) tell the state of the connection.
"""

import errno
import socket
from collections.abc import Callable
from enum import Enum, auto
from socket import SocketType
from typing import Final, TypeAlias

from mprelay.system import pipes, poller, sockets
from mprelay.system.errnos import errno_name, stream_error
from mprelay.system.pipes import Pipe
from mprelay.system.sockets import END_MAY_BE_RESET
from mprelay.worker.pipe_pool import PipePool

_DONTWAIT: Final = sockets.DONTWAIT
_BEHIND_DATA: Final = poller.END | poller.HANGUP | poller.ERROR | poller.URGENT
"""What an edge can tell of beside data, and what a short read may stop before."""
_READABLE: Final = poller.READ | _BEHIND_DATA
_WRITABLE: Final = poller.WRITE
ORDINARY_EDGE: Final = poller.READ | poller.WRITE
"""What nearly every edge of a session tells: there is data, there is room, and nothing else is new."""
_END: Final = poller.END
_ERROR: Final = poller.ERROR
_URGENT: Final = poller.URGENT

_HEADROOM: Final = 96 * 1024
"""Bytes of memory kept free for the worker's loop itself (to report, to poll, to enlarge its tables of sessions),
so that running out of memory ends one session instead of the worker and all the others. The tables ask for
some 60 KiB at the 342nd session of a worker, and for twice that at the 683rd."""

_PIECES_A_MOVE: Final = range(8)  # pieces moved before a pump yields; after a large one it yields at once
_BULK_PIECE: Final = 64 * 1024  # bytes that make a piece a large one
_FULL_READS_FOR_A_PIPE: Final = 2  # reads in a row that filled the scratch buffer, before a flow borrows a pipe
_QUIET_FILLS_TO_GIVE_BACK: Final = 16  # fills in a row that were no large piece, before it gives the pipe back

_Keep: TypeAlias = Callable[[memoryview], bytes | memoryview]
"""Returns what is kept of data that the sink did not take. MemoryError: there is no memory for it."""


class Outcome(Enum):
    """Why a pump stopped moving."""

    STARVED = auto()  # nothing to read now
    BLOCKED = auto()  # the sink takes nothing more now
    UNFINISHED = auto()  # it could go on; others are waiting
    ENDED = auto()  # the end of data was read, everything before it is delivered
    READ_FAILED = auto()  # `error` says how
    WRITE_FAILED = auto()  # `error` says how
    NO_MEMORY = auto()

    __hash__ = object.__hash__  # Enum's own is a Python function


# Before 3.12, looking a member up in its class takes as long as a dozen other steps (0.1 µs).
_STARVED: Final = Outcome.STARVED
_ENDED: Final = Outcome.ENDED


class Pump:
    """Moves bytes from `source` to `sink`. It owns neither socket.

    It copies with recv and send through a buffer: its own, or a scratch buffer that all pumps of a worker share.
    `keep` decides how to store what the sink did not accept: a slice of the pump's own buffer stays in place, a
    slice of the scratch buffer is copied.

    A flow that fills the buffer several times in a row borrows a pipe from `pool`, and the kernel moves its pages
    from socket to socket (splice(2)), for half the CPU. A flow that falls quiet gives the pipe back, empty. A new
    flow copies, because that costs nothing to begin. A flow that gets no pipe goes on copying.
    """

    __slots__ = (
        "_buffer",
        "_keep",
        "_more_behind",
        "_only_fin_behind",
        "_pool",
        "_rest",
        "_source",
        "_source_error",
        "_streak",
        "_undelivered",
        "_unspliceable",
        "acknowledged",
        "bulk",
        "error",
        "fin_received",
        "fin_sent",
        "moved",
        "over",
        "pipe",
        "queued",
        "readable",
        "received",
        "sink",
        "was_blocked",
        "writable",
    )

    def __init__(
        self,
        source: SocketType,
        sink: SocketType,
        buffer: memoryview,
        keep: _Keep,
        pool: PipePool,
    ) -> None:
        self._source = source
        self.sink = sink
        """Set another one only if nothing was written to this one."""
        self._buffer = buffer
        self._keep = keep
        self._rest: bytes | memoryview = b""
        self._pool = pool
        self._streak = 0  # reads in a row that filled the buffer
        self._undelivered = 0  # bytes read that the sink will never take
        self.pipe: Pipe | None = None
        self.received = 0
        """Bytes, since the beginning."""
        self.moved = False
        """Whether the last :meth:`move` moved any byte, in or out."""
        self.readable = False
        self.writable = True
        self._more_behind = False
        self._only_fin_behind = False
        self._unspliceable = False
        """Whether splice(2) met what recv(2) gets past: TCP's urgent mark, the end, or a refusal."""
        self._source_error: str | None = None
        """The source's error, already taken from SO_ERROR. recv(2) then returns 0, which is no normal end."""
        self.error: str | None = None
        self.fin_received = False
        """Whether the source has ended its sending, as far as the kernel has told: perhaps behind unread data."""
        self.fin_sent = False
        """Whether the sink was told of the end, so that our FIN counts as one byte to be acknowledged."""
        self.acknowledged = False
        """Whether the sink is known to have acknowledged everything, our FIN included."""
        self.over = False
        """Nothing more is moved: the source has ended, or the session sends the sink nothing more."""
        self.bulk = False
        """Whether the last bytes came in large pieces: the flow can wait for those that move little."""
        self.was_blocked = False
        """Whether the sink was full at any time."""
        self.queued = False
        """Whether the queue of bulk flows holds it. That queue sets it."""

    @property
    def can_move(self) -> bool:
        """Whether there is anything to try."""
        if self.over or not self.writable:
            return False
        return self.readable or self.held > 0

    @property
    def held(self) -> int:
        """Bytes received and not yet sent."""
        return len(self._rest) + (0 if self.pipe is None else self.pipe.held)

    @property
    def sent(self) -> int:
        """Bytes that the sink's socket has taken, since the beginning."""
        return self.received - self.held - self._undelivered

    def source_ready(self, edge: int) -> bool:
        """Take note of an edge of the source; return whether the pump can move what it tells of."""
        if edge != ORDINARY_EDGE:
            if not edge & _READABLE:
                return False
            if behind := edge & _BEHIND_DATA:
                self._more_behind = True
                self._only_fin_behind = behind == _END
                if behind & _END and not behind & _ERROR:  # a reset ends the sending too (tcp_done)
                    self.fin_received = True
                if behind & _URGENT:
                    self._unspliceable = True
        self.readable = True
        return self.writable and not self.over

    def sink_ready(self, edge: int = _WRITABLE) -> bool:
        """Take note of an edge of the sink; return whether the pump can move because it tells of room."""
        if not edge & _WRITABLE:
            return False
        self.writable = True
        return self.can_move

    def source_failed(self, error: str) -> None:
        """Take note of the source's error. What came before it is still moved, then the pump fails with it."""
        self._source_error = error
        self.readable = True
        self._more_behind = True
        self._only_fin_behind = False

    def stop(self) -> None:
        """Move nothing more."""
        self.over = True

    def end_sink(self) -> None:
        """Tell the sink that the source has ended. Raises OSError as shutdown(2)."""
        self.sink.shutdown(socket.SHUT_WR)
        self.fin_sent = True

    def not_arrived(self) -> int:
        """Count the bytes sent that the sink is known not to have acknowledged, without our FIN behind them."""
        if not self.received:
            return 0
        left = sockets.unacknowledged(self.sink)
        if not self.fin_sent:
            return left or 0
        if left:
            return left - 1
        self.acknowledged = left is not None
        return 0

    def move(self) -> Outcome:
        """Move what can be moved now; return why it stopped."""
        self.moved = False
        if self.pipe is not None:
            return self._splice(self.pipe)
        if self._rest:
            rest = memoryview(self._rest)
            try:
                sent = self.sink.send(rest, _DONTWAIT)
            except OSError as failure:
                return self._not_sent(failure, rest, _in_place)
            self.moved = True
            if sent < len(rest):
                return self._hold(rest[sent:], _in_place)  # to deliver what is held takes no memory
            self._rest = b""
        buffer = self._buffer
        for _ in _PIECES_A_MOVE:
            try:
                got = self._source.recv_into(buffer, 0, _DONTWAIT)
            except BlockingIOError:
                if self._source_error:  # a passing one, because a dead socket never says EAGAIN
                    return self._at_end()
                self.readable = False
                return _STARVED
            except OSError as failure:
                self.error = stream_error(failure.errno)
                return Outcome.READ_FAILED
            if not got:
                return self._at_end()
            self.received += got
            self.moved = True
            try:
                sent = self.sink.send(buffer[:got], _DONTWAIT)
            except OSError as failure:
                return self._not_sent(failure, buffer[:got], self._keep)
            if sent < got:
                return self._hold(buffer[sent:got], self._keep)
            if got < len(buffer):
                self._streak = 0
                self.bulk = got >= _BULK_PIECE
                if not self._more_behind:
                    self.readable = False
                    return _STARVED
                if self._only_fin_behind:
                    return self._at_end()
            else:
                self._streak += 1
                self.bulk = True
                if self._streak >= _FULL_READS_FOR_A_PIPE and (pipe := self._borrow()) is not None:
                    return self._splice(pipe)
                if got >= _BULK_PIECE:
                    break
        return Outcome.UNFINISHED

    def _at_end(self) -> Outcome:
        """End the pump: the source gives nothing more, and everything before is delivered."""
        self.over = True
        if self._source_error:
            self.error = self._source_error
            return Outcome.READ_FAILED
        if END_MAY_BE_RESET and sockets.was_reset(self._source):
            self.error = "ECONNRESET"
            return Outcome.READ_FAILED
        self.fin_received = True
        return _ENDED

    def _not_sent(self, failure: OSError, data: memoryview, keep: _Keep) -> Outcome:
        if isinstance(failure, BlockingIOError):
            return self._hold(data, keep)
        self._rest = b""
        self._undelivered = len(data)
        self.error = stream_error(failure.errno)
        return Outcome.WRITE_FAILED

    def _hold(self, data: memoryview, keep: _Keep) -> Outcome:
        """Keep what the sink did not take until it takes more."""
        self.writable = False
        self.was_blocked = True
        try:
            self._rest = keep(data)
        except MemoryError:
            self._rest = b""
            self._undelivered = len(data)
            self.error = errno_name(errno.ENOMEM)
            return Outcome.NO_MEMORY
        return Outcome.BLOCKED

    def _borrow(self) -> Pipe | None:
        """Borrow a pipe; None if it would be of no use, or if there is none."""
        self._streak = 0
        if self._unspliceable:
            return None
        self.pipe = self._pool.borrow()
        if self.pipe is not None:
            try:
                # Unlike recv and send, splice(2) asks the socket's file whether it may wait.
                self._source.setblocking(False)  # noqa: FBT003 - socket's signature
                self.sink.setblocking(False)  # noqa: FBT003
            except OSError as failure:
                self._unspliceable = True
                self._pool.refused(failure)
                self.give_back()
        return self.pipe

    def give_back(self) -> None:
        """Return the pipe if it is empty: the flow is quiet, or must be copied."""
        if self.pipe is not None and not self.pipe.held:
            self.close()

    def close(self) -> None:
        """Return the pipe, whatever is in it."""
        if self.pipe is not None:
            self._pool.take_back(self, self.pipe)
            self.pipe = None

    def _splice(self, pipe: Pipe) -> Outcome:
        """Fill the pipe from the source, flush it into the sink, never fill before a flush; yield after much."""
        self._pool.watch(self)
        if outcome := self._flush(pipe):
            return outcome
        for _ in _PIECES_A_MOVE:
            before = self.received
            if self.readable and not self._unspliceable and not self._fill(pipe):
                return Outcome.READ_FAILED
            if outcome := self._flush(pipe):
                return outcome
            if self._unspliceable or (self._source_error and not self.readable):
                self.give_back()
                spliced = self.moved
                outcome = self.move()
                self.moved = self.moved or spliced
                return outcome
            if not self.readable:
                if pipe.quiet >= _QUIET_FILLS_TO_GIVE_BACK:
                    self.give_back()
                return _STARVED
            self.bulk = self.received - before >= _BULK_PIECE
            if self.bulk:
                pipe.quiet = 0
                break
            pipe.quiet += 1
        return Outcome.UNFINISHED

    def _fill(self, pipe: Pipe) -> bool:
        """Fill the pipe, which is empty; False if the source failed: `error` says how."""
        try:
            got = pipe.fill(self._source)
        except BlockingIOError:
            self.readable = False
            return True
        except OSError as failure:
            if pipes.is_refusal(failure, self._source):
                self._unspliceable = True
                self._pool.refused(failure)
                return True
            self.error = stream_error(failure.errno)
            return False
        if got:
            self.received += got
            self.moved = True
        else:
            self._unspliceable = True  # the end or the urgent mark: recv(2) tells them apart
        return True

    def _flush(self, pipe: Pipe) -> Outcome | None:
        """Deliver what is in the pipe; None if the sink took it all, or if it is now held to be copied."""
        while pipe.held:
            try:
                pipe.flush(self.sink)
            except BlockingIOError:
                self.writable = False
                self.was_blocked = True
                return Outcome.BLOCKED
            except OSError as failure:
                if not pipes.is_refusal(failure, self.sink):
                    self.error = stream_error(failure.errno)
                    return Outcome.WRITE_FAILED
                self._unspliceable = True
                self._pool.refused(failure)
                break
            self.moved = True
        rest, held = b"", pipe.held
        try:
            while pipe.held:
                self._rest = rest = rest + pipe.read()
                leave_headroom()
        except MemoryError:
            self._rest = b""
            self._undelivered = held - pipe.held
            self.error = errno_name(errno.ENOMEM)
            return Outcome.NO_MEMORY
        return None


class Pumps:
    """Makes the pumps of one worker.

    With `size`, each pump gets a buffer of exactly that many bytes. Without it, all share one scratch buffer and
    at most `pipes` pipes, and an idle session keeps nothing.
    """

    SCRATCH: Final = 256 * 1024
    """Bytes of the scratch buffer."""

    def __init__(self, size: int | None, pipes: int) -> None:
        self._size = size
        self._scratch = memoryview(bytearray(0 if size else self.SCRATCH))
        self._pool = PipePool(0 if size else pipes)

    def make(self, source: SocketType, sink: SocketType) -> Pump:
        """Make a pump from `source` to `sink`. MemoryError: there is no memory for its buffer."""
        if self._size is None:
            return Pump(source, sink, self._scratch, _copied, self._pool)
        return Pump(source, sink, memoryview(bytearray(self._size)), _in_place, self._pool)

    def reclaim(self) -> bool:
        """See :meth:`PipePool.reclaim`."""
        return self._pool.reclaim()

    def close(self) -> None:
        """Give the pipes that no flow has back to the system."""
        self._pool.close()


def _in_place(rest: memoryview) -> memoryview:
    return rest


def _copied(rest: memoryview) -> bytes:
    """Copy it. MemoryError: there is no memory for that, or too little would be left."""
    copy = bytes(rest)
    leave_headroom()
    return copy


def leave_headroom() -> None:
    """Show that the headroom is there, beside the little that a caller takes for good. MemoryError: it is not."""
    bytes(_HEADROOM)
