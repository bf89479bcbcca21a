"""What a session promises its two peers: order, ends, timeouts, counts, back-pressure, and who may come in."""

import contextlib
import hashlib
import select
import socket
import threading
from pathlib import Path

import psutil
import pytest
from support.network import NotHere, lonely_network
from support.peers import (
    accept,
    both_end,
    ends_with_reset,
    free_port,
    listening,
    pattern,
    receive,
    reset,
    reset_arrives,
    silent,
)
from support.relay import Relay
from support.waiting import eventually

BUFFERS = ["100", "4000", "auto"]
MIB = 1 << 20
OWN_PORT = 40004


def answer_again(server: socket.socket, filler: socket.socket) -> None:
    """Make room in the queue of a silent target: the next SYN (repeated after a second) is answered."""
    filler.close()
    accept(server).close()


@contextlib.contextmanager
def flooding(sock: socket.socket):
    """Send without end to `sock`, until it breaks."""

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(bytes(MIB))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join()


# -- order and ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", BUFFERS)
def test_the_server_speaks_first(buffer):
    """A greeting arrives although the client has said nothing."""
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
    """The client writes and closes at once; the target, which looks later, gets all and a normal end."""
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
    """The target writes and closes at once; the client, which looks later, gets all and a normal end."""
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
    """What is sent out of band arrives in band, where it was sent, and the stream goes on behind it."""
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
    """What each side sent stands in the record, zero included."""
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


# -- before the target is connected --------------------------------------------------------------------------


def unread(relay: Relay, client: socket.socket) -> int:
    """How many bytes of `client` wait in the kernel, not yet read by the relay (proc_net_tcp)."""
    mine = f":{client.getsockname()[1]:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _number, local, remote, _state, queues, *_rest = line.split()
            if local.endswith(f":{relay.port:04X}") and remote.endswith(mine):
                return int(queues.partition(":")[2], 16)
    return -1


def test_early_bytes_of_a_client_all_arrive_and_none_is_read_before_the_target_is_connected():
    """The client sends in rapid chunks while the target does not answer yet."""
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


def test_a_client_that_ends_before_the_target_is_connected_is_heard_to_its_end():
    """Its bytes and its end are forwarded once the target answers."""
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


def test_a_client_that_ends_while_the_target_never_answers_ends_with_the_connect_timeout():
    """A half-closed client still waits for its answer."""
    with silent() as (server, _filler), Relay(server.getsockname(), "--connect-timeout", "1") as relay:
        with relay.connect() as client:
            client.shutdown(socket.SHUT_WR)
            assert ends_with_reset(client)
        assert relay.wait("session.closed")["reason"] == "connect_timeout"


def test_a_client_that_resets_before_the_target_is_connected_frees_its_slot_at_once():
    """Nobody waits for the target any longer."""
    with silent() as (server, _filler), Relay(server.getsockname(), "--connect-timeout", "3") as relay:
        client = relay.connect()
        relay.wait("session.allocated")
        reset(client)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", "ECONNRESET")
        assert closed["connect_ms"] is None
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)


# -- a target that does not connect --------------------------------------------------------------------------


def test_connect_timeout():
    """A target that does not answer: message 25, and the client is reset."""
    with silent() as (server, _filler), Relay(server.getsockname(), "--connect-timeout", "1") as relay:
        with relay.connect() as client:
            client.sendall(b"anybody there?")
            assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert (closed["msg_id"], closed["reason"]) == (25, "connect_timeout")
        assert closed["connect_ms"] is None
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)
        assert closed["duration_ms"] >= 1000
        assert relay.all("session.connected") == []


def test_connect_timeout_does_not_hit_an_established_quiet_session():
    """Twice the connect timeout passes without a byte; then both directions still work."""
    options = ("--connect-timeout", "1", "--stats-interval", "0.5")
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            so_far = len(relay.all("relay.stats"))
            relay.wait("relay.stats", so_far + 5)
            assert relay.all("session.closed") == []
            client.sendall(b"still there?")
            assert receive(target, 12) == b"still there?"
            target.sendall(b"yes")
            assert receive(client, 3) == b"yes"
            both_end(client, target)
        assert relay.wait("session.closed")["duration_ms"] > 2000


