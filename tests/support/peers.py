"""Clients and targets: what both sides of a relay do with their sockets."""

import contextlib
import random
import select
import socket
import struct
import threading

from support.waiting import PATIENCE

ABORT = struct.pack("ii", 1, 0)

_ports = random.SystemRandom().sample(
    range(20000, 32000), 2000
)  # below the kernel's range for outgoing connections


def free_port() -> int:
    """A TCP port that nobody listens on, on any address, and that no outgoing connection gets."""
    while True:
        port = _ports.pop()
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            return port


def connect(address, *, source: str | None = None, port: int = 0, wait: bool = True) -> socket.socket:
    """Connect to who may reset the connection at once; without `wait` it may still be under way.

    On loopback connect(2) itself may report the reset. That is the same outcome as a reset a moment later, so the
    caller then gets a socket that was reset after it was connected. It has the same port if `source` was given.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.bind((source, port))
        own = sock.getsockname() if source else ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)
        sock.settimeout(PATIENCE if wait else 0)
        try:
            sock.connect(address)
        except BlockingIOError:
            sock.settimeout(PATIENCE)
        except ConnectionResetError:
            sock.close()
            return _reset_after_connect(family, own)
        undo.pop_all()
    return sock


def _reset_after_connect(family: int, own) -> socket.socket:
    """Make a client's socket, bound to `own`, that was connected and then reset."""
    with contextlib.ExitStack() as undo, listening(family, own[0]) as server:
        sock = undo.enter_context(socket.socket(family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(own)
        sock.settimeout(PATIENCE)
        sock.connect(server.getsockname())
        reset(accept(server))
        undo.pop_all()
    return sock


@contextlib.contextmanager
def listening(family=socket.AF_INET, host="127.0.0.1", backlog=128):
    """A target: a listening socket; the test accepts and answers itself."""
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, 0))
        server.listen(backlog)
        server.settimeout(PATIENCE)
        yield server


@contextlib.contextmanager
def silent():
    """A target that does not answer: its queue is full, so the kernel drops every further SYN.

    Closing the socket that it yields beside the listener, and accepting it, lets the next one in.
    """
    with listening(backlog=0) as server, socket.create_connection(server.getsockname()) as filler:
        yield server, filler


def accept(server: socket.socket) -> socket.socket:
    """Accept one connection as the target."""
    conn, _ = server.accept()
    conn.settimeout(PATIENCE)
    return conn


@contextlib.contextmanager
def answering(server: socket.socket, greeting: bytes = b"", *, hold: bool = False):
    """Let a target, in a thread, greet each connection, and end it, or hold it to the end of all."""
    stop = threading.Event()
    held: list[socket.socket] = []

    def serve() -> None:
        server.settimeout(0.1)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                conn, _ = server.accept()
                held.append(conn)
                conn.sendall(greeting)
            if not hold:
                end()

    def end() -> None:
        while held:
            held.pop().close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        end()


def echo(client: socket.socket, target: socket.socket) -> None:
    """Bytes still go both ways."""
    client.sendall(b"there")
    assert receive(target, 5) == b"there"
    target.sendall(b"back")
    assert receive(client, 4) == b"back"


def receive(sock: socket.socket, size: int | None = None) -> bytes:
    """Read exactly `size` bytes, or all up to the end of data."""
    data = bytearray()
    while size is None or len(data) < size:
        part = sock.recv(1 << 20 if size is None else min(1 << 20, size - len(data)))
        if not part:
            assert size is None, f"ended after {len(data)} of {size} bytes"
            break
        data += part
    return bytes(data)


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of a normal end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.close()


def ends_with_reset(sock: socket.socket) -> bool:
    """Read to the end; tell whether it was a reset (True) or a normal end (False)."""
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


def reset_arrives(sock: socket.socket) -> bool:
    """Wait for trouble on a socket whose peer has already ended: recv(2) no longer tells a reset then."""
    poll = select.poll()
    poll.register(sock, 0)  # errors and hang-ups only
    assert poll.poll(PATIENCE * 1000), "nothing happened"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that no other offset repeats soon."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret
