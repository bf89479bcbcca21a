"""Bytes for one direction of a session.

The only file that calls recv, send and splice, and that knows their errnos.

Rules:

1. A pump never blocks: every call is made with MSG_DONTWAIT, so the sockets need no O_NONBLOCK (one system
   call saved for each).
2. Nothing is read while anything read before is not yet delivered. So an end of data is only ever read when
   everything before it is delivered, and a session holds at most one buffer for each direction.
3. Readiness is edge-triggered (epoll(7)). `readable` and `writable` say what is known: an edge sets them, and
   they are cleared by what shows that the kernel is empty or full: EAGAIN, or fewer bytes moved than asked.
   A short read shows an empty socket only where nothing else can be waiting behind it: not behind a FIN or a
   reset that is already there, nor at TCP's urgent mark, where recv(2) stops early. Such an edge sets
   `insistent`, and then only EAGAIN counts. Where it tells of a FIN, and of nothing else, it sets `last`: a FIN
   lies behind all data (tcp_fin), so a short read has met it, and to read it as well is a system call saved.
4. A pump moves a bounded number of bytes, then yields (UNFINISHED): no flow starves the others. `bulk` tells
   a flow that moves much from one that moves little, which can then go first.
5. An error of the source that was met in another way than by reading (:meth:`Pump.doom`) ends the pump where
   the source has nothing more to give, not before: the kernel keeps what came before a reset.
6. What is in a pipe counts as read and not yet delivered. A pipe is filled only when it is empty: how full it is
   in bytes does not tell whether it has room.
7. Splicing can be left out. An error of splice(2) that is none of the connection's means that the system refuses
   it: the flow goes back to copying, with what is in its pipe, and recv(2) and send(2) tell how things are.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable
from enum import Enum, auto
from socket import SocketType
from typing import Final

from mprelay.system import sockets
from mprelay.system.errnos import errno_name, stream_error

if sys.platform == "linux":
    import fcntl
if sys.platform == "win32":
    _DONTWAIT: Final = 0
else:
    _DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_HEADROOM: Final = 16 * 1024
"""Bytes that must be left to the loop itself (to report, to poll) after a session got its buffers: so it is a
session that memory is refused to, and not the worker with all the others."""

_ROUNDS: Final = 8  # pieces moved before a pump yields; after a large one it yields at once
_HUNGRY: Final = 2  # calls in a row that moved a full scratch buffer, before a flow borrows a pipe
_PIPE_SIZE: Final = 1024 * 1024
_LEAST_PIPE: Final = 256 * 1024  # bytes: through a pipe of 8 KiB, splicing took more CPU than copying
_REFUSALS: Final = 256  # flows that are told that there is no pipe, before the system is asked again
_LITTLE: Final = 64 * 1024  # bytes
_SATED: Final = 16  # fillings in a row of less than that, before a flow gives the pipe back
_OF_THE_CONNECTION: Final = {
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ETIMEDOUT,
}
"""What a connection that was made usually gives as its error (tcp(7); ICMP's by way of tcp_write_err)."""
_REFUSED_TO_ALL: Final = {errno.EPERM, errno.ENOSYS}
"""What splice(2) gives where the system refuses it: a filter (seccomp(2)), or a kernel without it."""
_REFUSED: Final = _REFUSED_TO_ALL | {errno.EINVAL}
"""The same, and what a socket gives that cannot be spliced. No connection gives any of these as its error."""


class Outcome(Enum):
    """Why a pump stopped moving."""

    STARVED = auto()  # nothing to read now
    BLOCKED = auto()  # the destination takes nothing more now
    UNFINISHED = auto()  # it could go on; others are waiting
    ENDED = auto()  # end of data read, all before it delivered
    READ_FAILED = auto()  # `error` says how
    WRITE_FAILED = auto()  # `error` says how
    NO_MEMORY = auto()

    __hash__ = object.__hash__  # Enum's own is a Python function


# Before 3.12 to look a member up in its class takes as long as a dozen other steps (0.1 µs).
_STARVED: Final = Outcome.STARVED
_ENDED: Final = Outcome.ENDED


class Pump:
    """Moves bytes from `source` to `sink`. It owns neither socket.

    It copies through a buffer with recv and send: its own, or a scratch buffer that all pumps of a worker share.
    `keep` says how to hold what the sink did not take: a slice of one's own buffer may stay where it is, a
    scratch buffer's is copied.

    With `pipes`, a flow that fills the buffer several times in a row borrows a pipe, and the kernel moves its
    pages from socket to socket (splice(2)), for half the CPU. A flow that falls quiet gives it back, empty. A
    new flow copies, for that costs nothing to begin; and without a pipe to be had it goes on copying.
    """

    __slots__ = (
        "_buffer",
        "_keep",
        "_pipes",
        "_rest",
        "_sink",
        "_source",
        "_streak",
        "_undelivered",
        "bulk",
        "done",
        "doomed",
        "ended",
        "error",
        "fin",
        "insistent",
        "last",
        "moved",
        "over",
        "pipe",
        "queued",
        "readable",
        "received",
        "told",
        "unspliceable",
        "writable",
    )

    def __init__(
        self,
        source: SocketType,
        sink: SocketType,
        buffer: memoryview,
        keep: Callable[[memoryview], bytes | memoryview],
        pipes: "PipePool | None",
    ) -> None:
        self._source = source
        self._sink = sink
        self._buffer = buffer
        self._keep = keep
        self._rest: bytes | memoryview = b""
        self._pipes = pipes
        self._streak = 0  # reads in a row that filled the buffer
        self._undelivered = 0  # bytes read that the sink will never take
        self.pipe: Pipe | None = None
        self.received = 0  # bytes, since the beginning
        self.moved = False
        """Set when any byte moves, in or out; who has taken note of it clears it."""
        self.readable = False
        self.writable = True
        self.insistent = False
        self.last = False
        """Whether behind what can be read now there is a FIN, and nothing else yet."""
        self.fin = False
        """Whether the source has ended its sending, as far as the kernel has told: perhaps behind unread data."""
        self.ended = False
        """Whether the end of data was read, with everything before it delivered: it is passed on."""
        self.told = False
        """Whether the sink was told of the end: our FIN is behind all that it was sent. Set from outside."""
        self.done = False
        """Whether the sink has acknowledged everything, our FIN included. Set from outside."""
        self.over = False
        """Nothing more is moved: the source has ended, or the sink takes no more. Also set from outside."""
        self.bulk = False
        """Whether the last bytes came in large pieces: the flow can wait for those that move little."""
        self.queued = False
        """Whether the relay's queue holds it, to be moved when its turn comes."""
        self.unspliceable = False
        """Whether splice(2) met what recv(2) gets past: TCP's urgent mark, the end, or a refusal."""
        self.doomed: str | None = None
        """The source's error, taken from its socket already. recv(2) then returns 0, which is no normal end."""
        self.error: str | None = None

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

    def doom(self, error: str) -> None:
        """Note the source's error: what it said before is still moved, then the pump fails with this error."""
        self.doomed = error
        self.readable = True
        self.insistent = True
        self.last = False

    def move(self) -> Outcome:
        """Move what can be moved now; tell why it stopped."""
        if self.pipe is not None:
            return self._splice(self.pipe)
        if self._rest and (outcome := self._deliver(memoryview(self._rest))):
            return outcome
        buffer = self._buffer
        for _ in range(_ROUNDS):
            try:
                got = self._source.recv_into(buffer, 0, _DONTWAIT)
            except BlockingIOError:
                if self.doomed:  # its error was a passing one: a dead socket never says EAGAIN
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
            # _deliver's own lines, once more: the call took a tenth of what a request costs the worker.
            try:
                sent = self._sink.send(buffer[:got], _DONTWAIT)
            except OSError as failure:
                return self._not_sent(failure, buffer[:got])
            if sent < got:
                return self._hold(buffer[sent:got])
            if got < len(buffer):
                self._streak = 0
                self.bulk = got >= _LITTLE
                if not self.insistent:
                    self.readable = False
                    return _STARVED
                if self.last:
                    return self._at_end()
            else:
                self._streak += 1
                self.bulk = True
                if self._streak >= _HUNGRY and (pipe := self._borrow()) is not None:
                    return self._splice(pipe)
                if got >= _LITTLE:
                    break
        return Outcome.UNFINISHED

    def _at_end(self) -> Outcome:
        """The source gives no more, and everything before is delivered."""
        self.over = True
        if self.doomed:
            self.error = self.doomed
            return Outcome.READ_FAILED
        self.ended = self.fin = True
        return _ENDED

    def _deliver(self, data: memoryview) -> Outcome | None:
        """Send `data`; hold what the sink does not take. None: all of it was taken."""
        try:
            sent = self._sink.send(data, _DONTWAIT)
        except OSError as failure:
            return self._not_sent(failure, data)
        self.moved = True
        if sent < len(data):
            return self._hold(data[sent:])
        self._rest = b""
        return None

    def _not_sent(self, failure: OSError, data: memoryview) -> Outcome:
        if isinstance(failure, BlockingIOError):
            return self._hold(data)
        self._rest = b""
        self._undelivered = len(data)
        self.error = stream_error(failure.errno)
        return Outcome.WRITE_FAILED

    def _hold(self, data: memoryview) -> Outcome:
        """Keep what the sink did not take until it takes more."""
        self.writable = False
        try:
            self._rest = self._keep(data)
        except MemoryError:
            self._rest = b""
            self._undelivered = len(data)
            self.error = errno_name(errno.ENOMEM)
            return Outcome.NO_MEMORY
        return Outcome.BLOCKED

    def _borrow(self) -> "Pipe | None":
        """Borrow a pipe; None where that is of no use, or none is to be had."""
        self._streak = 0
        if self._pipes is None or self.unspliceable:
            return None
        self.pipe = self._pipes.borrow()
        if self.pipe is not None:
            try:
                # Unlike recv and send, splice(2) asks the socket's file whether it may wait.
                self._source.setblocking(False)  # noqa: FBT003 - socket's signature
                self._sink.setblocking(False)  # noqa: FBT003
            except OSError as failure:
                self._do_without(failure)
                self.give_back()
        return self.pipe

    def _do_without(self, failure: OSError) -> None:
        """Splice no more: the system refuses it, to this flow or to all."""
        self.unspliceable = True
        if self._pipes is not None and failure.errno in _REFUSED_TO_ALL:
            self._pipes.lend_no_more()

    def _is_refusal(self, failure: OSError, sock: SocketType) -> bool:
        """Tell a refusal of splice(2) from an error of the connection.

        splice(2) has taken that from the socket, and recv(2) would then tell of a normal end. ICMP has rare ones
        too (EACCES, EPROTO). With any error of its own the connection is over, unlike after a refusal.
        """
        if failure.errno in _REFUSED:
            return True
        return failure.errno not in _OF_THE_CONNECTION and sockets.is_open(sock)

    def give_back(self) -> None:
        """Return the pipe, if it is empty: the flow is quiet, or must be copied."""
        if self.pipe is not None and self._pipes is not None and not self.pipe.held:
            self._pipes.take_back(self, self.pipe)
            self.pipe = None

    def close(self) -> None:
        """End the pump: a pipe with data in it is of no use to anybody else."""
        if self.pipe is not None and self._pipes is not None and self.pipe.held:
            self._pipes.throw_away(self, self.pipe)
            self.pipe = None
        self.give_back()

    def _splice(self, pipe: "Pipe") -> Outcome:
        """Fill the pipe from the source, flush it into the sink, never fill before a flush; yield after much."""
        if self._pipes is not None:
            self._pipes.watch(self)
        if outcome := self._flush(pipe):
            return outcome
        for _ in range(_ROUNDS):
            before = self.received
            if self.readable and not self.unspliceable and not self._fill(pipe):
                return Outcome.READ_FAILED
            if outcome := self._flush(pipe):
                return outcome
            if self.unspliceable or (self.doomed and not self.readable):
                self.give_back()
                return self.move()
            if not self.readable:
                if pipe.quiet >= _SATED:
                    self.give_back()
                return _STARVED
            self.bulk = self.received - before >= _LITTLE
            if self.bulk:
                pipe.quiet = 0
                break
            pipe.quiet += 1
        return Outcome.UNFINISHED

    def _fill(self, pipe: "Pipe") -> bool:
        """Take what the source has into the pipe, which is empty; False where it failed: `error` says how."""
        try:
            got = _splice(self._source.fileno(), pipe.way_in, pipe.size)
        except BlockingIOError:
            self.readable = False
            return True
        except OSError as failure:
            if self._is_refusal(failure, self._source):
                self._do_without(failure)
                return True
            self.error = stream_error(failure.errno)
            return False
        if got:
            self.received += got
            pipe.held += got
            self.moved = True
        else:
            # Not only the end: with a FIN there it also says 0, and not EAGAIN, before the urgent mark
            # (tcp_splice_read). recv(2) tells them apart.
            self.unspliceable = True
        return True

    def _flush(self, pipe: "Pipe") -> Outcome | None:
        """Deliver what is in the pipe; None: all of it was taken, or is to be copied.

        Only EAGAIN tells that the sink is full, and that an edge will tell when it no longer is.
        """
        while pipe.held:
            try:
                pipe.held -= _splice(pipe.way_out, self._sink.fileno(), pipe.held)
            except BlockingIOError:
                self.writable = False
                return Outcome.BLOCKED
            except OSError as failure:
                if self._is_refusal(failure, self._sink):
                    self._do_without(failure)
                    return self._empty(pipe)
                self.error = stream_error(failure.errno)
                return Outcome.WRITE_FAILED
            self.moved = True
        return None

    def _empty(self, pipe: "Pipe") -> Outcome | None:
        """Take what is in the pipe out of it, to be copied. None: it is held."""
        rest = b""
        try:
            while pipe.held:
                part = os.read(pipe.way_out, pipe.held)
                pipe.held -= len(part)
                self._rest = rest = rest + part
        except MemoryError:
            self.error = errno_name(errno.ENOMEM)
            return Outcome.NO_MEMORY
        return None


if sys.platform == "linux":

    class Pipe:
        """A pipe as splice(2) wants one: grown as far as the system allows, `size` bytes. Raises OSError."""

        __slots__ = ("held", "quiet", "size", "way_in", "way_out")

        def __init__(self) -> None:
            self.held = 0  # bytes in it
            self.quiet = 0  # fillings in a row that moved little
            self.way_out, self.way_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self.size = 0
            wanted = _PIPE_SIZE
            while wanted >= _LEAST_PIPE > self.size:
                try:
                    # fs.pipe-max-size and fs.pipe-user-pages-soft bound it for an ordinary user.
                    self.size = fcntl.fcntl(self.way_in, fcntl.F_SETPIPE_SZ, wanted)
                except OSError:
                    wanted //= 2
            if self.size < _LEAST_PIPE:
                self.close()
                raise OSError(errno.EPERM, "no pipe that is larger than the scratch buffer")

        def close(self) -> None:
            """Give the descriptors back."""
            os.close(self.way_out)
            os.close(self.way_in)

    def _splice(source: int, sink: int, count: int) -> int:
        """Move up to `count` bytes within the kernel; OSError as splice(2)."""
        return os.splice(source, sink, count, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

else:

    def _splice(source: int, sink: int, count: int) -> int:  # noqa: ARG001 - one interface
        """Not here."""
        raise OSError(errno.ENOSYS, "no splice")

    class Pipe:
        """Not here: every flow goes on copying."""

        held = quiet = size = way_in = way_out = 0

        def __init__(self) -> None:
            raise OSError(errno.ENOSYS, "no splice")

        def close(self) -> None:
            """Nothing to close."""


class PipePool:
    """The pipes of one worker: at most `most`, lent to flows, kept when they come back."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._refusals = 0
        self._lends = True
        self._spare: list[Pipe] = []
        self._watched: dict[Pump, int] = {}  # with a pipe that moved: what they had received at the last look

    def borrow(self) -> Pipe | None:
        """Lend a pipe; None where none is to be had, which is no failure."""
        if self._spare:
            return self._spare.pop()
        if not self._left or not self._lends or self._refusals:
            self._refusals = max(0, self._refusals - 1)
            return None
        try:
            pipe = Pipe()
        except OSError:
            self._refusals = _REFUSALS
            return None
        self._left -= 1
        return pipe

    def lend_no_more(self) -> None:
        """Have no pipes any more: the system refuses what they are for."""
        self._lends = False
        self.close()

    def take_back(self, pump: Pump, pipe: Pipe) -> None:
        """Take an empty pipe back."""
        if not self._lends:
            self.throw_away(pump, pipe)
            return
        self._watched.pop(pump, None)
        pipe.quiet = 0
        self._spare.append(pipe)

    def throw_away(self, pump: Pump, pipe: Pipe) -> None:
        """Close a pipe: there is data in it, or it is of no use."""
        self._watched.pop(pump, None)
        self._close(pipe)

    def watch(self, pump: Pump) -> None:
        """Note that a flow with a pipe moves."""
        self._watched.setdefault(pump, -1)

    def reclaim(self) -> bool:
        """Take the pipes of the flows that have received nothing since the last call.

        Returns whether any flow is worth another look; where none is, closes the pipes that nobody has. One that
        cannot deliver what is in its pipe keeps it, and is not looked at again before it moves.
        """
        for pump, received in list(self._watched.items()):
            if pump.received != received:
                self._watched[pump] = pump.received
            else:
                del self._watched[pump]
                pump.give_back()
        if not self._watched:
            self.close()
        return bool(self._watched)

    def close(self) -> None:
        """Close the pipes that nobody has."""
        while self._spare:
            self._close(self._spare.pop())

    def _close(self, pipe: Pipe) -> None:
        pipe.close()
        self._left += 1


class Pumps:
    """Makes the pumps of one worker.

    With `size` each pump gets a buffer of exactly that many bytes; without, all share one scratch buffer and
    at most `pipes` pipes, and an idle session keeps nothing.
    """

    SCRATCH: Final = 256 * 1024
    """Bytes. The size at which the prototype's copying loop was measured."""

    def __init__(self, size: int | None, pipes: int) -> None:
        self._size = size
        self._scratch = memoryview(bytearray(0 if size else self.SCRATCH))
        self._pipes = PipePool(0 if size else pipes)

    def make(self, source: SocketType, sink: SocketType) -> Pump:
        """Make a pump from `source` to `sink`. MemoryError: there is no memory for its buffer."""
        if self._size is None:
            return Pump(source, sink, self._scratch, bytes, self._pipes)
        buffer = bytearray(self._size + _HEADROOM)
        del buffer[self._size :]
        return Pump(source, sink, memoryview(buffer), _in_place, None)

    def reclaim(self) -> bool:
        """See :meth:`PipePool.reclaim`."""
        return self._pipes.reclaim()

    def close(self) -> None:
        """Give the pipes that no flow has back to the system."""
        self._pipes.close()


def _in_place(rest: memoryview) -> memoryview:
    return rest
