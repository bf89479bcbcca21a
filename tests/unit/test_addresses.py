"""This host's network, and what it knows of an address. The kernel is asked, and nothing is sent."""

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
    """Enter a separate network, which is set up by commands of ip(8)."""
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
def test_the_broadcast_address_of_loopback(ip, expected):
    """Every machine has it."""
    assert is_broadcast(ip) is expected


@pytest.mark.posix("ip(8)")
def test_an_address_without_a_route_is_no_broadcast_address(network):
    """The same holds for a prohibited route, which the kernel refuses with the same error."""
    with network("route add prohibit 203.0.113.255"):
        assert not is_broadcast("192.0.2.255")
        assert not is_broadcast("203.0.113.255")
        assert is_broadcast("127.255.255.255")


@pytest.mark.posix("ip(8)")
def test_the_broadcast_address_of_a_network(network):
    """It depends on the length of the prefix, which only the interface knows."""
    with network("address add 192.0.2.1/26 broadcast + dev lo"):
        assert is_broadcast("192.0.2.63")
        assert not is_broadcast("192.0.2.255")
        assert not is_broadcast("192.0.2.62")


def test_without_a_socket_nothing_is_asked(monkeypatch):
    """Then the address does not count as a broadcast address."""

    def refuse(*_arguments):
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    assert not is_broadcast("127.255.255.255")


@pytest.mark.posix("ip(8)")
def test_own_addresses_are_those_that_can_be_bound(network):
    """This covers both families, without a zone."""
    with network("address add 192.0.2.1/32 dev lo", "address add 2001:db8::1/128 dev lo"):
        assert set(own_addresses()) == {"127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"}
    for ip in own_addresses():
        assert "%" not in ip
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with contextlib.closing(socket.socket(family)) as sock:
            if not ip.startswith("fe80:"):
                sock.bind((ip, 0))


def test_without_an_answer_there_are_no_own_addresses(monkeypatch):
    """This happens without psutil, or if psutil does not work here."""

    def refuse():
        raise PermissionError

    monkeypatch.setattr(psutil, "net_if_addrs", refuse)
    assert list(own_addresses()) == []
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert list(own_addresses()) == []
