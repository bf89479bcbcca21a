"""The target is told who the client is, and clients of proxies are judged by their own address."""

import contextlib
import socket
import struct

import pytest
from support.peers import accept, echo, listening, port_of, receive
from support.relay import Relay

from mprelay.worker.proxy_header import make_v1, make_v2, parse

VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])


def hear(target):
    """Read one header from a target's socket, byte by byte."""
    data = b""
    while (header := parse(data)) is None:
        data += receive(target, 1)
    return header


@VERSIONS
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_target_hears_who_the_client_is(version, address):
    """Before everything else, and the bytes are not counted."""
    with listening() as server, Relay(server.getsockname(), "--proxy-protocol", version, acl="ANY") as relay:
        with relay.connect(address) as client:
            client.sendall(b"early")
            with accept(server) as target:
                assert hear(target).client == (address, port_of(client))
                assert receive(target, 5) == b"early"
                echo(client, target)
        closed = relay.wait("session.closed")
        assert (closed["bytes_from_client"], closed["bytes_to_target"]) == (10, 10)


@VERSIONS
def test_a_target_that_speaks_first_has_heard_it(version):
    with (
        listening() as server,
        Relay(server.getsockname(), "--proxy-protocol", version) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        assert hear(target).client == ("127.0.0.1", port_of(client))
        target.sendall(b"220 hello")
        assert receive(client, 9) == b"220 hello"


@VERSIONS
def test_a_client_that_resets_at_once_is_named_too(version):
    """Its bytes are delivered behind its name."""
    with listening() as server, Relay(server.getsockname(), "--proxy-protocol", version) as relay:
        for _ in range(10):
            client = relay.connect()
            port = port_of(client)
            client.sendall(b"x")
            client.close()
            with accept(server) as target:
                assert hear(target).client == ("127.0.0.1", port)
                assert receive(target) == b"x"


# -- connections of proxies ----------------------------------------------------------------------------------

TRUSTING = ("--accept-proxy", "127.0.0.0/8,::1/128")
ALICE = ("192.0.2.7", 4711)
ALICE_V6 = ("2001:db8::7", 4711)
REACHED = ("203.0.113.1", 443)
TLV = b"\x04\x00\x03abc"  # PP2_TYPE_NOOP


def v2(command, kind, body):
    """Make a header of version 2 by hand."""
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, kind]) + struct.pack("!H", len(body)) + body


