"""What this host's network says of an address: asked of the kernel, and nothing is sent."""

import contextlib
import socket
import subprocess
import sys

import psutil
import pytest
from support.network import Namespace

from mprelay.system.addresses import is_broadcast, own_addresses


@pytest.fixture
def network(tool):
    """Be in a network of one's own, which these commands of ip(8) make."""
    ip = tool("ip")

    @contextlib.contextmanager
    def inside(*commands):
        try:
            namespace = Namespace()
        except OSError as refused:
            pytest.skip(f"no network namespaces: {refused}")
        with contextlib.closing(namespace), namespace.inside():
            for command in ("link set lo up", *commands):
                subprocess.run([ip, *command.split()], check=True)
            yield

    return inside


@pytest.mark.parametrize(
    ("ip", "expected"),
    [("127.255.255.255", True), ("127.0.0.1", False), ("127.0.0.255", False), ("255.255.255.255", True)],
)
def test_loopbacks_broadcast_address(ip, expected):
    """The one that every machine has."""
    assert is_broadcast(ip) is expected


def test_what_has_no_route_is_no_broadcast_address(network):
    """Nor what a route prohibits: the kernel refuses that with the same error."""
    with network("route add prohibit 203.0.113.255"):
        assert not is_broadcast("192.0.2.255")
        assert not is_broadcast("203.0.113.255")
        assert is_broadcast("127.255.255.255")


def test_a_networks_own_broadcast_address(network):
    """It depends on the length of the prefix, which only the interface knows."""
    with network("address add 192.0.2.1/26 broadcast + dev lo"):
        assert is_broadcast("192.0.2.63")
        assert not is_broadcast("192.0.2.255")
        assert not is_broadcast("192.0.2.62")


def test_nothing_is_asked_where_no_socket_can_be_had(monkeypatch):
    """It is not known to be one."""

    def refuse(*_arguments):
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    assert not is_broadcast("127.255.255.255")


def test_own_addresses_are_those_that_can_be_bound(network):
    """Of both families, without a zone."""
    with network("address add 192.0.2.1/32 dev lo", "address add 2001:db8::1/128 dev lo"):
        assert set(own_addresses()) == {"127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"}
    for ip in own_addresses():
        assert "%" not in ip
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with contextlib.closing(socket.socket(family)) as sock:
            if not ip.startswith("fe80:"):
                sock.bind((ip, 0))


def test_without_an_answer_there_are_none(monkeypatch):
    """No psutil, or none that works here."""

    def refuse():
        raise PermissionError

    monkeypatch.setattr(psutil, "net_if_addrs", refuse)
    assert list(own_addresses()) == []
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert list(own_addresses()) == []
