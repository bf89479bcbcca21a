"""A session's promises to its two peers: order, ends, counts and back-pressure."""

import contextlib
import hashlib
import select
import socket
import sys
import threading
from pathlib import Path

import pytest
from support.launching import PYTHON_EXE
from support.params import slow
from support.patches import with_site
from support.peers import (
    accept,
    answering,
    both_end,
    connect,
    echo,
    ends_with_reset,
    free_port,
    listening,
    pattern,
    receive,
    reset,
    send_whole,
    silent,
)
from support.relay import Relay
from support.waiting import PATIENCE, eventually

BUFFERS = ["100", "auto", *slow("4000")]

MPTCP = 262  # IPPROTO_MPTCP, netinet/in.h

# The effect of mptcpize(8): all TCP sockets are MPTCP sockets.
MPTCPIZE = f"""
import socket
class Made(socket.SocketType):
    def __init__(self, family=-1, kind=-1, proto=-1, fileno=None):
        if fileno is None and family in (socket.AF_INET, socket.AF_INET6) and proto < 1:
            proto = {MPTCP}
        super().__init__(family, kind, proto, fileno)
whole = socket.socket.__init__
def made(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=-1, fileno=None):
    if fileno is None and family in (socket.AF_INET, socket.AF_INET6) and proto < 1:
        proto = {MPTCP}
    whole(self, family, type, proto, fileno)
socket.SocketType, socket.socket.__init__ = Made, made
"""

MIB = 1 << 20


# -- order and ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", BUFFERS)
def test_the_server_speaks_first(buffer):
    """A greeting arrives although the client has sent nothing."""
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client, accept(server) as target:
            greeting = pattern(5000)
            target.sendall(greeting)
            assert receive(client, 5000) == greeting
            client.sendall(b"hello")
            assert receive(target, 5) == b"hello"
            both_end(client, target)
        closed = relay.wait("session.closed")
        assert (
            closed["reason"],
            closed["bytes_from_client"],
            closed["bytes_from_target"],
        ) == ("requester_read_closed", 5, 5000)


@pytest.mark.parametrize("buffer", BUFFERS)
def test_write_then_close_by_the_client_loses_nothing(buffer):
    """The client writes and closes at once. The target reads later, and gets all data and a normal end."""
    data = pattern(400_000)
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        client = relay.connect()
        with accept(server) as target:
            client.sendall(data)
            client.close()
            assert receive(target) == data
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
        assert len(data) == closed["bytes_from_client"]


@pytest.mark.parametrize("buffer", BUFFERS)
def test_write_then_close_by_the_target_loses_nothing(buffer):
    """The target writes and closes at once. The client reads later, and gets all data and a normal end."""
    data = pattern(400_000)
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client:
            with accept(server) as target:
                target.sendall(data)
            assert receive(client) == data
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("target_read_closed", None)
        assert len(data) == closed["bytes_from_target"]


@pytest.mark.parametrize("buffer", ["100", "auto"])
@pytest.mark.parametrize("urgent_from", ["client", "target"])
def test_tcp_urgent_bytes_stay_in_their_place(buffer, urgent_from):
    """Data sent out of band arrives in band, in its place, and the stream goes on behind it."""
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client, accept(server) as target:
            source, sink = (client, target) if urgent_from == "client" else (target, client)
            sent = b""
            for turn in range(100):
                part = pattern(turn * 7, seed=turn)
                source.sendall(part)
                assert source.send(b"!", socket.MSG_OOB) == 1
                sent += part + b"!"
            source.sendall(b"the rest")
            source.shutdown(socket.SHUT_WR)
            assert receive(sink) == sent + b"the rest"
            sink.sendall(b"seen")
            assert receive(source, 4) == b"seen"
        relay.wait("session.closed", error=None)


def test_byte_counts_are_exact():
    """The record has the number of bytes that each side sent, zero included."""
    with listening() as server, Relay(server.getsockname()) as relay:
        for up, down in [(0, 0), (1, 0), (0, 1), (4000, 4001), (1_234_567, 765_432)]:
            with relay.connect() as client, accept(server) as target:
                port = client.getsockname()[1]
                client.sendall(pattern(up))
                client.shutdown(socket.SHUT_WR)
                assert receive(target) == pattern(up)
                target.sendall(pattern(down, seed=2))
                target.close()
                assert receive(client) == pattern(down, seed=2)
            closed = relay.wait("session.closed", client_port=port)
            assert (up, down) == (closed["bytes_from_client"], closed["bytes_from_target"])
            assert 0 <= closed["connect_ms"] <= closed["duration_ms"]


