"""The listener that a service manager hands over: what is taken, and what is refused."""

import contextlib
import os
import socket
import struct
from pathlib import Path

import pytest
from support.peers import accept, connect, free_port, is_shut, listening, port_of
from support.waiting import eventually

from mprelay.system import inherited
from mprelay.system.inherited import Unusable, offered

pytestmark = pytest.mark.posix("a service manager that hands a listener over")

OURS = str(os.getpid())
DESCRIPTOR = 3
ABORT = struct.pack("ii", 1, 0)


@pytest.fixture
def handed_over():
    """Hand a socket over: a function that puts a copy of it where the relay looks. That place is never free."""
    try:
        before = os.dup(DESCRIPTOR)
    except OSError:
        before = None
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), DESCRIPTOR)
    yield lambda sock: os.dup2(sock.fileno(), DESCRIPTOR)
    if before is None:
        with contextlib.suppress(OSError):  # it was taken, and is closed
            os.close(DESCRIPTOR)
    else:
        os.dup2(before, DESCRIPTOR, inheritable=os.get_inheritable(before))
        os.close(before)


@pytest.mark.parametrize(
    ("variables", "offer"),
    [
        ({}, None),
        ({"LISTEN_FDS": "1"}, None),
        ({"LISTEN_FDS": "1", "LISTEN_PID": ""}, None),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, None),
        ({"LISTEN_FDS": "x", "LISTEN_PID": "1"}, None),
        ({"LISTEN_FDS": "1", "LISTEN_PID": f"0{OURS}"}, None),
        ({"LISTEN_PID": OURS}, None),
        ({"LISTEN_FDS": "0", "LISTEN_PID": OURS}, None),
        ({"LISTEN_FDS": "1", "LISTEN_PID": OURS}, "1"),
        ({"LISTEN_FDS": "3", "LISTEN_PID": OURS}, "3"),
        ({"LISTEN_FDS": "x", "LISTEN_PID": OURS}, "x"),
    ],
)
def test_what_is_meant_for_this_process(variables, offer):
    """What means another one is no error, whatever it says."""
    assert offered(variables) == offer


@pytest.mark.parametrize("offer", ["2", "3", "x", "", "-1", "1.0", "01", "9" * 5000])
def test_one_socket_is_taken(offer):
    with pytest.raises(Unusable, match=r"^LISTEN_FDS is '.{0,20}', and must be 1: mprelay has one listener$"):
        inherited.adopt(offer, None, 1)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listener_is_taken_with_all_its_options(handed_over, family, host):
    """Also if an address is asked for, which it has."""
    with listening(family, host) as server:
        server.settimeout(None)
        for ip in (None, host):
            handed_over(server)
            with inherited.adopt("1", ip, port_of(server)) as taken:
                assert taken.fileno() == DESCRIPTOR
                assert not os.get_inheritable(DESCRIPTOR)
                assert not os.get_blocking(DESCRIPTOR)
                assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == ABORT
                assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                with contextlib.closing(connect(server.getsockname())):
                    eventually(lambda taken=taken: accepted(taken), "a client")


def accepted(listener):
    """Accept a connection, if one waits."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def unix():
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")  # a name of the kernel's choice
    sock.listen()
    return sock


def unlistened():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (udp, "descriptor 3 is not a TCP socket"),
        (unix, "descriptor 3 is not a TCP socket"),
        (unlistened, "descriptor 3 does not listen"),
    ],
)
def test_another_kind_of_socket_is_refused(handed_over, make, problem):
    """It is closed, and the service manager's copy is left as it is."""
    with make() as sock:
        handed_over(sock)
        with pytest.raises(Unusable) as refused:
            inherited.adopt("1", None, 1)
        assert (str(refused.value), refused.value.error) == (problem, None)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(DESCRIPTOR)


def test_a_listener_at_another_address_is_refused(handed_over):
    """The parameters say where the relay is reached, and they must be true."""
    with listening() as server:
        port, other = port_of(server), free_port()
        for ip, wanted, problem in (
            (None, other, f"descriptor 3 listens on port {port}, not on <fwd port> {other}"),
            ("127.0.0.2", port, "descriptor 3 listens on 127.0.0.1, not on --bind 127.0.0.2"),
        ):
            handed_over(server)
            with pytest.raises(Unusable) as refused:
                inherited.adopt("1", ip, wanted)
            assert str(refused.value) == problem


def test_a_descriptor_that_is_no_socket_is_refused(handed_over, tmp_path):
    with (tmp_path / "file").open("w") as file:
        handed_over(file)
        with pytest.raises(Unusable) as refused:
            inherited.adopt("1", None, 1)
        assert (str(refused.value), refused.value.error) == ("descriptor 3 is no socket", "ENOTSOCK")
        os.close(DESCRIPTOR)


def test_who_has_waited_gets_the_options():
    """Their handshake ended before the listener had them."""
    with listening() as server, connect(server.getsockname()), accept(server) as waited:
        before = waited.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        inherited.prepare(waited.fileno())
        assert waited.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == ABORT != before
        assert waited.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_socket_that_is_shut_listens_no_more_whoever_has_it():
    """Twice is no error."""
    with listening() as server, socket.socket(fileno=os.dup(server.fileno())) as copy:
        port = port_of(server)
        assert not is_shut(port)
        for _ in range(2):
            inherited.shut(copy)
            assert is_shut(port)
