"""The channels to the outlet are local sockets, on POSIX.

A local socket keeps what was sent when its sender dies, tells when its other end is gone, and never waits if it
is non-blocking.
"""

import errno
import os
import select
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from multiprocessing import reduction
from typing import Any, Final, Protocol, TypeAlias

from mprelay.system import poller
from mprelay.system.streams import STDERR, STDIN, STDOUT

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

RecordEnd: TypeAlias = socket.socket
ComplaintEnd: TypeAlias = socket.socket
"""One end of each channel, as it goes to the outlet."""

_ENDED_ERRNOS: Final = {errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET}  # the other end is closed


class HasFileno(Protocol):
    """Has a descriptor."""

    def fileno(self) -> int:
        """Return its number."""


class Handed:
    """A descriptor that spawn passes to the process it starts, where it arrives as a plain number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Duplicate it into the process being started."""
        return _arrived, (reduction.DupFd(self._number),)  # type: ignore[attr-defined,unused-ignore]


def _arrived(passed: Any) -> int:  # noqa: ANN401 - multiprocessing's own, private class
    return int(passed.detach())


def record_channel() -> tuple[RecordEnd, RecordEnd]:
    """Make the channel for records: the supervisor's end and the outlet's. Raises OSError."""
    return socket.socketpair()


def complaint_channel() -> tuple[ComplaintEnd, ComplaintEnd]:
    """Make the channel for complaints: the outlet's end, and the voice. Raises OSError."""
    ours, voice = socket.socketpair()
    voice.setblocking(False)  # noqa: FBT003 - socket's signature
    return ours, voice


class RecordSender:
    """The supervisor's end of the channel for records, which it owns."""

    ROOM: Final = poller.WRITE
    """What :meth:`fileno` is ready for when there is room again."""

    def __init__(self, end: RecordEnd) -> None:
        self._sock = end
        end.setblocking(False)  # noqa: FBT003 - socket's signature
        self.send = end.send
        """send(data): send what there is room for; return the number of bytes. OSError, BlockingIOError."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when the outlet has said something, or has ended."""
        return self._sock.fileno()

    unsettled: Final = 0
    """Bytes of what was sent that would be lost if this process ended now: the kernel has them all."""

    def hear(self) -> bytes:
        """Take what the outlet says; b"": it has ended. BlockingIOError: it has said nothing. Raises OSError."""
        return self._sock.recv(16)

    def end(self) -> bool:
        """Send the end behind all records. False if a sandbox refuses that."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as failure:
            return failure.errno in _ENDED_ERRNOS
        return True

    def await_end(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the outlet; tell whether it has come."""
        self._sock.settimeout(seconds)
        try:
            while self._sock.recv(16):
                pass
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        self._sock.close()


class RecordReceiver:
    """The outlet's end of the channel for records, which it owns. OSError: a sandbox refuses poll(2)."""

    def __init__(self, end: RecordEnd) -> None:
        self._sock = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._poll.register(STDOUT, 0)  # hang-up and error are always reported (poll(2))
        self._poll.poll(0)  # if a sandbox refuses it, that must be known before READY is sent

    def receive(self, size: int) -> bytes:
        """Wait for records; take at most `size` bytes, b"" at the end. BrokenPipeError: stdout has no reader."""
        if STDOUT in dict(self._poll.poll()):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        try:
            return self._sock.recv(size)
        except ConnectionResetError:  # the supervisor died before it read what we told it
            return b""

    def tell(self, what: bytes) -> None:
        """Tell the supervisor something."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it is gone; what it sent is still here
            self._sock.sendall(what)


class ComplaintReader:
    """The outlet's end of the channel for complaints. Until the outlet is ready the supervisor has it too."""

    def __init__(self, end: ComplaintEnd) -> None:
        self._sock = end

    def receive(self, size: int) -> bytes:
        """Wait for complaints; take at most `size` bytes, b"" at the end."""
        return self._sock.recv(size)

    def take_waiting(self) -> bytes:
        """Take what waits."""
        parts = []
        with suppress(OSError):
            while part := self._sock.recv(65536, socket.MSG_DONTWAIT):
                parts.append(part)
        return b"".join(parts)

    def end(self) -> None:
        """Let the end come behind the complaints that have arrived."""
        with suppress(OSError):  # a sandbox refuses it
            self._sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Give the descriptor back."""
        self._sock.close()


def take_over(voice: ComplaintEnd, stdout: int, stderr: int, keep: Sequence[HasFileno]) -> None:
    """Put voice and streams in their places, and close everything but `keep`.

    Spawn passes on a descriptor that would keep multiprocessing's resource tracker alive as long as this process.
    """
    for descriptor, place in ((voice.detach(), STDIN), (stdout, STDOUT), (stderr, STDERR)):
        os.dup2(descriptor, place)
    kept = sorted(end.fileno() for end in keep)
    for last, following in pairwise((STDERR, *kept, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(last + 1, following)