def test_ipv6_target_and_client():
    """Both literals may be of either family."""
    with (
        listening(socket.AF_INET6, "::1") as server,
        Relay(server.getsockname()[:2], acl="::1/128", host="::1") as relay,
    ):
        assert relay.wait("relay.active")["target_ip"] == "::1"
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"six")
            assert receive(target, 3) == b"six"
        assert relay.wait("session.closed")["client_ip"] == "::1"


def test_an_ipv6_target():
    """An IPv4 client reaches an IPv6 target, and the record has both addresses."""
    with listening(socket.AF_INET6, "::1") as server, Relay(server.getsockname()[:2]) as relay:
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"across")
            assert receive(target, 6) == b"across"
            both_end(client, target)
        closed = relay.wait("session.closed")
        assert (closed["client_ip"], closed["target_ip"]) == ("127.0.0.1", "::1")


@pytest.mark.posix("MPTCP")
@pytest.mark.parametrize("client_protocol", [MPTCP, *slow(socket.IPPROTO_TCP)], ids=["from MPTCP", "from TCP"])
@pytest.mark.parametrize("target_protocol", [MPTCP, *slow(socket.IPPROTO_TCP)], ids=["to MPTCP", "to TCP"])
def test_a_relay_of_mptcp_sockets(tmp_path, client_protocol, target_protocol):
    """MPTCP sockets refuse SO_OOBINLINE. Bulk data, half-close and resets work as usual."""
    try:
        socket.socket(proto=MPTCP).close()
    except OSError as refused:
        pytest.skip(f"this kernel has no MPTCP: {refused}")
    data = pattern(8 << 20)
    with socket.socket(proto=target_protocol) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with Relay(server.getsockname(), "--bind", "127.0.0.1", env=with_site(tmp_path, MPTCPIZE)) as relay:

            def connect() -> socket.socket:
                client = socket.socket(proto=client_protocol)
                client.settimeout(PATIENCE)
                client.connect(("127.0.0.1", relay.port))
                return client

            with connect() as client, accept(server) as target:
                sending = threading.Thread(target=send_whole, args=(client, data))
                sending.start()
                assert receive(target) == data
                sending.join()
                send_whole(target, data)
                assert receive(client) == data
            closed = relay.wait("session.closed")
            assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
            assert (closed["bytes_to_client"], closed["bytes_to_target"]) == (len(data), len(data))
            with connect() as client, accept(server) as target:
                echo(client, target)
                reset(client)
                assert ends_with_reset(target)
            closed = relay.wait("session.closed", 2)
            assert (closed["error"], closed["error_from"]) == ("ECONNRESET", "client")
            for _ in range(50):
                with connect() as client, accept(server) as target:
                    send_whole(target, b"answer")
                    client.shutdown(socket.SHUT_WR)
                    assert receive(client) == b"answer"
                    assert receive(target) == b""
            relay.wait("session.closed", 50, error=None, client_end="end", target_end="end")


# -- before the target is connected --------------------------------------------------------------------------


def answer_again(server: socket.socket, filler: socket.socket) -> None:
    """Make room in the queue of a silent target. The next SYN (repeated after a second) is then answered."""
    filler.close()
    accept(server).close()


def unread(relay: Relay, client: socket.socket) -> int:
    """The number of `client`'s bytes that wait in the kernel, not yet read by the relay (proc_net_tcp)."""
    mine = f":{client.getsockname()[1]:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _number, local, remote, _state, queues, *_rest = line.split()
            if local.endswith(f":{relay.port:04X}") and remote.endswith(mine):
                return int(queues.partition(":")[2], 16)
    return -1


def test_early_bytes_of_a_client_all_arrive_and_none_is_read_before_the_target_is_connected():
    """The client sends many small chunks while the target does not answer yet."""
    chunks = [pattern(500, seed=number) for number in range(60)]
    with silent() as (server, filler), Relay(server.getsockname()) as relay:
        with relay.connect() as client:
            relay.wait("session.allocated")
            for chunk in chunks:
                client.sendall(chunk)
            eventually(lambda: unread(relay, client) == 30_000, "all chunks wait unread")
            assert relay.all("session.connected") == []
            answer_again(server, filler)
            with accept(server) as target:
                assert receive(target, 30_000) == b"".join(chunks)
                client.sendall(b"later")
                assert receive(target, 5) == b"later"
                both_end(client, target)
        closed = relay.wait("session.closed")
        assert closed["bytes_from_client"] == 30_005
        assert closed["connect_ms"] > 0


