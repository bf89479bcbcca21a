"""What a pump is tested with: real sockets, and the edges that a poller would tell of."""

import socket

from mprelay.system import poller
from mprelay.worker.pump import Pump


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: the far end, and ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    far.settimeout(20)
    return far, near


def small(sock: socket.socket, option: int) -> None:
    """Make a kernel buffer as small as it gets."""
    sock.setsockopt(socket.SOL_SOCKET, option, 1)


def edge(pump: Pump, *more: int) -> None:
    """Tell a pump of an edge of its source: there is data, and whatever `more` says is behind it."""
    pump.source_ready(sum(more, start=poller.READ))
