"""Half-close passes through; resets stay resets. The first tests that were written (fact 10)."""

import socket

import pytest
from support.peers import accept, ends_with_reset, listening, pattern, receive, reset, reset_arrives
from support.relay import Relay

ANSWER = pattern(300_000)
BUFFERS = ["100", "4000", "auto"]


@pytest.mark.parametrize("buffer", BUFFERS)
def test_client_half_closes_and_the_late_answer_arrives_whole(buffer):
    """The client ends its request; the target reads that end, then answers."""
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            with accept(server) as target:
                assert receive(target) == b"question"
                target.sendall(ANSWER)
            assert receive(client) == ANSWER
        closed = relay.wait("session.closed")
        assert closed["reason"] == "requester_read_closed"
        assert closed["error"] is None
        assert closed["bytes_from_client"] == 8
        assert closed["bytes_from_target"] == len(ANSWER)


@pytest.mark.parametrize("buffer", BUFFERS)
def test_target_half_closes_and_the_late_upload_arrives_whole(buffer):
    """The target ends first; the client goes on sending."""
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client, accept(server) as target:
            target.sendall(b"banner")
            target.shutdown(socket.SHUT_WR)
            assert receive(client) == b"banner"
            client.sendall(ANSWER)
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == ANSWER
        closed = relay.wait("session.closed")
        assert closed["reason"] == "target_read_closed"
        assert closed["bytes_from_client"] == len(ANSWER)
        assert closed["bytes_from_target"] == 6


def test_target_resets_and_the_client_sees_a_reset():
    """A cut transfer never looks complete."""
    with listening() as server, Relay(server.getsockname()) as relay:
        with relay.connect() as client, accept(server) as target:
            target.sendall(b"x" * 100_000)
            receive(client, 100_000)
            reset(target)
            assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("target_read_closed", "ECONNRESET")
        assert closed["bytes_from_target"] == 100_000


def test_client_resets_and_the_target_sees_a_reset():
    """The other way round."""
    with listening() as server, Relay(server.getsockname()) as relay:
        client = relay.connect()
        with accept(server) as target:
            client.sendall(b"x" * 100_000)
            receive(target, 100_000)
            reset(client)
            assert ends_with_reset(target)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", "ECONNRESET")
        assert closed["bytes_from_client"] == 100_000


def test_reset_after_half_close_is_still_a_reset():
    """The kernel says EPIPE for it (CLOSE_WAIT); the record says what it was."""
    with listening() as server, Relay(server.getsockname()) as relay:
        client = relay.connect()
        with accept(server) as target:
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
            reset(client)
            assert reset_arrives(target)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", "ECONNRESET")
