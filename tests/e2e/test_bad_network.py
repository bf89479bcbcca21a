"""A real network that is bad: packets are lost, late, in the wrong order, or the cable is cut."""

import contextlib
import socket
import threading

import pytest
from support.network import FAR, NEAR, NotHere, bad_network
from support.peers import accept, echo, ends_with_reset, listening, pattern, receive
from support.relay import Relay
from support.waiting import eventually


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
    """The relay is near, its target far; clients can be at either end."""

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
    """Eight sessions across it, both ways at once, with half-closes: all is there, and all end normally."""
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
    """TCP sends again what got lost; the session knows nothing of it."""
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


def test_a_cable_that_stays_cut(cabled):
    """The idle timeout ends the session; a peer that comes back is told by a reset."""
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


def test_a_target_behind_a_cut_cable(cabled):
    """The connect timeout, and not a moment before; then the next session is as any other."""
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


def test_a_target_that_answers_after_the_connect_timeout(cabled):
    """Its answer finds nobody; a slow answer within the time is an answer."""
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
