"""Networks of the test's own: few ports, a target that would be the relay itself, and a bad cable."""

import contextlib
import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.judge import moment
from support.network import FAR, NEAR, Namespace, NotHere, bad_network, lonely_network
from support.peers import accept, echo, ends_with_reset, free_port, listening, pattern, receive, reset
from support.relay import Relay
from support.waiting import eventually

pytestmark = pytest.mark.posix("network namespaces")

OWN_PORT = 40004


# -- no local port towards the target ------------------------------------------------------------------------


@pytest.fixture
def few_ports(tool):
    """A network in which an outgoing connection gets one of four ports."""
    tool("ip")
    try:
        namespace = Namespace()
    except OSError as lack:
        pytest.skip(f"no namespace to be had: {lack}")
    with closing(namespace):
        namespace.run("ip", "link", "set", "lo", "up")
        with namespace.inside():
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40003")
        yield namespace


def test_without_ports_sessions_are_tried_once_a_second(few_ports):
    """All ports towards the target are taken.

    Failures do not flood the log, and a freed port serves a waiting client.
    """
    with few_ports.inside(), ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 15000)))
        server.settimeout(20)
        relay = stack.enter_context(Relay(("127.0.0.1", 15000), workers=1))
        sessions = []
        for number in range(4):
            client = stack.enter_context(relay.connect(source="127.0.0.1", port=16000 + number))
            target = stack.enter_context(accept(server))
            echo(client, target)
            sessions.append((client, target))
        stack.enter_context(relay.connect(source="127.0.0.1", port=16010))
        relay.wait("session.closed", reason="connect_failed")
        waiting = [
            stack.enter_context(relay.connect(source="127.0.0.1", port=17000 + number)) for number in range(2)
        ]
        failures = [relay.wait("session.closed", count, reason="connect_failed") for count in (1, 2)]
        assert {"EADDRNOTAVAIL"} == {record["error"] for record in failures}
        first, second = (moment(record["timestamp"]) for record in failures)
        assert second - first > 0.9
        reset(sessions[0][0])
        target = stack.enter_context(accept(server))
        echo(waiting[1], target)
        assert relay.all("session.closed", reason="connect_failed") == failures
        for client, target in sessions[1:]:
            echo(client, target)
        reset(waiting[1])
        relay.wait("session.closed", 4)
        with relay.connect(source="127.0.0.1", port=17010) as client, accept(server) as target:
            echo(client, target)  # at once, because ports are found again


@pytest.mark.slow
def test_a_free_port_ends_the_search_whatever_the_target_does(few_ports):
    """The target no longer answers, so every session times out. They are still not admitted one by one."""
    with few_ports.inside(), ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 15001), backlog=0))
        server.settimeout(20)
        relay = stack.enter_context(Relay(("127.0.0.1", 15001), workers=1))
        sessions = []
        for number in range(4):
            client = stack.enter_context(relay.connect(source="127.0.0.1", port=16100 + number))
            sessions.append((client, stack.enter_context(accept(server))))
            echo(*sessions[-1])
        stack.enter_context(relay.connect(source="127.0.0.1", port=16110))
        relay.wait("session.closed", reason="connect_failed")
        for client, _target in sessions:
            reset(client)
        relay.wait("session.closed", 5)
        filler = stack.enter_context(socket.socket())
        filler.bind(("127.0.0.1", 16120))
        filler.connect(("127.0.0.1", 15001))  # its queue is full: further SYNs are dropped
        for number in range(4):
            stack.enter_context(relay.connect(source="127.0.0.1", port=17100 + number))
        relay.wait("session.closed", 4, reason="connect_timeout")
        assert not relay.all("connection.abandoned")


def test_without_an_address_to_send_from_no_client_waits_for_a_port(few_ports):
    """connect(2) gives the same error, EADDRNOTAVAIL. Every session gets its record at once."""
    with few_ports.inside():
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        with Relay(("::1", 15002), workers=1) as relay, ExitStack() as stack:
            for number in range(8):
                client = stack.enter_context(relay.connect(source="127.0.0.1", port=16200 + number))
                assert ends_with_reset(client)
            relay.wait("session.closed", 8, reason="connect_failed", error="EADDRNOTAVAIL")
            times = [moment(record["timestamp"]) for record in relay.all("session.closed")]
            assert times[-1] - times[0] < 5


