"""Clients and targets: both sides of a relay, and their sockets."""

import contextlib
import errno
import os
import random
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from support.waiting import PATIENCE

Address = tuple[Any, ...]
"""An address as in socket(7): host, port, and for IPv6 two more values."""

ABORT = struct.pack("ii", 1, 0)

# Below the kernel's range for outgoing connections; each of pytest-xdist's processes has ports of its own.
_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_ports = random.SystemRandom().sample(range(20000 + _share, 32000, _shares), 1000)


def free_port() -> int:
    """A TCP port without a listener on any address, which outgoing connections never get."""
    while True:
        port = _ports.pop()
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            return port


def connect(address: Address, **where: Any) -> socket.socket:
    """Connect to a peer that may reset the connection at once (`where`: see :func:`_connect`).

    On loopback connect(2) itself may report the reset. That is the same outcome as a reset a moment later, so
    the caller then gets a socket that was reset after it was connected. It has the same port if `source` was
    given.
    """
    sock, own = _connect(address, **where)
    return sock or _reset_after_connect(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, own)


def _connect(
    address: Address,
    *,
    source: str | None = None,
    port: int = 0,
    wait: bool = True,
    receive_buffer: int | None = None,
) -> tuple[socket.socket | None, Address]:
    """Connect, from `source` and `port`; without `wait` it may still be under way.

    Returns the socket, or None if connect(2) reported a reset, and its own address: with the port, if `source`
    was given.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            sock.bind((source, port))
        own = sock.getsockname() if source else ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)
        sock.settimeout(PATIENCE if wait else 0)
        try:
            sock.connect(address)
        except BlockingIOError:
            sock.settimeout(PATIENCE)
        except ConnectionResetError:
            return None, own
        undo.pop_all()
    return sock, own


def _reset_after_connect(family: int, own: Address) -> socket.socket:
    """Make a client's socket, bound to `own`, that was connected and then reset.

    The port is none of the kernel's range for outgoing connections. A test may have used up all of these.
    """
    with contextlib.ExitStack() as undo, listening(family, own[0], port=free_port()) as server:
        sock = undo.enter_context(socket.socket(family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(own)
        sock.settimeout(PATIENCE)
        sock.connect(server.getsockname())
        reset(accept(server))
        undo.pop_all()
    return sock


class Answer(NamedTuple):
    """The outcome for a client that connected and read to the end."""

    port: int  # the client's own port, which identifies it in records
    heard: bytes
    reset: bool  # whether the end was a reset, not an end of data


def knock(address: Address, say: bytes = b"", *, patience: float = PATIENCE, **where: Any) -> Answer:
    """Connect (`where`: see :func:`_connect`), say something, and read to the end, which may come at any moment.

    TimeoutError: `patience` seconds went by without an answer.
    """
    connected, own = _connect(address, **where)
    if connected is None:
        return Answer(own[1], b"", reset=True)
    with connected as client:
        client.settimeout(patience)
        heard = bytearray()
        try:
            client.sendall(say)
            while part := client.recv(1 << 20):
                heard += part
        except (ConnectionResetError, BrokenPipeError):
            return Answer(port_of(client), bytes(heard), reset=True)
        return Answer(port_of(client), bytes(heard), reset=False)


def port_of(client: socket.socket) -> int:
    """The port that identifies this client in records."""
    return int(client.getsockname()[1])


def is_shut(port: int) -> bool:
    """Return whether the port has no listener any more."""
    with socket.socket() as probe:
        probe.settimeout(PATIENCE)
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@contextlib.contextmanager
def listening(
    family: int = socket.AF_INET, host: str = "127.0.0.1", backlog: int = 128, port: int = 0
) -> Iterator[socket.socket]:
    """A target: a listening socket. The test itself accepts and answers."""
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(backlog)
        server.settimeout(PATIENCE)
        yield server


@contextlib.contextmanager
def silent() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A target that does not answer: its queue is full, so the kernel drops every further SYN.

    It yields the listener and a socket. Closing that socket, and accepting it, lets the next connection in.
    """
    with listening(backlog=0) as server, socket.create_connection(server.getsockname()) as filler:
        yield server, filler


def accept(server: socket.socket) -> socket.socket:
    """Accept one connection as the target."""
    conn, _ = server.accept()
    conn.settimeout(PATIENCE)
    return conn


@contextlib.contextmanager
def answering(server: socket.socket, greeting: bytes = b"", *, hold: bool = False) -> Iterator[None]:
    """Run a target in a thread that greets each connection, and ends it, or holds it until the block ends."""
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
        server.settimeout(PATIENCE)
        end()


def echo(client: socket.socket, target: socket.socket) -> None:
    """Check that bytes still pass both ways."""
    client.sendall(b"there")
    assert receive(target, 5) == b"there"
    target.sendall(b"back")
    assert receive(client, 4) == b"back"


@contextlib.contextmanager
def echoing() -> Iterator[socket.socket]:
    """A target, in a thread, that echoes its input and ends when the other side has ended."""
    selector = selectors.DefaultSelector()
    ours, theirs = socket.socketpair()

    def serve(server: socket.socket) -> None:
        while True:
            for key, _mask in selector.select():
                sock: Any = key.fileobj
                if sock is theirs:
                    return
                if sock is server:
                    conn, _ = server.accept()
                    selector.register(conn, selectors.EVENT_READ)
                    continue
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = sock.recv(65536)
                    sock.sendall(data)
                if not data:
                    selector.unregister(sock)
                    sock.close()

    with listening(backlog=4096) as server, ours, theirs, selector:
        server.settimeout(None)
        selector.register(server, selectors.EVENT_READ)
        selector.register(theirs, selectors.EVENT_READ)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield server
        finally:
            ours.send(b".")
            thread.join(PATIENCE)
            for key in list(selector.get_map().values()):
                sock: Any = key.fileobj
                if sock not in (server, theirs):
                    sock.close()


@contextlib.contextmanager
def echoing_elsewhere() -> Iterator[Address]:
    """The address of an echoing target in another process, which has its own descriptors."""
    code = """if True:
        import asyncio, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.data_received = transport.write
        async def serve():
            server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=4096)
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()
        asyncio.run(serve())
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.kill()


def receive(sock: socket.socket, size: int | None = None) -> bytes:
    """Read exactly `size` bytes, or everything up to the end of data."""
    data = bytearray()
    while size is None or len(data) < size:
        part = sock.recv(1 << 20 if size is None else min(1 << 20, size - len(data)))
        if not part:
            assert size is None, f"ended after {len(data)} of {size} bytes"
            break
        data += part
    return bytes(data)


def send_whole(sock: socket.socket, data: bytes) -> None:
    """Send all data, and then the end of data."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def both_end(client: socket.socket, target: socket.socket) -> None:
    """End a session in the normal way, the client first."""
    client.shutdown(socket.SHUT_WR)
    assert receive(target) == b""
    target.close()
    assert receive(client) == b""


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of a normal end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.close()


def ends_with_reset(sock: socket.socket) -> bool:
    """Read to the end. Return whether it was a reset (True) or a normal end (False)."""
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


def reset_arrives(sock: socket.socket) -> bool:
    """Wait for an error on a socket whose peer has ended already: recv(2) no longer reports a reset then."""
    poll = select.poll()
    poll.register(sock, 0)  # errors and hang-ups only
    assert poll.poll(PATIENCE * 1000), "nothing happened"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes without a repetition for a long stretch."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


def fill(writer: int) -> None:
    """Fill a pipe or a socket until not even a single byte fits."""
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * size)
    os.set_blocking(writer, True)
