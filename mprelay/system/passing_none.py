"""For a platform on which sockets cannot be passed: this can be imported and typed, not used."""

import socket
from collections.abc import Sequence
from typing import Final, TypeAlias

MECHANISM: Final = "none"

End: TypeAlias = socket.socket


def missing() -> str | None:
    """Name what this platform lacks."""
    return "way to pass a socket to another process"


def channel() -> tuple[End, End]:
    """Make a channel."""
    raise NotImplementedError


class Sender:
    """Never made: see :func:`missing`."""

    def __init__(self, end: End) -> None:
        raise NotImplementedError

    def send(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send a message."""
        raise NotImplementedError

    def close(self) -> None:
        """End the channel."""
        raise NotImplementedError


class Receiver:
    """Never made: see :func:`missing`."""

    def __init__(self, end: End, size: int, count: int) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        """Return what to wait on."""
        raise NotImplementedError

    def receive(self) -> tuple[bytes, list[int]]:
        """Take a message."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back."""
        raise NotImplementedError
