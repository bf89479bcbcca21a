"""Unix sockets where Python has none: Windows."""

import socket
from typing import Final

PATH_LIMIT: Final = 0


class Unusable(Exception):  # noqa: N818 - it says what the path is
    """The path cannot be used, and why."""


class Listener:
    """Cannot be made."""

    def __init__(self, path: str) -> None:
        raise Unusable(path)

    def fileno(self) -> int:
        """Not here."""
        raise NotImplementedError

    def accept(self) -> tuple[socket.socket, int, int]:
        """Not here."""
        raise NotImplementedError

    def close(self) -> None:
        """Not here."""
        raise NotImplementedError

    def remove(self) -> None:
        """Not here."""
        raise NotImplementedError


def may_ask(uid: int) -> bool:
    """Not here."""
    raise NotImplementedError


def hung_up(sock: socket.socket) -> bool:
    """Not here."""
    raise NotImplementedError
