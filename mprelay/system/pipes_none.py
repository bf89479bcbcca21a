"""Pipes for splice(2), where there is no splice(2): none can be made, so every flow is copied."""

import errno
from socket import SocketType


class Pipe:
    """Cannot be made: raises OSError, as on a system that refuses it."""

    held = quiet = size = way_in = way_out = 0

    def __init__(self) -> None:
        raise OSError(errno.ENOSYS, "no splice")

    def fill(self, source: SocketType) -> int:
        """Not here."""
        raise NotImplementedError

    def flush(self, sink: SocketType) -> None:
        """Not here."""
        raise NotImplementedError

    def read(self) -> bytes:
        """Not here."""
        raise NotImplementedError

    def close(self) -> None:
        """Not here."""
        raise NotImplementedError
