"""The Poller of a platform for which there is none: it can be imported and typed, not used."""

from typing import Final

READ: Final = 0
WRITE: Final = 0
URGENT: Final = 0
END: Final = 0
HANGUP: Final = 0
ERROR: Final = 0
EDGE: Final = 0


def missing() -> str | None:
    """Name what this platform lacks."""
    return "epoll"


class Poller:
    """Never made: see :func:`missing`."""

    EVENTS_AT_ONCE: Final = 1

    def __init__(self) -> None:
        raise NotImplementedError

    def add(self, fd: int, mask: int) -> None:
        """Begin to watch a descriptor."""
        raise NotImplementedError

    def change(self, fd: int, mask: int) -> None:
        """Watch it for something else."""
        raise NotImplementedError

    def remove(self, fd: int) -> None:
        """Watch it no longer."""
        raise NotImplementedError

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for readiness."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back."""
        raise NotImplementedError
