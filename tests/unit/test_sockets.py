"""How sockets are made, and how they end. Real connections on loopback; the same on every platform."""

import contextlib
import errno
import os
import select
import socket
import sys
from contextlib import contextmanager, suppress
from socket import SocketType

import pytest
from support.peers import accept, free_port, listening, pattern, receive, reset
from support.waiting import PATIENCE

from mprelay.system import sockets
from mprelay.system.errnos import RESET_ERRNOS, errno_name

WINDOWS = sys.platform == "win32"
VARIANT = sys.modules[sockets.target_socket.__module__]
LARGE = 20_000_000
"""More bytes than the system keeps for a client that does not read."""


def accepted(listener):
    """Accept a connection as the supervisor does: its descriptor, and the client's address."""
    assert select.select([listener], [], [], PATIENCE)[0]
    return sockets.acceptor(listener)()


@contextmanager
def client_of(listener, host="127.0.0.1"):
    """A client that connects to a listener."""
    with socket.create_connection((host, listener.getsockname()[1]), timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def listener():
    """A listener of the relay."""
    with sockets.listen("127.0.0.1", free_port()) as made:
        yield made


@pytest.fixture
def relayed(listener):
    """A client, and its connection as a worker gets it."""
    with client_of(listener) as client:
        sock = sockets.received(accepted(listener)[0])
        yield client, sock
        if sock.fileno() >= 0:
            sock.close()


def is_reset(sock):
    """Read to the end; tell whether that is a reset."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return sockets.was_reset(sock)


def awaited(sock):
    """Wait until something can be read."""
    assert select.select([sock], [], [], PATIENCE)[0]


def test_a_port_has_one_listener(listener):
    """Another program cannot take it over, not even one that listens on all addresses."""
    port = listener.getsockname()[1]
    for address in ("127.0.0.1", None):
        with pytest.raises(sockets.ListenerError) as failed:
            sockets.listen(address, port)
        assert (failed.value.step, errno_name(failed.value.errno)) == ("bind", "EADDRINUSE")


@pytest.mark.skipif(not WINDOWS, reason="SO_REUSEADDR takes no port from a listener")
def test_a_port_cannot_be_shared_by_force(listener):
    """On Windows, SO_REUSEADDR takes the port of every listener that is not exclusive."""
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(PermissionError) as failed:
            thief.bind(listener.getsockname())
        assert errno_name(failed.value.errno) == "EACCES"


def test_a_port_can_be_bound_again_after_its_connections_have_ended(listener):
    """Their TIME_WAIT is no obstacle."""
    address = listener.getsockname()
    with client_of(listener) as client:
        sockets.end_normally(sockets.received(accepted(listener)[0]))
        assert receive(client) == b""
    listener.close()
    sockets.listen(*address).close()


def test_a_listener_on_all_addresses_takes_both_families():
    """A client of IPv4 is shown as such."""
    with sockets.listen(None, free_port()) as listener:
        for host in ("127.0.0.1", "::1"):
            with client_of(listener, host) as client:
                descriptor, address = accepted(listener)
                assert sockets.plain_ip(address[0]) == host
                assert address[1] == client.getsockname()[1]
                sock = sockets.received(descriptor)
                assert sockets.local_ip(sock) == host
                assert sockets.local_port(sock) == listener.getsockname()[1]
                sock.close()


def test_accepting_never_blocks(listener):
    """Without a connection there is an error."""
    with pytest.raises(BlockingIOError):
        sockets.acceptor(listener)()
    assert sockets.listens(listener)
    assert sockets.backlog(listener) == (None if WINDOWS else 0)


def test_a_relayed_socket_never_blocks(relayed):
    """Neither to receive, nor to send more than the system takes."""
    client, sock = relayed
    with pytest.raises(BlockingIOError):
        sock.recv(1, sockets.DONTWAIT)
    assert not sockets.has_unread(sock)
    client.sendall(b"x")
    awaited(sock)
    assert sockets.has_unread(sock)
    assert sock.recv(10, sockets.DONTWAIT) == b"x"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    assert 0 < sum(sends(sock)) < LARGE


def sends(sock):
    """Send until the system takes nothing more; yield what each call sent."""
    with suppress(BlockingIOError):
        while True:
            yield sock.send(bytes(1 << 16), sockets.DONTWAIT)


def test_a_close_is_a_reset(relayed):
    """This holds for any close that is not :func:`end_normally`."""
    client, sock = relayed
    sock.close()
    assert is_reset(client)


def test_a_refused_client_is_reset(listener):
    """It sees no normal end."""
    with client_of(listener) as client:
        sockets.refuse(accepted(listener)[0])
        assert is_reset(client)


def test_a_client_may_be_gone_before_it_is_accepted(listener):
    """Linux gives its connection all the same. Elsewhere that is an error, of this client only."""
    with client_of(listener) as client:
        reset(client)
    error = None
    try:
        sockets.refuse(accepted(listener)[0])
    except OSError as failure:
        error = failure.errno
    assert error is None or error in sockets.CLIENT_GONE_ERRNOS
    with client_of(listener) as client:
        sockets.refuse(accepted(listener)[0])
        assert is_reset(client)


def test_a_connection_that_was_handed_over_outlives_the_copy(listener):
    """The supervisor closes its copy while a worker uses the connection."""
    with client_of(listener) as client:
        descriptor, _ = accepted(listener)
        worker = SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        sock = sockets.received(duplicate(worker))
        socket.close(worker.detach())
        client.sendall(b"word")
        awaited(sock)
        assert sock.recv(10) == b"word"
        sock.send(b"answer")
        assert receive(client, 6) == b"answer"
        sock.close()
        assert is_reset(client)


def duplicate(sock):
    """Return the descriptor of a copy, made as for another process."""
    with socket.socket(sock.family, sock.type, fileno=sock.fileno()) as whole:
        copy = socket.fromshare(whole.share(os.getpid())) if WINDOWS else whole.dup()
        whole.detach()
    return copy.detach()


def test_a_normal_end_delivers_what_is_under_way(relayed):
    """The socket is closed at once, and the client reads late."""
    client, sock = relayed
    data = pattern(LARGE)
    sent = 0
    with suppress(BlockingIOError):
        while sent < LARGE:
            sent += sock.send(data[sent:], sockets.DONTWAIT)
    sockets.end_normally(sock)
    assert sent
    assert receive(client) == data[:sent]
    assert not sockets.was_reset(client)


@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("word", [b"", b"word"])
def test_a_reset_is_told_from_an_end(relayed, half_closed, word):
    """This holds whatever came before it, and also if our own sending has ended."""
    client, sock = relayed
    if half_closed:
        sock.shutdown(socket.SHUT_WR)
    client.sendall(word)
    awaited(sock) if word else None
    reset(client)
    heard = b""
    failed = None
    while failed is None:
        awaited(sock)
        try:
            part = sock.recv(10, sockets.DONTWAIT)
        except OSError as failure:
            failed = failure.errno in RESET_ERRNOS
        else:
            heard += part
            if not part:
                failed = sockets.was_reset(sock)
    assert (heard, failed) == (word, True)


@pytest.mark.parametrize("half_closed", [False, True])
def test_an_end_is_no_reset(relayed, half_closed):
    """Nothing else is told of it."""
    client, sock = relayed
    if half_closed:
        sock.shutdown(socket.SHUT_WR)
    client.sendall(b"word")
    client.shutdown(socket.SHUT_WR)
    awaited(sock)
    assert receive(sock) == b"word"
    assert not sockets.was_reset(sock)
    assert sockets.pending_error(sock) == 0


def test_the_system_may_tell_what_is_not_acknowledged(relayed):
    """Windows does not."""
    client, sock = relayed
    sock.send(b"word")
    assert receive(client, 4) == b"word"
    assert sockets.unacknowledged(sock) == (None if WINDOWS else 0)


def test_a_target_is_connected_without_waiting():
    """Its connection, too, ends by a reset."""
    with listening() as server:
        target = sockets.target_socket(socket.AF_INET)
        assert target.connect_ex(server.getsockname()) in sockets.CONNECT_BEGUN
        assert select.select([], [target], [], PATIENCE)[1]
        assert sockets.pending_error(target) == 0
        with accept(server) as far:
            assert far.getpeername()[1] == sockets.local_port(target)
            target.close()
            assert is_reset(far)


def test_a_connection_that_is_refused():
    """Windows shows a failed connection as an exceptional condition only."""
    with contextlib.closing(sockets.target_socket(socket.AF_INET)) as target:
        number = target.connect_ex(("127.0.0.1", free_port()))
        if number in sockets.CONNECT_BEGUN:
            assert any(select.select([], [target], [target], PATIENCE))
            number = sockets.pending_error(target)
        assert errno_name(number) == "ECONNREFUSED"


def test_a_socket_that_is_of_no_use_is_given_back(monkeypatch):
    """A relayed socket without SO_LINGER would make a cut transfer look complete."""

    class Refusing(SocketType):
        def setsockopt(self, _level, option, _value):
            if option == socket.SO_LINGER:
                made.append(self)
                raise OSError(errno.ENOPROTOOPT, "refused")

    made = []
    monkeypatch.setattr(VARIANT, "SocketType", Refusing)
    with pytest.raises(OSError, match="refused"):
        sockets.target_socket(socket.AF_INET)
    assert [sock.fileno() for sock in made] == [-1]


@pytest.mark.skipif(not sockets.TELLS_PATHS, reason="the system does not tell")
def test_what_tcp_has_measured_stays_known_after_the_end(relayed):
    """A round trip on loopback takes microseconds, and no segment is lost. A reset changes nothing of that."""
    client, sock = relayed
    before = sockets.path(sock)
    assert 0 < before.rtt_ms < 1000 * PATIENCE
    assert before.retransmits == 0
    reset(client)
    awaited(sock)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert sockets.path(sock) == before


def test_of_a_connection_that_never_was_nothing_is_measured():
    """Its round-trip time of 0 stands for none. Where the system does not tell, neither figure is known."""
    with socket.socket() as sock:
        path = sockets.path(sock)
        assert (path.rtt_ms, path.retransmits) == (None, 0 if sockets.TELLS_PATHS else None)


@pytest.mark.skipif(not sockets.TELLS_PATHS, reason="the system does not tell")
def test_a_kernel_that_does_not_tell_what_tcp_has_measured():
    """A sandbox refuses the option, or knows a shorter one."""

    class Sandbox:
        def getsockopt(self, *_):
            if self.told is None:
                raise OSError(errno.ENOPROTOOPT, "")
            return self.told

    sandbox = Sandbox()
    for told in (None, bytes(103)):
        sandbox.told = told
        assert sockets.path(sandbox) == sockets.Path(None, None)
