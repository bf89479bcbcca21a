"""The way up: one multiprocessing queue for each worker carries its events to the supervisor.

The only file that knows what a :class:`multiprocessing.SimpleQueue` is made of: a pipe, whose ends are
:mod:`mprelay.system.oneway`'s. ``concurrent.futures.process`` knows it too, to wait for one.

Rules:

1. Each worker has a queue of its own. If they shared one, a worker killed while it held the write lock would
   silence all others. A queue with one writer and one reader needs no lock. Without the lock's semaphores a
   killed process leaves nothing behind.
2. A frame fits into one atomic write (PIPE_BUF, 4096 bytes: pipe(7)) together with its length. So a killed worker
   cannot leave half a frame.
3. Neither process waits for the other: both ends are non-blocking. The kernel refuses a frame that does not fit
   whole; the worker keeps it.
4. The end of the queue comes after its last event: the kernel closes the writer's end when the worker is gone,
   and the supervisor keeps no copy of it.
5. These are the only bytes that reach the supervisor from a process that handles what clients send. So a frame
   is JSON and not a pickle, which could run code, or ask for gigabytes of memory with 45 bytes. Anything that is
   not shaped like an event, or cannot be true, is refused. A compromised worker can lie about its own sessions
   and nothing else.
"""

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product
from multiprocessing import queues
from types import SimpleNamespace
from typing import Any, Final, get_args

import orjson

from mprelay.core.protocol import (
    ERROR_LIMIT,
    IP_LENGTH_LIMIT,
    PORTS_END,
    PROBLEM_LIMIT,
    Announced,
    Closed,
    CloseReason,
    Connected,
    Crashed,
    Event,
    Measured,
    NotAnnounced,
    PeerEnd,
    Progress,
    Ready,
    Side,
    Trying,
)
from mprelay.system import oneway

EVENTS_PER_FRAME: Final = 13
"""Events in one frame, at most. The largest (Closed, all numbers of 64 bits) takes less than 310 bytes: a test
measures it."""

KINDS: Final = (Ready, Connected, Progress, Closed, Crashed, Announced, NotAnnounced, Trying, Measured)
"""All kinds of event. Its index here is the code of a kind in a frame."""

_CODES: Final = {kind: code for code, kind in enumerate(KINDS)}
_READY: Final = _CODES[Ready]
_CLOSED: Final = _CODES[Closed]
_CONNECTED: Final = _CODES[Connected]
_PROGRESS: Final = _CODES[Progress]
_TRYING: Final = _CODES[Trying]
_ANNOUNCED: Final = _CODES[Announced]
_NOT_ANNOUNCED: Final = _CODES[NotAnnounced]
_MEASURED: Final = _CODES[Measured]
_type: Final[Callable[[object], type]] = (
    type  # `type` itself also takes three arguments, which mypy rejects in map
)
_NAMES: Final[dict[CloseReason | None, str | None]] = {None: None} | {r: r.value for r in CloseReason}
_REASONS: Final = {name: reason for reason, name in _NAMES.items()}


def pack(event: Event) -> tuple[Any, ...]:
    """Make a plain tuple of an event, because orjson takes no named tuple."""
    if type(event) is Closed:
        serial, at, duration_ms, reason, *facts = event
        return (_CLOSED, serial, at, duration_ms, _NAMES[reason], *facts)
    return (_CODES[type(event)], *event)


_STR_OR_NONE: Final[tuple[type, ...]] = (str, type(None))
_FLOAT_OR_NONE: Final[tuple[type, ...]] = (float, type(None))
_INT_OR_NONE: Final[tuple[type, ...]] = (int, type(None))
_SHAPES: Final[dict[tuple[type, ...], int]] = (
    {
        (int, float, str): _READY,
        (int, int, str): _TRYING,
        (int, int, float, float, int): _CODES[Connected],
        (int, int, int, int, int, int): _CODES[Progress],
        (int, float, str, str): _CODES[Crashed],
        (int, int, float, str, int): _ANNOUNCED,
        (int, int, float, type(None), int): _ANNOUNCED,
        (int, int, float, str): _NOT_ANNOUNCED,
    }
    | {
        (int, int, float, float, *texts, int, int, int, int): _CLOSED
        for texts in product(_STR_OR_NONE, repeat=6)  # reason, error, whose, how each side ended, inbound address
    }
    | {
        (int, int, *measured): _MEASURED
        for measured in product(_FLOAT_OR_NONE, _FLOAT_OR_NONE, _INT_OR_NONE, _INT_OR_NONE)
    }
)
"""The types of an event's code and values, and to which code they belong. No two events have the same types."""

_BUILD_NAME_LIMIT: Final = 64
"""Characters, at most."""

_BYTES_END: Final = 2**60
"""Bytes of one session are below: three years at 100 Gbit/s."""

_TIMESTAMPS_END: Final = 1e11
"""Seconds since 1970 are below, so that they can be shown as a date."""

_DURATIONS_END: Final = 1e14
"""Milliseconds of one session are below: three thousand years."""

