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