def test_a_target_that_refuses():
    """Message 27; the client is reset."""
    with Relay(("127.0.0.1", free_port())) as relay:
        assert relay.knock().reset
        closed = relay.wait("session.closed")
        assert (closed["msg_id"], closed["reason"], closed["error"]) == (27, "connect_refused", "ECONNREFUSED")
        assert closed["connect_ms"] is None
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)


@pytest.fixture
def lonely(tool):
    """A network of the test's own. Outgoing connections get one and the same local port there."""
    tool("ip")
    try:
        with lonely_network() as namespace:
            with namespace.inside():
                Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{OWN_PORT} {OWN_PORT}")
            yield namespace
    except NotHere as lack:
        pytest.skip(str(lack))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_target_that_would_be_the_relay_itself(lonely, address):
    """TCP lets a socket connect to itself where its port is the target's. The target is down, so it is refused.

    The port is free at once: the service can start.
    """
    with lonely.inside(), Relay((address, OWN_PORT), "--max-sessions", "1", host=address, acl="ANY") as relay:
        for count in range(1, 4):
            assert relay.knock(address, b"secret", source=address, port=free_port()).reset
            closed = relay.wait("session.closed", count)
            assert (closed["reason"], closed["error"]) == ("connect_refused", "ECONNREFUSED")
            assert (closed["error_from"], closed["connect_ms"], closed["outbound_port"]) == ("target", None, None)
        assert not relay.all("session.connected")
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as service:
            service.bind((address, OWN_PORT))
            service.listen()


# -- idle ----------------------------------------------------------------------------------------------------


def test_idle_timeout_without_data():
    """Message 24; both peers are reset."""
    with listening() as server, Relay(server.getsockname(), "--idle-timeout", "1") as relay:
        with relay.connect() as client, accept(server) as target:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        closed = relay.wait("session.closed")
        assert (closed["msg_id"], closed["reason"], closed["error"]) == (24, "idle_timeout", None)
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)
        assert closed["duration_ms"] >= 1000


def test_idle_timeout_of_a_half_closed_session():
    """A target that never ends its direction does not hold the session for ever."""
    with listening() as server, Relay(server.getsockname(), "--idle-timeout", "1") as relay:
        with relay.connect() as client, accept(server) as target:
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
            assert ends_with_reset(client)
            assert reset_arrives(target)
        assert relay.wait("session.closed")["reason"] == "idle_timeout"


@pytest.mark.parametrize(("who", "buffer"), [("client", "100"), ("target", "auto")])
def test_idle_timeout_with_data_stuck_behind_a_peer_that_does_not_read(who, buffer):
    """Bytes that wait are no activity: the one that sends and the one that does not read are both reset."""
    options = ("--idle-timeout", "1", "--buffer", buffer)
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            sender, sleeper = (client, target) if who == "client" else (target, client)
            with flooding(sender):
                closed = relay.wait("session.closed")
                assert reset_arrives(sleeper)
        assert closed["reason"] == "idle_timeout"
        assert closed[f"bytes_from_{who}"] > 0


@pytest.mark.parametrize("who", ["client", "target"])
def test_activity_in_one_direction_keeps_a_session_alive(who):
    """A byte now and then, for longer than the idle timeout; when it stops the session ends."""
    options = ("--idle-timeout", "1", "--stats-interval", "0.25")
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            sender, other = (client, target) if who == "client" else (target, client)
            start = len(relay.all("relay.stats"))
            for tick in range(1, 11):
                relay.wait("relay.stats", start + tick)
                sender.sendall(b".")
                assert receive(other, 1) == b"."
            assert ends_with_reset(other)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed[f"bytes_from_{who}"]) == ("idle_timeout", 10)
        assert closed["duration_ms"] >= 3000


# -- back-pressure -------------------------------------------------------------------------------------------


def push(sock: socket.socket, blocks: list[bytes]) -> int:
    """Send all `blocks` one after another until the peer takes no more for a second; how many bytes went."""
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
    [("client", False, "auto"), ("target", False, "4000"), ("target", True, "auto")],
)
def test_a_peer_that_does_not_read_stops_the_other(who, half_closed, buffer):
    """The sender is stopped, the worker's memory stays bounded, then everything arrives whole."""
    blocks = [pattern(MIB, seed=number) for number in range(8)] * 12
    whole = hashlib.sha256(b"".join(blocks)).hexdigest()
    size = len(blocks) * MIB
    with listening() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        with Relay(server.getsockname(), "--buffer", buffer, workers=1) as relay:
            worker = psutil.Process(relay.workers()[1])
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