_RTTS_END: Final = 2**32 / 1000
"""Milliseconds of a round-trip time are below: the kernel has microseconds of 32 bits (linux/tcp.h)."""

_RETRANSMITS_END: Final = 2**32
"""Segments sent again are below: linux/tcp.h."""

_SIDES: Final = {None, *get_args(Side)}
_PEER_ENDS: Final = {None, *get_args(PeerEnd)}

_FRAME_LIMIT: Final[int] = oneway.ATOMIC
"""Bytes of a frame with its length, at most."""

_LENGTH: Final = struct.Struct("!i")
"""The length before each frame, as multiprocessing.Connection writes it."""

_PIPE_SIZE: Final = 64 * 1024
"""Bytes that a pipe holds (pipe(7)): one read takes all."""


class NotEvents(Exception):  # noqa: N818 - it says what came
    """Something that no worker of ours reports."""


def unpack(packed: Any) -> Event:  # noqa: ANN401 - that is the question
    """Make the event again. Raises NotEvents if it is none, or if its figures cannot stand in a record."""
    code = _SHAPES.get(tuple(map(_type, packed))) if type(packed) is list else None
    if code is None or code != packed[0]:
        raise NotEvents("a value that is no event")
    if code == _CLOSED:
        _, _, at, duration_ms, name, error, error_from, client_end, target_end, inbound = packed[:10]
        from_client, from_target, to_client, to_target = packed[10:]
        if (
            0.0 <= at < _TIMESTAMPS_END
            and 0.0 <= duration_ms < _DURATIONS_END
            and 0 <= to_target <= from_client < _BYTES_END
            and 0 <= to_client <= from_target < _BYTES_END
            and name in _REASONS
            and (error is None or (error.isascii() and len(error) <= ERROR_LIMIT))
            and (inbound is None or _is_plain(inbound, IP_LENGTH_LIMIT))
            and error_from in _SIDES
            and client_end in _PEER_ENDS
            and target_end in _PEER_ENDS
        ):
            packed[4] = _REASONS[name]
            return Closed(*packed[1:])
    elif code == _CONNECTED:
        _, serial, at, connect_ms, outbound_port = packed
        if 0.0 <= at < _TIMESTAMPS_END and 0.0 <= connect_ms < _DURATIONS_END and 0 <= outbound_port < PORTS_END:
            return Connected(serial, at, connect_ms, outbound_port)
    elif code == _PROGRESS:
        progress = Progress(*packed[1:])
        if (
            0 <= progress.bytes_to_target <= progress.bytes_from_client < _BYTES_END
            and 0 <= progress.bytes_to_client <= progress.bytes_from_target < _BYTES_END
        ):
            return progress
    elif code == _TRYING:
        if _is_plain(packed[2], IP_LENGTH_LIMIT):
            return Trying(*packed[1:])
    elif code == _READY:
        _, at, build = packed
        if 0.0 <= at < _TIMESTAMPS_END and _is_plain(build, _BUILD_NAME_LIMIT):
            return Ready(at, build)
    elif code == _ANNOUNCED:
        _, number, at, ip, port = packed
        known = ip is None or _is_plain(ip, IP_LENGTH_LIMIT)
        if 0.0 <= at < _TIMESTAMPS_END and known and 0 <= port < PORTS_END:
            return Announced(number, at, ip, port)
    elif code == _NOT_ANNOUNCED:
        _, number, at, problem = packed
        if 0.0 <= at < _TIMESTAMPS_END and _is_plain(problem, PROBLEM_LIMIT):
            return NotAnnounced(number, at, problem)
    elif code == _MEASURED:
        measured = Measured(*packed[1:])
        if (
            0.0 <= (measured.client_rtt_ms or 0.0) < _RTTS_END
            and 0.0 <= (measured.target_rtt_ms or 0.0) < _RTTS_END
            and 0 <= (measured.client_retransmits or 0) < _RETRANSMITS_END
            and 0 <= (measured.target_retransmits or 0) < _RETRANSMITS_END
        ):
            return measured
    elif 0.0 <= packed[1] < _TIMESTAMPS_END:
        return Crashed(*packed[1:])
    raise NotEvents("figures beyond all bounds")


def _is_plain(text: str, limit: int) -> bool:
    return len(text) <= limit and text.isascii() and text.isprintable()


