"""Sockets are passed by ``socket.share`` over a pipe of multiprocessing, on Windows.

The only file that knows these. How it keeps the rules of :mod:`mprelay.system.passing`:

- WSADuplicateSocket, which ``share`` calls, duplicates the socket's handle into the receiving process right away,
  and returns what that process needs to use it: a blob. So the sender's copy may be closed before the blob
  arrives. If the process dies before it has read the blob, the system closes the handle with all others.
- So room is checked before anything is shared. Otherwise a message that finds none would leave open sockets
  behind, in a process that does not know of them.
- If a socket cannot be shared, those before it in the message are: they go without a message, to be closed.
- If the receiver cannot take one, its handle is in this process already, where nobody knows it. Only the end of
  the process closes it.
- A message and its blobs are one write: one pickle less than ``Connection.send``, and nothing to run.
- The end of the channel is the end of the pipe.
"""

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from contextlib import closing
from socket import SocketType
from typing import Any, Final, TypeAlias

from mprelay.system import oneway

MECHANISM: Final = "socket.share"
"""What a person is told about if it does not work."""

End: TypeAlias = oneway.End
"""One end of a channel."""

_HEAD: Final = struct.Struct("<III")
"""What comes before a message: its size, the number of blobs, and the size of each."""

_PROBE_LIMIT: Final = 5.0  # seconds

_BLOB_SIZE_LIMIT: Final = 4096
"""Bytes of a blob, at most. WSAPROTOCOL_INFOW takes 628."""


def missing() -> str | None:
    """Name what this platform lacks; None if it lacks nothing."""
    return None if hasattr(SocketType, "share") else "socket.share"


def channel() -> tuple[End, End]:
    """Make a channel: the end for the sender, and the end for the receiver. Raises OSError."""
    reader, writer = oneway.pipe()
    return writer, reader


def _share(descriptor: int, pid: int) -> bytes:
    """Duplicate a socket into a process; return the blob with which it can use it."""
    sock: Any = SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
    try:
        return bytes(sock.share(pid))
    finally:
        sock.detach()  # the caller still owns it


def _received(blob: bytes) -> int:
    """Return the descriptor of the socket that a blob stands for."""
    made: Any = SocketType
    return int(made(0, 0, 0, blob).detach())  # as socket.fromshare does


class Sender:
    """The sending end of a channel to the process `pid`. It owns the end."""

    def __init__(self, end: End, pid: int) -> None:
        self._end = oneway.Writer(end)
        self._pid = pid

    def send(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send `message`, which is not empty, with sockets. Never blocks.

        Raises OSError: EAGAIN (the channel is full), EPIPE (the receiver is gone), or what WSADuplicateSocket
        says. Then nothing was sent.
        """
        self._end.check_room()
        blobs: list[bytes] = []
        try:
            for descriptor in descriptors:
                blobs.append(_share(descriptor, self._pid))  # noqa: PERF401 - some are made before an error
        except OSError:
            self._write(b"", blobs)
            raise
        self._write(message, blobs)

    def _write(self, message: bytes, blobs: list[bytes]) -> None:
        head = _HEAD.pack(len(message), len(blobs), len(blobs[0]) if blobs else 0)
        self._end.write(b"".join((head, message, *blobs)))

    def close(self) -> None:
        """End the channel. What was sent still arrives."""
        self._end.close()


class Receiver:
    """The receiving end of a channel, which it owns. A message has at most `size` bytes and `count` sockets."""

    def __init__(self, end: End, size: int, count: int) -> None:
        self._end = oneway.Reader(end)
        self._size = size
        self._count = count
        self._part = b""  # of a message whose rest has not arrived

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message waits, or the end."""
        return self._end.fileno()

    def receive(self) -> tuple[bytes, list[int]]:
        """Take one message: its bytes and its sockets' descriptors, now the caller's. At the end: b"", [].

        Raises BlockingIOError if nothing waits, OSError with EMSGSIZE if the message is too long. After another
        OSError, which is a lack of memory, this process must end.
        """
        if not self._fill(_HEAD.size):
            return b"", []
        size, count, blob_size = _HEAD.unpack_from(self._part)
        if blob_size > _BLOB_SIZE_LIMIT:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        blobs_at = _HEAD.size + size
        if not self._fill(blobs_at + count * blob_size):
            return b"", []
        part, self._part = self._part, b""
        blobs = range(blobs_at, len(part), blob_size or 1)
        descriptors = [_received(part[at : at + blob_size]) for at in blobs]
        if 0 < size <= self._size and count <= self._count:
            return part[_HEAD.size : blobs_at], descriptors
        for descriptor in descriptors:
            socket.close(descriptor)
        if not size:
            return self.receive()
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))

    def _fill(self, size: int) -> bool:
        """Read until the message in `_part` has `size` bytes. False: the end came first, so it never will."""
        while len(self._part) < size:
            data = self._end.read(size - len(self._part))
            if not data:
                return False
            self._part += data
        return True

    def close(self) -> None:
        """Give everything back."""
        self._end.close()


def pass_one(ours: End, theirs: End) -> list[int]:
    """Pass a socket to ourselves; return its new descriptor, or nothing if it did not arrive. Raises OSError."""
    with (
        socket.socket() as passed,
        closing(Sender(ours, os.getpid())) as sender,
        closing(Receiver(theirs, 1, 1)) as receiver,
    ):
        sender.send(b"?", [passed.fileno()])
        select.select([receiver.fileno()], [], [], _PROBE_LIMIT)
        _message, descriptors = receiver.receive()
        return descriptors