@pytest.fixture
def lonely(tool):
    """A separate network in which every outgoing connection gets the same local port."""
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
    """TCP lets a socket connect to itself if its port is the target's. The target is down, so that is refused.

    The port is free again at once, so the service can start.
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


# -- a cable that loses, delays and reorders packets, or is cut ----------------------------------------------


@pytest.fixture
def cabled(tool):
    """Two namespaces and the cable between them."""
    tool("ip")
    try:
        with bad_network() as made:
            yield made
    except NotHere as lack:
        pytest.skip(str(lack))


class Site:
    """The relay is near, its target is far, and clients can be at either end."""

    def __init__(self, cabled, *options):
        self.near, self.far, self.cable = cabled
        self._options = options

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            with self.far.inside():
                self.server = stack.enter_context(listening(host=FAR))
            self.relay = Relay(self.server.getsockname(), *self._options, acl="192.0.2.0/24", host=NEAR)
            with self.near.inside():
                stack.enter_context(self.relay)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *what):
        return self._stack.__exit__(*what)

    def connect(self, place):
        """Connect as a client in the namespace `place`."""
        with place.inside():
            return self.relay.connect()


def test_lost_late_and_overtaken_packets_change_no_byte(cabled):
    """Eight sessions cross it, both ways at once, with half-closes.

    All data arrives, and all sessions end normally.
    """
    size, count = 300_000, 8
    with Site(cabled) as site, contextlib.ExitStack() as stack:
        cable = site.cable
        right = []

        def exchange(sock, sent, expected):
            sending = threading.Thread(target=send_all, args=(sock, sent))
            sending.start()
            right.append(receive(sock) == expected)
            sending.join()

        def send_all(sock, data):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        threads = []
        for number in range(count):
            up, down = pattern(size, number), pattern(size, 100 + number)
            client = stack.enter_context(site.connect(site.far))
            target = stack.enter_context(accept(site.server))
            threads.append(threading.Thread(target=exchange, args=(client, up, down)))
            threads.append(threading.Thread(target=exchange, args=(target, down, up)))
        cable.loss, cable.delay, cable.jitter = 0.02, 0.002, 0.004
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert right == [True] * 2 * count
        cable.loss = cable.jitter = 0.0
        site.relay.wait("session.closed", count)
        for closed in site.relay.all("session.closed"):
            assert closed["reason"] in ("requester_read_closed", "target_read_closed")
            assert closed["error"] is None
            assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (size, size)
        assert cable.lost > 10
        assert cable.overtaken > 10


def test_a_cable_that_is_cut_for_a_while(cabled):
    """TCP retransmits what was lost, so the session notices nothing."""
    with Site(cabled) as site, site.connect(site.far) as client, accept(site.server) as target:
        echo(client, target)
        site.cable.cut = True
        lost = site.cable.lost
        client.sendall(b"to the target")
        target.sendall(b"to the client")
        eventually(lambda: site.cable.lost >= lost + 4, "packets get lost")
        site.cable.cut = False
        assert receive(target, 13) == b"to the target"
        assert receive(client, 13) == b"to the client"
        echo(client, target)


def test_what_tcp_has_measured_on_each_way(cabled):
    """The client is near, so only the way to the target is long, and only segments to the target get lost."""
    with Site(cabled, "--tcp-info") as site:
        site.cable.delay = 0.04
        with site.connect(site.near) as client, accept(site.server) as target:
            echo(client, target)
            site.cable.cut = True
            lost = site.cable.lost
            client.sendall(b"to the target")
            eventually(lambda: site.cable.lost >= lost + 3, "a segment is sent again and again")
            site.cable.cut = False
            assert receive(target, 13) == b"to the target"
        closed = site.relay.wait("session.closed")
        assert 0 < closed["client_rtt_ms"] < closed["target_rtt_ms"]
        assert closed["target_rtt_ms"] >= 80
        assert closed["client_retransmits"] == 0
        assert closed["target_retransmits"] >= 1


@pytest.mark.slow
def test_a_cable_that_stays_cut(cabled):
    """The idle timeout ends the session. A peer that comes back gets a reset."""
    with (
        Site(cabled, "--idle-timeout", "1") as site,
        site.connect(site.far) as client,
        accept(site.server) as target,
    ):
        echo(client, target)
        site.cable.cut = True
        client.sendall(b"lost on the way")
        closed = site.relay.wait("session.closed")
        assert (closed["reason"], closed["bytes_from_client"]) == ("idle_timeout", 5)
        site.cable.cut = False
        target.sendall(b"?")
        assert ends_with_reset(target)
        assert ends_with_reset(client)


@pytest.mark.parametrize("who", ["nobody", "the client", "the relay"])
def test_a_dead_side_is_found_by_asking_it(cabled, who):
    """Nobody says anything, or what a side says never arrives. The idle timeout would come much later."""
    with (
        Site(cabled, "--keepalive", "1") as site,
        site.connect(site.near) as client,
        accept(site.server) as target,
    ):
        echo(client, target)
        site.cable.cut = True
        if who == "the client":
            client.sendall(b"lost on the way")
        elif who == "the relay":
            target.sendall(b"lost on the way")
        closed = site.relay.wait("session.closed")
        assert (closed["error"], closed["error_from"]) == ("ETIMEDOUT", "target")
        assert ends_with_reset(client)
        site.cable.cut = False


def test_a_side_that_is_silent_and_lives_is_left_alone(cabled):
    """It is asked several times, and answers."""
    with (
        Site(cabled, "--keepalive", "1", "--stats-interval", "1") as site,
        site.connect(site.near) as client,
        accept(site.server) as target,
    ):
        echo(client, target)
        site.relay.ticks(5)
        echo(client, target)


@pytest.mark.wall_clock("the connect timeout, and a second")
def test_a_target_behind_a_cut_cable(cabled):
    """The connect timeout ends the session, not earlier. The next session works like any other."""
    with Site(cabled, "--connect-timeout", "1") as site:
        site.cable.cut = True
        with site.connect(site.near) as client:
            assert ends_with_reset(client)
        closed = site.relay.wait("session.closed")
        assert (closed["reason"], closed["connect_ms"], closed["msg_id"]) == ("connect_timeout", None, 25)
        assert 1000 <= closed["duration_ms"] < 2000
        site.cable.cut = False
        with site.connect(site.near) as client, accept(site.server) as target:
            echo(client, target)


@pytest.mark.slow
@pytest.mark.wall_clock("the connect timeout, and a second")
def test_a_target_that_answers_after_the_connect_timeout(cabled):
    """A late answer finds no session. A slow answer within the time connects."""
    with Site(cabled, "--connect-timeout", "1") as site:
        site.cable.delay = 0.7
        passed = site.cable.passed
        with site.connect(site.near) as client:
            assert ends_with_reset(client)
        assert site.relay.wait("session.closed")["reason"] == "connect_timeout"
        eventually(lambda: site.cable.passed >= passed + 3, "SYN, the late answer, the reset")
        site.cable.delay = 0.2
        with site.connect(site.near) as client, accept(site.server) as target:
            echo(client, target)
        assert 400 <= site.relay.wait("session.connected")["connect_ms"] < 1000
