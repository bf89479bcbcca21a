"""How often, how many, how long, and from where: each limit has its own reason in the records."""

import contextlib
import json

import pytest
from support.judge import moment
from support.launching import run
from support.peers import accept, answering, echo, ends_with_reset, listening, receive
from support.relay import Relay


def test_a_client_has_only_so_many_sessions():
    """Others come in meanwhile. A slot is free again however its session ended."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-per-client", "2", workers=2) as relay,
        answering(server, b"in", hold=True),
    ):
        first, second = (relay.connect(source="127.0.0.1") for _ in range(2))
        assert receive(first, 2) == receive(second, 2) == b"in"
        assert relay.knock(source="127.0.0.1").heard == b""
        limited = relay.wait("connection.limited", client_ip="127.0.0.1", level="warning")
        assert (limited["limit"], limited["active"]) == ("per_client", 2)
        with relay.connect(source="127.0.0.2") as other:
            assert receive(other, 2) == b"in"
        relay.worker(relay.wait("session.allocated")["worker"]).kill()
        relay.wait("session.closed", reason="worker_lost")
        relay.wait("worker.started", 3)
        with relay.connect(source="127.0.0.1") as again:
            assert receive(again, 2) == b"in"
        for client in (first, second):
            client.close()
        relay.stop()
    assert relay.records[-1]["limited"] == 1


def test_a_client_comes_only_so_often():
    """Each attempt that the ACL allows takes a token. Another client has its own."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-rate", "3/1h", acl="!127.0.0.9/32,127.0.0.0/8") as relay,
        answering(server, b"in"),
    ):
        for _ in range(3):
            assert relay.knock(source="127.0.0.1").heard == b"in"
        for _ in range(2):
            assert relay.knock(source="127.0.0.1").heard == b""
        assert relay.knock(source="127.0.0.2").heard == b"in"
        for _ in range(5):
            assert relay.knock(source="127.0.0.9").heard == b""
        relay.wait("connection.limited", 2, limit="rate", client_ip="127.0.0.1")
        relay.stop()
    last = relay.records[-1]
    assert (last["rejected"], last["limited"], last["admitted"], last["attempts"]) == (5, 2, 4, 11)


def test_a_session_lives_only_so_long():
    """It is reset, although bytes move; others have their own time."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--session-timeout", "1.5") as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not relay.all("session.closed"):
                echo(client, target)
        closed = relay.wait("session.closed", reason="session_timeout", level="info")
        assert 1500 <= closed["duration_ms"] < 10_000
        with relay.connect() as later, accept(server) as later_target:
            echo(later, later_target)
            assert ends_with_reset(later)
        relay.wait("session.closed", 2, reason="session_timeout")


def test_a_relay_that_nobody_uses_stops():
    """The time counts from the end of the last session. Whoever is refused does not count."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--exit-idle", "2", acl="127.0.0.1/32") as relay,
    ):
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        ended = moment(relay.wait("session.closed")["timestamp"])
        assert relay.knock(source="127.0.0.2").heard == b""
        assert relay.finish() == 0
        stopped = relay.records[-1]
        assert stopped["reason"] == "idle"
        assert 1.9 < moment(stopped["timestamp"]) - ended < 20


def test_a_relay_that_drains_does_not_stop_as_idle():
    """Its last session goes on for longer than nobody may be there."""
    options = ("--exit-idle", "1", "--drain-timeout", "60")
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            relay.signal()
            relay.wait("relay.draining")
            client.settimeout(1.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(20)
            echo(client, target)
        assert relay.finish() == 0
    assert relay.records[-1]["reason"] == "drained"


def test_a_session_with_keepalive_goes_on():
    """A side that is there answers."""
    with listening() as server, Relay(server.getsockname(), "--keepalive", "1") as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            client.settimeout(2.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(20)
            echo(client, target)
        assert relay.wait("session.closed")["error"] is None


def test_the_target_sees_the_source():
    with listening() as server, Relay(server.getsockname(), "--source", "127.0.0.77") as relay:
        for _ in range(3):
            with relay.connect() as client, accept(server) as target:
                assert target.getpeername()[0] == "127.0.0.77"
                echo(client, target)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [("192.0.2.99", "is not an address of this host"), ("::1", "of two address families"), ("0.0.0.0", "is not")],  # noqa: S104
)
def test_a_source_must_be_ours_and_of_the_targets_family(source, wrong):
    done = run("8080", "127.0.0.1", "9", "ANY", "--source", source)
    (record,) = map(json.loads, done.stdout.splitlines())
    assert (record["parameter"], record["value"], done.returncode) == ("source", source, 2)
    assert wrong in record["problem"]
