"""A service manager, as far as it hears what a relay says: a datagram socket (sd_notify(3))."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import PATIENCE


class Manager:
    """Hears what services tell it. `address` goes into NOTIFY_SOCKET."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.address = address
        self._sock = sock

    def hear(self, patience: float = PATIENCE) -> list[str]:
        """The assignments of the next message. TimeoutError: nothing was said for `patience` seconds."""
        self._sock.settimeout(patience)
        return self._sock.recv(4096).decode().split("\n")

    def until(self, assignment: str) -> list[list[str]]:
        """The messages up to the first with this assignment."""
        heard: list[list[str]] = []
        while not heard or assignment not in heard[-1]:
            heard.append(self.hear())
        return heard

    def rest(self) -> list[list[str]]:
        """The messages that wait."""
        heard = []
        while True:
            try:
                heard.append(self.hear(0))
            except BlockingIOError:
                return heard


@contextmanager
def managing(directory: Path, *, abstract: bool = False) -> Iterator[Manager]:
    """A service manager whose socket is in a directory, or has a name without one."""
    path = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{path}" if abstract else path)
        yield Manager(sock, f"@{path}" if abstract else path)