# -- who may come in -----------------------------------------------------------------------------------------

ENTRIES = [
    # entry, as rejections show it, IPv4 from 127.0.0.1, IPv6 from ::1
    ("any", "ANY", True, True),
    ("127.0.0.1/32", "127.0.0.1/32", True, False),
    ("127.9.9.9/255.0.0.0", "127.0.0.0/8", True, False),
    ("127.0.0.2/32", "127.0.0.2/32", False, False),
    ("0.0.0.0/0", "0.0.0.0/0", True, False),
    ("::ffff:127.0.0.1/128", "127.0.0.1/32", True, False),
    ("::1/128", "::1/128", False, True),
    ("::2/128", "::2/128", False, False),
    ("::/0", "::/0", False, True),
]


@pytest.mark.parametrize(("entry", "shown", "ipv4", "ipv6"), ENTRIES, ids=[row[0] for row in ENTRIES])
def test_acl(entry, shown, ipv4, ipv6):
    """Each kind of entry against a client of each family, on the one listener: eighteen combinations."""
    with listening() as server, Relay(server.getsockname(), acl=entry) as relay:
        assert entry == relay.wait("relay.active")["acl"]
        for address, allowed in (("127.0.0.1", ipv4), ("::1", ipv6)):
            if allowed:
                with relay.connect(address) as client, accept(server) as target:
                    port = client.getsockname()[1]
                    client.sendall(b"in")
                    assert receive(target, 2) == b"in"
                    both_end(client, target)
                closed = relay.wait("session.closed", client_ip=address, client_port=port)
                assert closed["bytes_from_client"] == 2
            else:
                port = relay.knock(address, source=address).port
                assert shown == relay.wait("connection.rejected", client_ip=address, client_port=port)["acl"]
            assert len(relay.all("connection.attempt", client_ip=address, client_port=port)) == 1
        relay.stop()
        last = relay.records[-1]
        assert [ipv4, ipv6].count(True) == last["admitted"]
        assert [ipv4, ipv6].count(False) == last["rejected"]


def test_a_refused_client_never_reaches_the_target():
    """Not even a connection arrives there."""
    with listening() as server, Relay(server.getsockname(), acl="10.0.0.0/8") as relay:
        for _ in range(5):
            assert relay.knock(say=b"let me in").heard == b""
        relay.wait("connection.rejected", 5)
        assert select.select([server], [], [], 0)[0] == []


@pytest.mark.parametrize(
    ("bind", "open_at", "shut_at"),
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.2", "::1"]),
        ("::1", "::1", ["127.0.0.1"]),
        ("0.0.0.0", "127.0.0.2", ["::1"]),  # noqa: S104 - what is tested
    ],
)
def test_bind(bind, open_at, shut_at):
    """It listens where it was told, and nowhere else."""
    with listening() as server, Relay(server.getsockname(), "--bind", bind, acl="ANY") as relay:
        active = relay.wait("relay.active")
        assert (bind, relay.port) == (active["listen_ip"], active["listen_port"])
        for address in shut_at:
            with pytest.raises(ConnectionRefusedError):
                relay.connect(address)
        with relay.connect(open_at) as client, accept(server) as target:
            both_end(client, target)
        assert client_family(open_at) == client_family(relay.wait("session.closed")["client_ip"])


def client_family(address: str) -> str:
    """IPv4 or IPv6."""
    return "IPv6" if ":" in address else "IPv4"


def test_an_ipv6_target():
    """An IPv4 client reaches an IPv6 target, and the record says which."""
    with listening(socket.AF_INET6, "::1") as server, Relay(server.getsockname()[:2]) as relay:
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"across")
            assert receive(target, 6) == b"across"
            both_end(client, target)
        closed = relay.wait("session.closed")
        assert (closed["client_ip"], closed["target_ip"]) == ("127.0.0.1", "::1")