def announce(client, *pieces):
    """Send these, each as a segment of its own."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        client.sendall(piece)


def use(relay, server):
    """Have one session through a proxy."""
    with relay.connect() as client:
        announce(client, MADE["v1"])
        with accept(server) as target:
            echo(client, target)


MADE = {
    "v1": make_v1(ALICE, REACHED),
    "v1 of IPv6": make_v1(ALICE_V6, ("2001:db8::1", 443)),
    "v2": make_v2(ALICE, REACHED),
    "v2 of IPv6": make_v2(ALICE_V6, ("2001:db8::1", 443)),
    "v2 with blocks": v2(1, 0x11, make_v2(ALICE, REACHED)[16:] + TLV * 60),
    "v1 as nginx writes it": b"PROXY TCP6 2001:db8::7 192.0.2.1 4711 443\r\n",
    "v2 of IPv4 in IPv6": make_v2(("::ffff:192.0.2.7", 4711), ("::1", 443)),
}


def test_clients_of_a_proxy_are_judged_by_their_own_address():
    """However the header comes: whole with what follows, byte by byte, or cut at any place."""
    acl = "!127.0.0.0/8,192.0.2.7/32,2001:db8::7/128"
    with listening() as server, Relay(server.getsockname(), *TRUSTING, acl=acl) as relay:
        number = 0
        for name, header in MADE.items():
            ip = "2001:db8::7" if b"2001:" in header or b"\x20\x01\x0d\xb8" in header else "192.0.2.7"
            ways = [[header + b"hello"], [*(bytes([byte]) for byte in header), b"hello"]]
            ways += [[header[:cut], header[cut:] + b"hello"] for cut in range(1, len(header), 7)]
            for pieces in ways:
                number += 1
                with relay.connect() as client:
                    announce(client, *pieces)
                    with accept(server) as target:
                        assert receive(target, 5) == b"hello", name
                        echo(client, target)
                    proxy_port = port_of(client)
                closed = relay.wait("session.closed", session=number)
                assert (closed["client_ip"], closed["client_port"]) == (ip, 4711), name
                assert (closed["proxy_ip"], closed["proxy_port"]) == ("127.0.0.1", proxy_port)
                assert closed["bytes_from_client"] == 10
        assert {record["client_ip"] for record in relay.all("connection.attempt")} == {"192.0.2.7", "2001:db8::7"}


OWN = {
    "LOCAL": v2(0, 0x00, b""),
    "LOCAL with an address and blocks": v2(0, 0x11, make_v2(ALICE, REACHED)[16:] + TLV * 2),
    "no family": v2(1, 0x00, b""),
    "no family, and more": v2(1, 0x00, b"12345"),
    "UNKNOWN": b"PROXY UNKNOWN\r\n",
    "UNKNOWN, and more": b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n",
}


def test_a_proxy_that_speaks_for_itself_is_the_client():
    with listening() as server, Relay(server.getsockname(), *TRUSTING) as relay:
        for number, (name, header) in enumerate(OWN.items(), 1):
            with relay.connect() as client:
                announce(client, header + b"PING")
                with accept(server) as target:
                    assert receive(target, 4) == b"PING", name
                port = port_of(client)
            closed = relay.wait("session.closed", session=number)
            assert (closed["client_ip"], closed["client_port"]) == ("127.0.0.1", port), name
            assert (closed["proxy_ip"], closed["proxy_port"]) == ("127.0.0.1", port)


def test_only_the_first_header_counts():
    """A second one is data, as is what follows it, in one segment with it."""
    second = make_v2(("198.51.100.1", 1), REACHED)
    payload = second + bytes(range(256)) * 256
    with listening() as server, Relay(server.getsockname(), *TRUSTING, acl="192.0.2.0/24") as relay:
        with relay.connect() as client:
            client.sendall(MADE["v1"] + payload)
            with accept(server) as target:
                assert receive(target, len(payload)) == payload
                target.sendall(payload)
                assert receive(client, len(payload)) == payload
        assert relay.wait("session.closed")["client_ip"] == "192.0.2.7"


def test_a_header_of_somebody_else_is_data():
    with listening() as server, Relay(server.getsockname(), "--accept-proxy", "192.0.2.0/24") as relay:
        with relay.connect() as client:
            client.sendall(MADE["v1"])
            with accept(server) as target:
                assert receive(target, len(MADE["v1"])) == MADE["v1"]
        closed = relay.wait("session.closed")
        assert closed["client_ip"] == "127.0.0.1"
        assert "proxy_ip" not in closed


def test_each_thing_that_is_no_header_has_its_problem():
    """The connection is reset, the target hears nothing of it, and the slot is free again."""
    with listening() as server, Relay(server.getsockname(), *TRUSTING, "--max-sessions", "1", acl="ANY") as relay:

        def problem_of(*pieces, leaves=False):
            with relay.connect() as client:
                announce(client, *pieces)
                if leaves:
                    client.close()
                else:
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
            return relay.wait("connection.proxy_invalid", count=len(problems) + 1)["problem"]

        problems: list[str] = []
        for said in (v2(1, 0x11, bytes(684)), b"GET / HTTP/1.1\r\n", v2(1, 0x31, bytes(216)), b"PROXY "):
            problem = problem_of(said)
            problems.append(problem)
        problems.append(problem_of(leaves=True))
        assert "700 bytes, more than 536" in problems[0]
        assert problems[1] == "does not begin with a PROXY header"
        assert "neither TCP over IPv4 nor over IPv6" in problems[2]  # AF_UNIX
        assert problems[3] == "sent no whole PROXY header within 3 seconds"
        assert problems[4] in {
            "ended before its PROXY header was whole",
            "was cut before its PROXY header was whole (ECONNRESET)",
        }
        use(relay, server)
        assert relay.wait("session.closed")["session"] == 1


def test_floods_without_a_header_are_summed_up():
    with listening() as server, Relay(server.getsockname(), *TRUSTING) as relay:
        for _ in range(30):
            with relay.connect() as client:
                client.sendall(b"no header at all")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        relay.stop()
        assert len(relay.all("connection.proxy_invalid")) == 10
        (more,) = relay.all("connection.refused_more")
        assert (more["refused"], more["count"], more["client_ip"]) == ("proxy_invalid", 20, "127.0.0.1")


def test_announced_clients_are_rejected_and_limited():
    options = (*TRUSTING, "--max-rate", "2/3600", "--max-per-client", "1")
    with listening() as server, Relay(server.getsockname(), *options, acl="192.0.2.0/24,!0.0.0.0/0") as relay:

        def is_refused(header):
            with relay.connect() as client:
                announce(client, header)
                with pytest.raises(ConnectionResetError):
                    client.recv(1)

        is_refused(make_v1(("198.51.100.1", 1), REACHED))
        rejected = relay.wait("connection.rejected")
        assert (rejected["acl"], rejected["client_ip"]) == ("!0.0.0.0/0", "198.51.100.1")
        assert rejected["proxy_ip"] == "127.0.0.1"
        with relay.connect() as client:
            announce(client, MADE["v1"])
            with accept(server) as target:
                echo(client, target)
                is_refused(MADE["v2"])
                assert relay.wait("connection.limited")["limit"] == "per_client"
                is_refused(MADE["v1"])
                assert relay.wait("connection.limited", count=2)["limit"] == "rate"
        relay.wait("session.closed")
        with relay.connect("::1") as client:  # of another proxy, the same client has another bucket
            announce(client, MADE["v1"])
            with accept(server) as target:
                echo(client, target)


@pytest.mark.alone("a header may take 3 seconds")
def test_a_header_that_is_awaited_holds_a_slot():
    """It is no session, though, and it is refused by its proxy's address if no slot is free."""
    with listening() as server, Relay(server.getsockname(), *TRUSTING, "--max-sessions", "1", acl="ANY") as relay:
        client = relay.connect()
        with client, relay.connect() as other:
            with pytest.raises(ConnectionResetError):
                other.recv(1)
            exhausted = relay.wait("connection.pool_exhausted")
            assert (exhausted["client_ip"], exhausted["proxy_ip"]) == ("127.0.0.1", "127.0.0.1")
            announce(client, MADE["v1"])
            with accept(server) as target:
                echo(client, target)