def test_the_bytes_of_a_client_that_ends_before_the_target_is_connected_are_delivered():
    """Its bytes and its end of data are forwarded once the target answers."""
    with silent() as (server, filler), Relay(server.getsockname()) as relay:
        with relay.connect() as client:
            client.sendall(b"too early")
            client.shutdown(socket.SHUT_WR)
            relay.wait("session.allocated")
            answer_again(server, filler)
            with accept(server) as target:
                assert receive(target) == b"too early"
                target.sendall(b"but heard")
            assert receive(client) == b"but heard"
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (9, 9)


@pytest.mark.slow
def test_a_client_that_ends_while_the_target_never_answers_ends_with_the_connect_timeout():
    """A half-closed client still waits for its answer."""
    with silent() as (server, _filler), Relay(server.getsockname(), "--connect-timeout", "1") as relay:
        with relay.connect() as client:
            client.shutdown(socket.SHUT_WR)
            assert ends_with_reset(client)
        assert relay.wait("session.closed")["reason"] == "connect_timeout"


def test_a_client_that_resets_before_the_target_is_connected_frees_its_slot_at_once():
    """No session waits for the target any longer."""
    with silent() as (server, _filler), Relay(server.getsockname(), "--connect-timeout", "3") as relay:
        client = relay.connect()
        relay.wait("session.allocated")
        reset(client)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", "ECONNRESET")
        assert closed["connect_ms"] is None
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)


# -- a target that does not connect, or leaves at once -------------------------------------------------------


def test_a_target_that_refuses():
    """Record 27, and a reset for the client."""
    with Relay(("127.0.0.1", free_port())) as relay:
        assert relay.knock().reset
        closed = relay.wait("session.closed")
        assert (closed["msg_id"], closed["reason"], closed["error"]) == (27, "connect_refused", "ECONNREFUSED")
        assert closed["message"] == (
            "The target refused the connection attempt for session handler serial number 1."
        )
        assert closed["connect_ms"] is None
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)


def test_a_target_that_accepts_and_resets_was_connected():
    """Record 28 and then the target's reset, never "refused". Bytes that it sent before are counted."""
    count = 10 if PYTHON_EXE else 60  # a reset is passed on after a second on Windows
    with listening() as server, Relay(server.getsockname()) as relay:
        stop = threading.Event()

        def answer_and_reset():
            while not stop.is_set():
                target = accept(server)
                target.send(b"sorry!")
                reset(target)

        answering = threading.Thread(target=answer_and_reset)
        answering.start()
        try:
            for _ in range(count):
                with relay.connect() as client:
                    assert ends_with_reset(client)
            relay.wait("session.closed", count)
        finally:
            stop.set()
            connect(server.getsockname()).close()
            answering.join()
        ends = {(r["reason"], r["error"]) for r in relay.all("session.closed")}
        assert ends == {("target_read_closed", "ECONNRESET")}
        assert len(relay.all("session.connected")) == count
        assert {r["bytes_from_target"] for r in relay.all("session.closed")} <= {0, 6}


# -- back-pressure -------------------------------------------------------------------------------------------


def push(sock: socket.socket, blocks: list[bytes]) -> int:
    """Send all `blocks`, until the peer takes nothing for a second. Return how many bytes were sent."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    sent = 0
    for block in blocks:
        rest = memoryview(block)
        while rest:
            if not poll.poll(1000):
                return sent
            done = sock.send(rest, socket.MSG_DONTWAIT)
            rest = rest[done:]
            sent += done
    return sent


@pytest.mark.parametrize(
    ("who", "half_closed", "buffer"),
    [("client", False, "auto"), *slow(("target", False, "4000"), ("target", True, "auto"))],
)
def test_a_peer_that_does_not_read_stops_the_other(who, half_closed, buffer):
    """The sender is stopped and the worker's memory stays bounded. Then everything arrives whole."""
    blocks = [pattern(MIB, seed=number) for number in range(8)] * 12
    whole = hashlib.sha256(b"".join(blocks)).hexdigest()
    size = len(blocks) * MIB
    with listening() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        with Relay(server.getsockname(), "--buffer", buffer, workers=1) as relay:
            worker = relay.worker(1)
            before = worker.memory_info().rss
            client = relay.connect()
            with client, accept(server) as target:
                sender, reader = (client, target) if who == "client" else (target, client)
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
                if half_closed:
                    reader.shutdown(socket.SHUT_WR)
                    assert receive(sender) == b""
                sent = push(sender, blocks)
                assert sent < size
                assert worker.memory_info().rss - before < 4 * MIB
                rest = memoryview(b"".join(blocks))[sent:]

                def finish() -> None:
                    sender.sendall(rest)
                    sender.shutdown(socket.SHUT_WR)

                thread = threading.Thread(target=finish)
                thread.start()
                digest, got = hashlib.sha256(), 0
                while data := reader.recv(MIB):
                    digest.update(data)
                    got += len(data)
                thread.join()
            assert (size, whole) == (got, digest.hexdigest())
            assert worker.memory_info().rss - before < 4 * MIB
            assert size == relay.wait("session.closed", error=None)[f"bytes_from_{who}"]


