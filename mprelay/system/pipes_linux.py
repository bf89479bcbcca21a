"""Pipes for splice(2), on Linux."""

import errno
import fcntl
import os
import sys
from socket import SocketType
from typing import Final

assert sys.platform == "linux"  # noqa: S101 - for mypy, which checks the other platforms too

_WANTED_SIZE: Final = 1024 * 1024  # bytes
_LEAST_SIZE: Final = 256 * 1024  # bytes: through a pipe of 8 KiB, splicing took more CPU than copying


class Pipe:
    """A pipe as large as the system allows, `size` bytes. Raises OSError."""

    __slots__ = ("held", "quiet", "size", "way_in", "way_out")

    def __init__(self) -> None:
        self.held = 0
        """Bytes in it."""
        self.quiet = 0
        """Fills in a row that moved little. The borrower counts them."""
        self.way_out, self.way_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.size = 0
        wanted = _WANTED_SIZE
        while wanted >= _LEAST_SIZE > self.size:
            try:
                # For an ordinary user, fs.pipe-max-size and fs.pipe-user-pages-soft limit it.
                self.size = fcntl.fcntl(self.way_in, fcntl.F_SETPIPE_SZ, wanted)
            except OSError:
                wanted //= 2
        if self.size < _LEAST_SIZE:
            self.close()
            raise OSError(errno.EPERM, "no pipe that is larger than the scratch buffer")

    def fill(self, source: SocketType) -> int:
        """Move what `source` has into the pipe, which must be empty; return the bytes moved.

        0 does not only mean the end: with a FIN behind it, splice(2) also returns 0, and not EAGAIN, before TCP's
        urgent mark (tcp_splice_read). BlockingIOError: there is nothing to read.
        """
        got = _splice(source.fileno(), self.way_in, self.size)
        self.held += got
        return got

    def flush(self, sink: SocketType) -> None:
        """Move bytes from the pipe to `sink`, perhaps not all. BlockingIOError: `sink` is full.

        Only that error tells that the sink is full, and that an edge will tell when it no longer is.
        """
        self.held -= _splice(self.way_out, sink.fileno(), self.held)

    def read(self) -> bytes:
        """Take bytes out of the pipe, perhaps not all."""
        part = os.read(self.way_out, self.held)
        self.held -= len(part)
        return part

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.way_out)
        os.close(self.way_in)


def _splice(source: int, sink: int, count: int) -> int:
    return os.splice(source, sink, count, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