class Queue(queues.SimpleQueue[Any]):
    """A SimpleQueue without locks, between exactly one writer and one reader."""

    _write: Callable[[bytes], int]

    def __init__(self) -> None:
        super().__init__(ctx=SimpleNamespace(Lock=nullcontext))

    def open_writer(self) -> oneway.Writer:
        """Make this the end that writes, which :meth:`put` needs. The reading end is closed here.

        A copy of that would keep the pipe alive when the reader is gone.
        """
        self.reader.close()
        end = oneway.Writer(self.writer)
        self._write = end.write
        return end

    def open_reader(self) -> oneway.Reader:
        """Make this the end that reads. The writing end is closed here: with a copy of it the end never comes."""
        self.writer.close()
        return oneway.Reader(self.reader)

    def put(self, obj: list[tuple[Any, ...]]) -> None:
        """Put a frame. Raises BlockingIOError if there is no room for it, BrokenPipeError if nobody reads."""
        data = orjson.dumps(obj)
        self._write(_LENGTH.pack(len(data)) + data)  # whole or not at all: rule 2

    @property
    def reader(self) -> Any:  # noqa: ANN401 - multiprocessing.connection.Connection, untyped attribute
        """The end to wait on and read from."""
        return self._reader  # type: ignore[attr-defined]

    @property
    def writer(self) -> Any:  # noqa: ANN401
        """The end to write to."""
        return self._writer  # type: ignore[attr-defined]


class Uplink:
    """The worker's end: events wait here until the pipe takes them."""

    ROOM: Final = oneway.Writer.ROOM
    """What :meth:`fileno` is ready for when the pipe has room again."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._end = queue.open_writer()
        self._end.fileno()  # now: it may take a port, and later there may be none
        self.waiting: list[Event] = []
        """Events not yet sent."""
        self.report = self.waiting.append
        """report(event): keep it for the next :meth:`flush`."""

    def fileno(self) -> int:
        """Return the descriptor that tells of room."""
        return self._end.fileno()

    def flush(self) -> bool:
        """Send what waits; False if not all could be sent. Raises BrokenPipeError if nobody reads any more."""
        waiting = self.waiting
        while waiting:
            try:
                self._queue.put([pack(event) for event in waiting[:EVENTS_PER_FRAME]])
            except BlockingIOError:
                return False
            del waiting[:EVENTS_PER_FRAME]
        return True

    def flush_within(self, seconds: float) -> bool:
        """Send what waits, and wait for room up to `seconds`; False if not all could be sent by then.

        Raises BrokenPipeError if nobody reads any more.
        """
        give_up_at = time.monotonic() + seconds
        while not self.flush():
            left = give_up_at - time.monotonic()
            if left <= 0:
                return False
            self._end.wait_for_room(left)  # ends too when the reader is gone; then the next flush raises
        self.settle(give_up_at - time.monotonic())
        return True

    def settle(self, seconds: float | None = None) -> None:
        """Wait up to `seconds` (None: for ever) until what was sent outlives this process."""
        self._end.settle(seconds)


class EventReader:
    """The supervisor's end."""

    def __init__(self, queue: Queue) -> None:
        self._end = queue.open_reader()
        self._read = self._end.read
        self._ending = False
        self._rest = b""  # the beginning of a frame whose end has not arrived
        self.more = True
        """Whether more may wait than the last :meth:`take` took."""
        self.garbled = False
        """Whether the last report came, or something that no worker of ours reports. Nothing is read after it."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when a frame waits, or the end."""
        return self._end.fileno()

    def expect_end(self) -> None:
        """The worker is dead: :attr:`more` may wait until the end has come."""
        self._ending = self._end.expect_end()

    def take(self) -> list[Event] | None:
        """Take what waits, many frames at once; [] if nothing waits, None at the end. Never blocks.

        Anything but a frame of events is reported as a crash of the worker, and the end follows.
        ``Connection.recv_bytes`` would read each frame with two system calls, and need one more to see that no
        frame is left.
        """
        if self.garbled:
            return None
        try:
            data = self._read(_PIPE_SIZE)
        except BlockingIOError:
            self.more = False
            return []
        if not data:
            return None
        self.more = self._ending or len(data) == _PIPE_SIZE
        events: list[Event] = []
        try:
            for frame in self._frames(self._rest + data):
                events += map(unpack, frame)
        except NotEvents as wrong:
            events.append(self.distrust(f"NotEvents: {wrong}"))
        return events

    def _frames(self, data: bytes) -> Iterator[list[Any]]:
        """Split `data` into frames and keep the rest. Raises NotEvents if something is no frame."""
        start, end = 0, _LENGTH.size
        while end <= len(data):
            (size,) = _LENGTH.unpack_from(data, start)
            if not 0 <= size <= _FRAME_LIMIT:
                raise NotEvents(f"a frame of {size} bytes")
            if end + size > len(data):
                break
            try:
                frame = orjson.loads(data[end : end + size])
            except ValueError as wrong:
                raise NotEvents(str(wrong)) from wrong
            if type(frame) is not list:
                raise NotEvents("a frame that is no list")
            yield frame
            start = end + size
            end = start + _LENGTH.size
        self._rest = data[start:]
        if self._rest and not self.more:
            raise NotEvents("a frame that is not whole")  # rule 2

    def distrust(self, why: str) -> Crashed:
        """Read nothing more, and report a crash in the worker's place."""
        self.stop()
        return Crashed(time.time(), "uplink", why)

    def stop(self) -> None:
        """Read nothing more."""
        self.garbled = True

    def close(self) -> None:
        """Give the descriptor back."""
        self._end.close()