@pytest.mark.posix("Wine, where one of so many sockets sometimes outlives the killed worker, not explained yet")
@pytest.mark.alone("a header may take 3 seconds")
def test_a_worker_that_dies_takes_awaited_connections_with_it():
    options = (*TRUSTING, "--max-sessions", "15")
    with listening() as server, Relay(server.getsockname(), *options, acl="ANY", workers=1) as relay:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(relay.connect()) for _ in range(14)]
            clients[0].sendall(b"PROXY")
            use(relay, server)  # the worker has all that came before
            relay.worker(1).kill()
            for client in clients:
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            assert relay.wait("connection.proxy_invalid", count=10)["problem"] == "was lost with its worker"
            assert relay.wait("connection.refused_more")["count"] == 4  # though nothing else happens
        relay.wait("worker.started", 2)  # whoever waits for it longer than 3 s is abandoned
        use(relay, server)


@pytest.mark.alone("a header may take 3 seconds")
def test_the_relay_drains_for_awaited_headers_too():
    with listening() as server, Relay(server.getsockname(), *TRUSTING, acl="ANY") as relay:
        with relay.connect() as client:
            client.sendall(MADE["v1"][:5])
            use(relay, server)  # it has been accepted: it came before
            relay.signal()
            relay.wait("relay.draining")
            client.sendall(MADE["v1"][5:])
            with accept(server) as target:
                echo(client, target)
        relay.finish()
        assert relay.records[-1]["reason"] == "drained"
        assert relay.wait("session.closed", 2)["client_ip"] == "192.0.2.7"


@pytest.mark.alone("a header may take 3 seconds")
def test_a_relay_that_is_idle_waits_for_a_header():
    """It may become a session."""
    options = (*TRUSTING, "--exit-idle", "1")
    with listening() as server, Relay(server.getsockname(), *options, acl="ANY") as relay:
        with relay.connect() as client:
            client.sendall(MADE["v1"][:5])
            client.settimeout(1.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(20)
            client.sendall(MADE["v1"][5:])
            with accept(server) as target:
                echo(client, target)
        relay.finish()
        assert relay.records[-1]["reason"] == "idle"


@pytest.mark.alone("a header may take 3 seconds")
def test_the_end_of_the_relay_ends_awaited_connections():
    with listening() as server, Relay(server.getsockname(), *TRUSTING, acl="ANY") as relay:
        with relay.connect() as client:
            use(relay, server)
            relay.signal()
            relay.wait("relay.draining")
            relay.signal()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            relay.finish()
        assert relay.wait("connection.proxy_invalid")["problem"] == "was not judged before the relay ended"
        assert relay.records[-1]["reason"] == "signal"


@VERSIONS
def test_what_a_proxy_announced_is_passed_on(version):
    options = (*TRUSTING, "--proxy-protocol", version)
    with (
        listening() as server,
        Relay(server.getsockname(), *options, acl="ANY") as relay,
        relay.connect() as client,
    ):
        announce(client, MADE["v1 as nginx writes it"])
        with accept(server) as target:
            heard = hear(target)
            assert (heard.client, heard.reached) == (ALICE_V6, ("::ffff:192.0.2.1", 443))
            echo(client, target)
