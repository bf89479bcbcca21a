"""Clients and targets that behave badly, by the thousand or for ever."""

import contextlib
import selectors
import socket
import threading
from collections import Counter

import pytest
from support.peers import accept, answering, ends_with_reset, listening, receive, reset
from support.relay import Relay
from support.waiting import PATIENCE

MIB = 1 << 20


def test_5000_connections_in_one_burst(many_files):
    """Each is answered: 500 by the target, those from elsewhere by 17, all others by 21. None hangs."""
    if many_files < 7000:
        pytest.skip(f"a limit of {many_files} open files")
    with (
        listening(backlog=4096) as server,
        selectors.DefaultSelector() as selector,
        Relay(server.getsockname(), acl="127.0.0.0/9") as relay,
        contextlib.ExitStack() as stack,
    ):
        with answering(server, b"!", hold=True):
            for number in range(5000):
                source = f"127.{200 if number % 5 == 4 else 1}.{number % 250}.1"
                client = stack.enter_context(relay.connect(source=source, wait=False))
                selector.register(client, selectors.EVENT_READ)
            heard = Counter()
            while selector.get_map():
                ready = selector.select(PATIENCE)
                assert ready, f"{len(selector.get_map())} were not answered; so far {heard}"
                for key, _mask in ready:
                    try:
                        heard[key.fileobj.recv(2)] += 1
                    except ConnectionResetError:
                        heard[b""] += 1
                    selector.unregister(key.fileobj)
        assert heard == {b"!": 500, b"": 4500}
        relay.wait("connection.rejected", 1000)
        relay.wait("connection.pool_exhausted", 3500)
        assert len(relay.all("connection.accepted")) == 500
        assert {record["worker"] for record in relay.all("session.allocated")} == {1, 2}


def test_clients_that_leave_at_once():
    """Normally, by a reset, or with bytes that nobody hears: each is one session with one end."""
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
        relay.wait("session.closed", 300)


@pytest.mark.parametrize("buffer", ["100", "auto"])
def test_a_target_that_sends_for_ever_after_the_client_has_ended(buffer):
    """The half-closed session goes on while somebody reads; a client that stops reading stops the target."""
    options = ("--idle-timeout", "1", "--buffer", buffer)
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
        assert sent < read + 40 * MIB  # what the kernel's buffers and one pipe hold


def test_clients_that_never_read_leave_nothing_in_the_kernel():
    """What their targets said last stays there as long as the session has its slot. A reset throws it away."""
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
