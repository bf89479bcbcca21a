"""Sockets are passed with SCM_RIGHTS over a local SOCK_SEQPACKET connection (unix(7)).

The only file that knows these two. How it keeps the rules of :mod:`mprelay.system.passing`:

- ``socket.recv_fds`` ignores its flags, so recvmsg_into is called here, with MSG_CMSG_CLOEXEC: a received
  descriptor is close-on-exec from the start.
- A receiver at its descriptor limit gets the message with fewer descriptors than were sent (MSG_CTRUNC). The
  kernel installs the first ones in order, and closes the rest.
- The end of the channel is the end of file.
"""

import array
import errno
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final, TypeAlias

if sys.platform != "linux":
    raise ImportError("MSG_CMSG_CLOEXEC is Linux's")  # for mypy too: it checks nothing below for other platforms

MECHANISM: Final = "SCM_RIGHTS"
"""What a person is told about if it does not work."""

End: TypeAlias = socket.socket
"""One end of a channel."""

# Combined here because `|` of two of socket's flags takes as long as a short system call: they are enums. Where
# `missing` names a flag, nothing is ever sent.
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE_FLAGS: Final = int(socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_DESCRIPTOR_SIZE: Final = array.array("i").itemsize

_SEND_BUFFER: Final = 4 * 1024 * 1024
"""Bytes asked for in the channel; the kernel grants at most net.core.wmem_max. A message with one socket takes
about 800, so hundreds can wait for a busy receiver."""


def missing() -> str | None:
    """Name what this platform lacks; None if it lacks nothing."""
    for name in ("AF_UNIX", "SOCK_SEQPACKET", "SCM_RIGHTS", "MSG_CMSG_CLOEXEC", "MSG_DONTWAIT"):
        if not hasattr(socket, name):
            return name
    return None


def channel() -> tuple[End, End]:
    """Make a channel: the end for the sender, and the end for the receiver. Raises OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Sender:
    """The sending end of a channel, which it owns."""

    def __init__(self, end: End, _pid: int) -> None:
        self._sock = end
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def send(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send `message`, which is not empty, with sockets; at most 253 (SCM_MAX_FD). Never blocks.

        Raises OSError: EAGAIN (the channel is full), EPIPE or ECONNRESET (the receiver is gone), ETOOMANYREFS
        (too many descriptors are under way). Then nothing was sent.
        """
        self._sock.sendmsg(
            [message],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else (),
            _SEND_FLAGS,
        )

    def close(self) -> None:
        """End the channel. What was sent still arrives."""
        self._sock.close()


class Receiver:
    """The receiving end of a channel, which it owns. A message has at most `size` bytes and `count` sockets."""

    def __init__(self, end: End, size: int, count: int) -> None:
        self._sock = end
        end.set_inheritable(False)
        # Made once: a process that is out of memory can still take what waits, and refuse it.
        self._message = memoryview(bytearray(size))
        self._into = [self._message]
        self._ancillary_size = socket.CMSG_SPACE(count * _DESCRIPTOR_SIZE)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message waits, or the end."""
        return self._sock.fileno()

    def receive(self) -> tuple[bytes, list[int]]:
        """Take one message: its bytes and its sockets' descriptors, now the caller's. At the end: b"", [].

        Raises BlockingIOError if nothing waits, OSError with EMSGSIZE if the message is too long.
        """
        try:
            size, ancillary, flags, _address = self._sock.recvmsg_into(
                self._into, self._ancillary_size, _RECEIVE_FLAGS
            )
        except ConnectionResetError:  # the sender died with something of ours unread: no message is left
            return b"", []
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_SIZE])
        if flags & _TRUNCATED:
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return self._message[:size].tobytes(), descriptors.tolist()

    def close(self) -> None:
        """Give the descriptor back."""
        self._sock.close()


def pass_one(ours: End, theirs: End) -> list[int]:
    """Pass a socket to ourselves; return its new descriptor, or nothing if it did not arrive. Raises OSError."""
    Sender(ours, os.getpid()).send(b"?", [theirs.fileno()])
    _message, descriptors = Receiver(theirs, 1, 1).receive()
    return descriptors
