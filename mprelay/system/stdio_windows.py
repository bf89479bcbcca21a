"""The channels to the outlet are pipes, on Windows.

A socket would lose what it holds when its sender is killed: the system resets the connection, and a reset
discards what was not read. A pipe keeps it. What a full pipe means here:

- The supervisor's last write stays pending in the kernel, and no other is begun before it is taken.
- A complaint is lost. A write that finds no room fails with EINVAL.

Nothing tells of a reader of stdout that is gone before something is written to it.
"""

import msvcrt
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, Final, NamedTuple, TypeAlias

from mprelay.system import oneway
from mprelay.system.poller import READ, Poller
from mprelay.system.streams import END, STDERR, STDIN, STDOUT

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

from mprelay.system.oneway_windows import PipeConnection, passed_handle  # noqa: E402

_CHUNK: Final = 64 * 1024  # bytes of one write


class Handed:
    """A descriptor that spawn passes to the process it starts, where it arrives as a plain number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Duplicate its handle into the process being started."""
        return _arrived, (passed_handle(msvcrt.get_osfhandle(self._number)),)


def _arrived(handle: int) -> int:
    return msvcrt.open_osfhandle(handle, os.O_BINARY)


class Descriptor:
    """One end of the channel for complaints, which it owns."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Duplicate it into the process being started."""
        return Descriptor, (Handed(self._number),)  # the number that it has there

    def fileno(self) -> int:
        """Return the number of the descriptor."""
        return self._number

    def detach(self) -> int:
        """Return the number of the descriptor, which belongs to the caller from now on."""
        number, self._number = self._number, -1
        return number

    def close(self) -> None:
        """Give the descriptor back."""
        if self._number >= 0:
            os.close(self.detach())


class Pipes(NamedTuple):
    """One end of the channel for records: a pipe for records, and one for what the outlet says."""

    records: PipeConnection
    words: PipeConnection

    def close(self) -> None:
        """Give the handles back."""
        self.records.close()
        self.words.close()


RecordEnd: TypeAlias = Pipes
ComplaintEnd: TypeAlias = Descriptor
"""One end of each channel, as it goes to the outlet."""


def record_channel() -> tuple[RecordEnd, RecordEnd]:
    """Make the channel for records: the supervisor's end and the outlet's. Raises OSError."""
    records_out, records_in = oneway.pipe()
    words_out, words_in = oneway.pipe()
    return Pipes(records_in, words_out), Pipes(records_out, words_in)


def complaint_channel() -> tuple[ComplaintEnd, ComplaintEnd]:
    """Make the channel for complaints: the outlet's end, and the voice. Raises OSError."""
    ours, voice = os.pipe()
    os.set_blocking(voice, False)  # type: ignore[attr-defined,unused-ignore] # since Python 3.12
    return Descriptor(ours), Descriptor(voice)


class RecordSender:
    """The supervisor's end of the channel for records, which it owns."""

    ROOM: Final = READ
    """What :meth:`fileno` is ready for when there is room again."""

    def __init__(self, end: Pipes) -> None:
        self._words = oneway.Reader(end.words)
        self._records = oneway.Writer(end.records, self._words.waker)

    def fileno(self) -> int:
        """Return the descriptor that is readable when the outlet has said something, or has ended."""
        return self._words.fileno()

    def send(self, data: bytes) -> int:
        """Send what there is room for; return the number of bytes. Raises OSError, BlockingIOError.

        Less than all means that a write is pending. Only the end of a pending write wakes whoever waits for room.
        """
        sent = 0
        while sent < len(data):
            try:
                sent += self._records.write(data[sent : sent + _CHUNK])
            except BlockingIOError:
                if not sent:
                    raise
                break
        return sent

    @property
    def unsettled(self) -> int:
        """Bytes of what was sent that would be lost if this process ended now."""
        return self._records.unsettled

    def hear(self) -> bytes:
        """Take what the outlet says; b"": it has ended. Raises BlockingIOError if it has said nothing."""
        return self._words.read(16)

    def end(self) -> bool:
        """Return False: an end must wait for the write that is pending, so it is sent as data."""
        return False

    def await_end(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the outlet; tell whether it has come."""
        give_up_at = time.monotonic() + seconds
        with closing(Poller()) as arrival:
            arrival.add(self.fileno(), READ)
            while True:
                with suppress(BlockingIOError):
                    if not self.hear():
                        return True
                    continue
                left = give_up_at - time.monotonic()
                if left <= 0:
                    return False
                arrival.wait(left)

    def close(self) -> None:
        """Give everything back."""
        self._records.close()
        self._words.close()


class RecordReceiver:
    """The outlet's end of the channel for records, which it owns."""

    def __init__(self, end: Pipes) -> None:
        self._end = end

    def receive(self, size: int) -> bytes:
        """Wait for records; take at most `size` bytes, b"" at the end."""
        try:
            return self._end.records.recv_bytes(size)
        except EOFError:
            return b""

    def tell(self, what: bytes) -> None:
        """Tell the supervisor something."""
        with suppress(OSError):  # it is gone; what it sent is still here
            self._end.words.send_bytes(what)


class ComplaintReader:
    """The outlet's end of the channel for complaints. Until the outlet is ready the supervisor has it too."""

    def __init__(self, end: Descriptor) -> None:
        self._end = end
        self._over = False

    def receive(self, size: int) -> bytes:
        """Wait for complaints; take at most `size` bytes, b"" at the end."""
        if self._over:
            return b""
        part = os.read(self._end.fileno(), size)
        self._over = part.endswith(END)
        return part.removesuffix(END)

    def take_waiting(self) -> bytes:
        """Take what waits."""
        parts = []
        with suppress(OSError):
            os.set_blocking(self._end.fileno(), False)  # type: ignore[attr-defined,unused-ignore]
            while part := os.read(self._end.fileno(), _CHUNK):
                parts.append(part)
        return b"".join(parts)

    def end(self) -> None:
        """Let the end come behind the complaints that have arrived: it is sent like them, by the voice."""
        with suppress(OSError):
            os.write(STDIN, END)

    def close(self) -> None:
        """Give the descriptor back."""
        self._end.close()


def take_over(voice: ComplaintEnd, stdout: int, stderr: int, keep: Sequence[object]) -> None:
    """Put voice and streams in their places. Nothing but `keep` is open beside them."""
    del keep
    for descriptor, place in ((voice.detach(), STDIN), (stdout, STDOUT), (stderr, STDERR)):
        os.dup2(descriptor, place)
        os.close(descriptor)
