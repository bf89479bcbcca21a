"""Figures of sessions that an operator has to ask for: what TCP has measured, and how they get on."""

import signal

import pytest
from support.peers import accept, echo, ends_with_reset, free_port, listening, receive, reset
from support.relay import Relay
from support.waiting import PATIENCE

PATHS = ("client_rtt_ms", "target_rtt_ms", "client_retransmits", "target_retransmits")
TCP_INFO_ALONE = pytest.mark.posix("TCP_INFO, which Windows does not have")


def figures(closed):
    """What TCP has measured, as the last record of a session has it."""
    return [closed[name] for name in PATHS]


# -- what TCP has measured -----------------------------------------------------------------------------------


@TCP_INFO_ALONE
@pytest.mark.parametrize("end", ["client first", "target first", "reset"])
def test_what_tcp_has_measured_is_told_however_a_session_ends(end):
    """On loopback a round trip is short, and nothing gets lost."""
    with listening() as server, Relay(server.getsockname(), "--tcp-info") as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            if end == "reset":
                reset(client)
                assert ends_with_reset(target)
            else:
                first, second = (client, target) if end == "client first" else (target, client)
                first.close()
                assert receive(second) == b""
        *rtts, client_retransmits, target_retransmits = figures(relay.wait("session.closed"))
        assert all(0 < rtt < 1000 * PATIENCE for rtt in rtts)
        assert (client_retransmits, target_retransmits) == (0, 0)


@TCP_INFO_ALONE
def test_nothing_is_measured_to_a_target_that_is_not_there():
    """The client is there."""
    with Relay(("127.0.0.1", free_port()), "--tcp-info") as relay:
        assert relay.knock().reset
        closed = relay.wait("session.closed", reason="connect_refused")
    client_rtt_ms, *others = figures(closed)
    assert client_rtt_ms > 0
    assert others == [None, 0, None]


@TCP_INFO_ALONE
def test_what_a_lost_worker_had_measured_is_not_known():
    """The fields are there, because a collector expects them."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--tcp-info", workers=1) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        relay.worker(1).send_signal(signal.SIGKILL)
        assert figures(relay.wait("session.closed", reason="worker_lost")) == [None] * 4


@TCP_INFO_ALONE
def test_what_tcp_has_measured_is_told_when_the_relay_stops():
    """The workers end the sessions, and still report."""
    with listening() as server, Relay(server.getsockname(), "--tcp-info", "--drain-timeout", "0") as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            relay.stop()
        assert None not in figures(relay.wait("session.closed", reason="drained"))


def test_nobody_is_told_what_tcp_has_measured_without_asking():
    with listening() as server, Relay(server.getsockname()) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert not {*PATHS} & relay.wait("session.closed").keys()


# -- how sessions get on -------------------------------------------------------------------------------------


def test_a_session_is_told_of_when_bytes_have_moved():
    """Only then, each time with the counts so far, and never after its end."""
    options = ("--progress-interval", "0.1", "--stats-interval", "0.1")
    with listening() as server, Relay(server.getsockname(), *options) as relay, relay.connect() as idle:
        accept(server).close()
        with relay.connect() as client, accept(server) as target:
            relay.ticks(3)
            assert not relay.all("session.progress")
            client.sendall(b"hello")
            assert receive(target, 5) == b"hello"
            first = relay.wait("session.progress")
            assert [first[name] for name in ("session", "worker", "bytes_from_client", "bytes_to_target")] == [
                2,
                relay.wait("session.allocated", session=2)["worker"],
                5,
                5,
            ]
            assert (first["bytes_from_target"], first["bytes_to_client"], first["msg_id"]) == (0, 0, None)
            assert first["idle_s"] < PATIENCE
            relay.ticks(15)
            assert relay.all("session.progress") == [first]
            target.sendall(b"hello, hello")
            assert receive(client, 12) == b"hello, hello"
            assert relay.wait("session.progress", 2)["bytes_to_client"] == 12
        idle.close()
        relay.wait("session.closed", 2)
        relay.ticks(15)
        assert len(relay.all("session.progress")) == 2


def test_bytes_that_are_stuck_are_seen():
    """The target does not read: more has come from the client than has gone to the target, and nothing moves."""
    options = ("--progress-interval", "0.1", "--stats-interval", "0.1", "--buffer", "4000")
    with (
        listening() as server,
        Relay(server.getsockname(), *options) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        client.settimeout(1.0)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(100_000_000))
        relay.ticks(15)
        told = relay.all("session.progress")
        stuck = told[-1]
        assert 0 < stuck["bytes_from_client"] - stuck["bytes_to_target"] <= 4000
        relay.ticks(15)
        assert relay.all("session.progress") == told
        receive(target, stuck["bytes_from_client"])
        assert relay.wait("session.progress", len(told) + 1)["bytes_to_target"] >= stuck["bytes_from_client"]


def test_progress_is_recorded_whatever_the_log_detail():
    """Who asks for it gets it."""
    options = ("--progress-interval", "0.1", "--log-detail", "session")
    with (
        listening() as server,
        Relay(server.getsockname(), *options) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        assert relay.wait("session.progress")["client_ip"] == "127.0.0.1"
