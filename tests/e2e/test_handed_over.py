"""Socket activation: the listener is one that a service manager has made (sd_listen_fds(3))."""

import os
import signal
import socket
import sys

import pytest
from support.launching import PROGRAM
from support.peers import accept, echo, ends_with_reset, is_shut, listening, port_of
from support.processes import links, opened
from support.relay import NOWHERE, Relay
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.posix("a service manager that hands a listener over")

HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2], "LISTEN_FDNAMES": "mprelay.socket"}
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def made():
    """The socket of a service manager."""
    with socket.socket() as sock:
        sock.settimeout(PATIENCE)
        yield sock


def started_by(made, target, *options, count="1", **given):
    """A relay to which a socket is handed over, that listens on its port."""
    command = (sys.executable, "-c", HAND_OVER, str(made.fileno()), count, PROGRAM)
    relay = Relay(target, *options, command=command, pass_fds=(made.fileno(),), **given)
    made.bind(("127.0.0.1", relay.port))
    made.listen()
    return relay


def test_who_has_waited_is_served(made):
    """The service manager starts the relay because somebody has connected."""
    with listening() as server:
        relay = started_by(made, server.getsockname(), workers=1)  # so the target sees them in their order
        with relay.connect() as first, relay.connect() as second, relay:
            for client in (first, second):
                with accept(server) as target:
                    echo(client, target)
            active = relay.wait("relay.active")
            assert (active["listen_ip"], active["listen_port"]) == ("127.0.0.1", relay.port)
            first.close()
            second.close()
            with relay.connect() as client, accept(server) as target:
                echo(client, target)


@pytest.mark.parametrize("when", ["before the start", "after it"])
def test_a_cut_is_a_reset_for_all_of_them(made, when):
    """Who connected before the relay had its options on the socket has them too."""
    with listening() as server:
        relay = started_by(made, server.getsockname(), workers=1)
        waiting = relay.connect()
        with waiting, relay, accept(server) as first_target:
            echo(waiting, first_target)
            if when == "before the start":
                client, target = waiting, first_target
            else:
                client = relay.connect()
                target = accept(server)
            with client, target:
                echo(client, target)
                relay.worker(1).send_signal(signal.SIGKILL)
                assert ends_with_reset(client)
                assert ends_with_reset(target)


@pytest.mark.parametrize("how", ["expiry", "drain"])
def test_the_port_is_shut_though_the_manager_has_a_copy(made, how):
    """Otherwise whoever connects would wait for nobody, or have the relay started again."""
    options = ("--absolute-timeout", "6") if how == "expiry" else ("--drain-timeout", "60")
    with listening() as server:
        relay = started_by(made, server.getsockname(), *options)
        with relay, relay.connect() as client, accept(server) as target:
            echo(client, target)
            if how == "expiry":
                relay.finish()
                assert ends_with_reset(client)
            else:
                relay.signal()
                relay.wait("relay.draining")
                eventually(lambda: is_shut(relay.port), "the port is shut")
                echo(client, target)
        assert is_shut(relay.port)
        assert not made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_a_relay_that_had_expired_before_shuts_the_port_too(made):
    """It never admits anybody, and who waits must not wait for ever."""
    relay = started_by(made, NOWHERE, "--expires-at", "2020-01-01T00:00:00Z", wait_active=False)
    with relay.connect() as client, relay:
        assert relay.finish() == 0
        assert ends_with_reset(client)
    assert is_shut(relay.port)


def test_no_other_process_has_the_listener(made):
    """Whoever has it could accept."""
    relay = started_by(made, NOWHERE)
    with relay:
        listener = opened(os.getpid(), made.fileno())
        for child in relay.family():
            theirs = links(child.pid).values()
            assert theirs
            assert listener not in theirs


def test_a_socket_for_another_process_is_left_alone():
    """The variables are inherited, and whatever they say is no error."""
    for count in ("1", "x"):
        env = os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
        with (
            listening() as server,
            Relay(server.getsockname(), env=env) as relay,
            relay.connect() as client,
            accept(server) as target,
        ):
            echo(client, target)


def test_no_socket_at_all_is_no_error(made):
    """LISTEN_FDS is 0: the relay makes its own."""
    with listening() as server:
        relay = started_by(made, server.getsockname(), count="0")
        made.close()
        with relay, relay.connect() as client, accept(server) as target:
            echo(client, target)


@pytest.mark.parametrize("count", ["3", "x"])
def test_anything_but_one_socket_ends_the_start(made, count):
    with started_by(made, NOWHERE, count=count, wait_active=False, expect_code=69) as relay:
        relay.finish()
    refused = relay.wait("listener.bind_failed")
    assert refused["msg_id"] == 12
    assert f"LISTEN_FDS is '{count}', and must be 1" in refused["detail"]
    assert refused["error"] is None


def test_a_socket_of_another_port_ends_the_start(made):
    """FWD_PORT must be given, and must be true."""
    relay = started_by(made, NOWHERE, wait_active=False, expect_code=69)
    given, relay.args[0] = relay.port, str(relay.port + 1)
    with relay:
        relay.finish()
    detail = relay.wait("listener.bind_failed")["detail"]
    assert detail.endswith(f"descriptor 3 listens on port {given}, not on <fwd port> {given + 1}")
    assert port_of(made) == given
    assert not is_shut(given)
