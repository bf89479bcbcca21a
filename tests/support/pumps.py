"""Tools for tests of pumps: real sockets, and the edges that a poller would report."""

import socket

from mprelay.system import poller, sockets
from mprelay.worker.pump import Pump


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: the far end, and the relay's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    far.settimeout(20)
    if not sockets.DONTWAIT:
        near.setblocking(False)  # noqa: FBT003 - socket's signature
    return far, near


def small(sock: socket.socket, option: int) -> None:
    """Make a kernel buffer as small as possible."""
    sock.setsockopt(socket.SOL_SOCKET, option, 1)


def edge(pump: Pump, *more: int) -> None:
    """Report an edge of its source to a pump: there is data, and `more` says what follows it."""
    pump.source_ready(sum(more, start=poller.READ))
