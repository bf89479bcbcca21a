"""The target is told who the client is, and clients of proxies are judged by their own address."""

import pytest
from support.peers import accept, echo, listening, port_of, receive
from support.relay import Relay

from mprelay.worker.proxy_header import parse

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