# -- peers that behave badly ---------------------------------------------------------------------------------


def test_clients_that_leave_at_once():
    """They leave normally, by a reset, or with bytes that are never read. Each is one session with one end."""
    with listening(backlog=1024) as server, Relay(server.getsockname()) as relay, answering(server, b"!"):
        for number in range(300):
            client = relay.connect()
            if number % 3 == 0:
                client.close()
            elif number % 3 == 1:
                reset(client)
            else:
                client.sendall(b"nobody will read this")
                client.close()

        def recorded() -> int:
            """Windows' accept() gives up a connection that was reset before. It is counted."""
            lost = sum(record["count"] for record in relay.all("connection.accept_failed"))
            return len(relay.all("session.closed")) + (lost if PYTHON_EXE else 0)

        eventually(lambda: recorded() == 300, "each client is recorded")


def held_by_the_kernel():
    """Bytes that the two connections of a session hold in one direction, at most (tcp(7)): often 72 MiB."""
    limits = [Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[-1] for name in ("tcp_rmem", "tcp_wmem")]
    return 2 * sum(map(int, limits))


@pytest.mark.parametrize("buffer", ["auto", *slow("100")])
def test_a_target_that_sends_for_ever_after_the_client_has_ended(buffer):
    """The half-closed session goes on while the client reads. A client that stops reading stops the target."""
    options = ("--idle-timeout", "2", "--buffer", buffer)
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        sent = 0

        def flood(target: socket.socket) -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                while True:
                    sent += target.send(bytes(65536))

        with relay.connect() as client, accept(server) as target:
            client.sendall(b"go")
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b"go"
            flooding = threading.Thread(target=flood, args=(target,))
            flooding.start()
            read = len(receive(client, 20 * MIB))
            closed = relay.wait("session.closed")
            flooding.join()
        assert closed["reason"] == "idle_timeout"
        assert read <= closed["bytes_from_target"] <= sent
        if sys.platform == "linux":
            assert sent < read + held_by_the_kernel() + 2 * MIB  # and a pipe, and what was read meanwhile


@pytest.mark.slow
@pytest.mark.posix("SIOCOUTQ, without which no session waits for what the kernel holds")
def test_clients_that_never_read_leave_nothing_in_the_kernel():
    """Their targets' last bytes stay there as long as the session has its slot. A reset discards them."""
    last_words = bytes(MIB)
    options = ("--max-sessions", "4", "--idle-timeout", "2", "--drain-timeout", "0.5")

    def deaf() -> socket.socket:
        client = stack.enter_context(relay.connect(receive_buffer=4096))
        client.shutdown(socket.SHUT_WR)
        return client

    with (
        listening() as server,
        contextlib.ExitStack() as stack,
        Relay(server.getsockname(), *options) as relay,
        answering(server, last_words),
    ):
        clients = [deaf() for _ in range(4)]
        relay.wait("session.connected", 4)
        for _ in range(4):
            with contextlib.suppress(OSError):
                deaf()
        relay.wait("connection.pool_exhausted", 4)
        relay.wait("session.closed", 4, reason="linger_timeout")
        for closed in relay.all("session.closed"):
            assert closed["bytes_to_client"] < closed["bytes_from_target"] == len(last_words)
        with relay.connect() as client:
            client.shutdown(socket.SHUT_WR)
            assert receive(client) == last_words
        relay.wait("session.closed", reason="requester_read_closed")
        clients.append(deaf())
        relay.wait("session.connected", 6)
        relay.stop()
        assert relay.all("session.closed")[-1]["reason"] == "drained"
        assert all(map(ends_with_reset, clients))
