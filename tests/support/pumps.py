"""What a pump is tested with: real sockets, and the edges that a poller would tell."""

import socket
from typing import Any


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


def edge(pump: Any) -> None:
    """What the poller would say when data came."""
    pump.readable = True
