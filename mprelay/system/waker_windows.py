"""A wake-up is a byte in a socket, because Windows' select takes nothing else."""

import socket
from contextlib import suppress


class Waker:
    """See :mod:`mprelay.system.waker`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)  # noqa: FBT003 - socket's signature
        # The pair is a TCP connection. A second byte would wait for the acknowledgement of the first.
        self._writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.writer = self._writer.fileno()
        """The descriptor of a socket: any byte sent to it wakes."""

    def fileno(self) -> int:
        """Return the descriptor that is readable after a wake-up."""
        return self._reader.fileno()

    def wake(self, what: bytes = b"\0") -> None:
        """Wake, and tell what about. What does not fit, because nobody has looked for long, is lost."""
        with suppress(BlockingIOError):
            self._writer.send(what)

    def clear(self) -> bytes:
        """Go back to sleep; return what was sent."""
        try:
            return self._reader.recv(4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give the descriptors back."""
        self._reader.close()
        self._writer.close()
