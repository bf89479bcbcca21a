"""Splicing: the same bytes as copying, a pipe only while it pays, and copying if there is none."""

import contextlib
import errno
import os
import select
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.peers import pattern, reset
from support.pumps import edge, small, tcp_pair

from mprelay.system import poller
from mprelay.system.pipes import Pipe
from mprelay.worker import pump as pump_module
from mprelay.worker.pipe_pool import PipePool
from mprelay.worker.pump import Outcome, Pumps

pytestmark = pytest.mark.posix("splice(2)")


@pytest.fixture
def ends():
    """A client and a target, each with the relay's end of its connection."""
    socks = [*tcp_pair(), *reversed(tcp_pair())]
    yield socks
    for sock in socks:
        sock.close()


def borrowing(near, far, pipes=1):
    """A pump that has borrowed a pipe."""
    pumps = Pumps(None, pipes)
    pump = pumps.make(near, far)
    pump._borrow()
    assert (pump.pipe is not None) == (pipes > 0)
    return pumps, pump


def feed(client, pump, data, collect):
    """Send `data` through a pump, reading at the far end meanwhile."""
    client.setblocking(False)  # noqa: FBT003
    rest = memoryview(data)
    outcome = None
    wanted = pump.received + len(data)
    while pump.received < wanted or outcome is Outcome.BLOCKED:
        with contextlib.suppress(BlockingIOError):
            rest = rest[client.send(rest) :]
        edge(pump)
        pump.sink_ready()
        outcome = pump.move()
        collect()


def until_blocked(client, pump):
    """Send until the sink accepts no more."""
    client.setblocking(False)  # noqa: FBT003
    outcome = None
    while outcome is not Outcome.BLOCKED:
        with contextlib.suppress(BlockingIOError):
            client.send(b"x" * 1_000_000)
        edge(pump)
        outcome = pump.move()


class Target:
    """Collects the arriving data."""

    def __init__(self, sock):
        self.sock = sock
        self.data = bytearray()
        sock.setblocking(False)  # noqa: FBT003

    def __call__(self):
        """Take all waiting data."""
        with contextlib.suppress(BlockingIOError):
            while part := self.sock.recv(1 << 20):
                self.data += part

    def until(self, size):
        """Take data until it has `size` bytes."""
        while len(self.data) < size:
            assert select.select([self.sock], [], [], 20)[0]
            self()


@given(sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=6))
@settings(max_examples=15)
def test_any_chunks_come_out_the_same(sizes):
    """Order, content and counts are those of copying."""
    client, near, far, target = (*tcp_pair(), *reversed(tcp_pair()))
    with client, near, far, target:
        pumps, pump = borrowing(near, far)
        arrived = Target(target)
        sent = b""
        for seed, size in enumerate(sizes):
            data = pattern(size, seed)
            sent += data
            feed(client, pump, data, arrived)
        arrived.until(len(sent))
        client.shutdown(socket.SHUT_WR)
        outcome = Outcome.STARVED
        while outcome is Outcome.STARVED:
            edge(pump)
            outcome = pump.move()
        assert outcome is Outcome.ENDED
        assert bytes(arrived.data) == sent
        assert pump.received == len(sent)
        pump.close()
        pumps.close()


def test_a_flow_that_fills_the_buffer_borrows_and_a_quiet_one_gives_back(ends):
    """A new flow has no pipe, a busy flow has one while it pays, and a quiet flow has none again."""
    client, near, far, target = ends
    pumps = Pumps(None, 1)
    pump = pumps.make(near, far)
    arrived = Target(target)
    assert pump.pipe is None
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    while pump.pipe is None:
        feed(client, pump, b"x" * 4_000_000, arrived)
    assert not near.getblocking()
    size = pump.received
    for _ in range(40):
        feed(client, pump, b"y", arrived)
    assert pump.pipe is None
    arrived.until(size + 40)
    assert arrived.data[size:] == b"y" * 40
    pumps.close()


def test_without_a_free_pipe_the_flow_goes_on_copying(ends):
    """This is the second flow of a pool of one."""
    client, near, far, target = ends
    pumps, first = borrowing(far, near)
    second = pumps.make(near, far)
    second._borrow()
    assert second.pipe is None
    arrived = Target(target)
    feed(client, second, pattern(500_000), arrived)
    arrived.until(500_000)
    assert bytes(arrived.data) == pattern(500_000)
    first.close()
    pumps.close()


def test_single_bytes_can_fill_a_pipe(ends):
    """Its room is counted in pages, not in bytes. No byte is lost, and nothing spins."""
    client, near, far, target = ends
    pumps, pump = borrowing(near, far)
    small(far, socket.SO_SNDBUF)
    arrived = Target(target)
    for number in range(600):
        client.send(bytes([number % 251]))
        edge(pump)
        pump.move()
    while pump.received < 600 or len(arrived.data) < 600:
        edge(pump)
        pump.sink_ready()
        pump.move()
        arrived()
    assert bytes(arrived.data) == bytes(number % 251 for number in range(600))
    pump.close()
    pumps.close()


def test_back_pressure_holds_no_more_than_the_pipe(ends):
    """If the sink accepts nothing, the data in the pipe waits, and the source is not read."""
    client, near, far, target = ends
    pumps, pump = borrowing(near, far)
    until_blocked(client, pump)
    assert not pump.can_move
    assert 0 < pump.pipe.held <= pump.pipe.size
    pump.give_back()
    assert pump.pipe is not None, "a pipe with data in it cannot be given back"
    arrived = Target(target)
    while len(arrived.data) < pump.received:
        arrived()
        pump.sink_ready()
        pump.move()
    pump.close()
    pumps.close()


def test_the_end_waits_for_the_data_in_the_pipe(ends):
    """The end of data is passed on after everything before it."""
    client, near, far, target = ends
    pumps, pump = borrowing(near, far)
    until_blocked(client, pump)
    client.close()
    arrived = Target(target)
    outcome = None
    while outcome is not Outcome.ENDED:
        arrived()
        edge(pump)
        pump.sink_ready()
        outcome = pump.move()
        assert outcome in (Outcome.BLOCKED, Outcome.UNFINISHED, Outcome.STARVED, Outcome.ENDED)
    arrived.until(pump.received)
    pump.close()
    pumps.close()


@pytest.mark.parametrize("side", ["source", "sink"])
def test_errors_are_reported(ends, side):
    """Either side may reset."""
    client, near, far, target = ends
    pumps, pump = borrowing(near, far)
    client.send(b"data")
    near.recv(4, socket.MSG_PEEK)
    reset(client if side == "source" else target)
    outcome = Outcome.STARVED
    while outcome is Outcome.STARVED:
        edge(pump)
        outcome = pump.move()
        if side == "sink":
            client.send(b"more")
    assert (outcome, pump.error) == (
        Outcome.READ_FAILED if side == "source" else Outcome.WRITE_FAILED,
        "ECONNRESET",
    )
    pump.close()
    pumps.close()


@pytest.mark.parametrize("edge_seen", [True, False])
def test_the_urgent_mark_is_passed_by_copying(ends, edge_seen):
    """splice(2) never gets past it. With a FIN there it reports an end instead, whatever the edge was."""
    client, near, far, target = ends
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    pumps, pump = borrowing(near, far)
    client.send(b"before")
    client.send(b"!", socket.MSG_OOB)
    client.send(b"after")
    client.shutdown(socket.SHUT_WR)
    arrived = Target(target)
    poll = select.poll()
    poll.register(near, select.POLLRDHUP)
    assert poll.poll(20_000)
    outcome = None
    while outcome is not Outcome.ENDED:
        edge(pump, *([poller.URGENT] if edge_seen else []))
        outcome = pump.move()
    arrived.until(12)
    assert bytes(arrived.data) == b"before!after"
    assert pump.received == 12
    assert pump.pipe is None
    pumps.close()


def test_a_flow_never_gets_data_that_an_earlier_one_left_in_its_pipe(ends):
    """One pump is closed with data in its pipe. The next one uses the same pool of one pipe."""
    client, near, far, _target = ends
    pumps, pump = borrowing(near, far)
    until_blocked(client, pump)
    pump.close()
    with contextlib.ExitStack() as stack:
        far_client, near_client, near_target, far_target = (*tcp_pair(), *reversed(tcp_pair()))
        for sock in (far_client, near_client, near_target, far_target):
            stack.enter_context(sock)
        second = pumps.make(near_client, near_target)
        assert second._borrow() is not None
        arrived = Target(far_target)
        feed(far_client, second, b"its own", arrived)
        arrived.until(7)
        assert bytes(arrived.data) == b"its own"
        second.close()
    pumps.close()


@pytest.mark.parametrize("pipes", [0, 1])
def test_an_end_is_a_reset_if_the_error_was_taken_already(ends, pipes):
    """SO_ERROR was read before. recv(2) then returns 0, and the session must not look complete."""
    client, near, far, _target = ends
    pumps, pump = borrowing(near, far, pipes)
    client.close()
    pump.source_failed("ECONNRESET")
    outcome = Outcome.STARVED
    while outcome is Outcome.STARVED:
        edge(pump)
        outcome = pump.move()
    assert (outcome, pump.error, pump.fin_received) == (Outcome.READ_FAILED, "ECONNRESET", False)
    pump.close()
    pumps.close()


def test_the_pipe_of_a_silent_flow_is_taken_back(ends):
    """This happens at the second look. When no flow has a pipe, the spare ones are closed."""
    client, near, far, target = ends
    pumps, pump = borrowing(near, far)
    descriptor = pump.pipe.way_in
    feed(client, pump, b"x", Target(target))
    assert pumps.reclaim()
    assert pump.pipe is not None
    assert not pumps.reclaim()
    assert pump.pipe is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_pipe_with_data_in_it_is_thrown_away():
    """The next flow must not get bytes of the previous one."""
    pool = PipePool(1)
    pipe = pool.borrow()
    assert pool.borrow() is None
    os.write(pipe.way_in, b"x")
    pipe.held = 1
    pool.take_back(None, pipe)
    again = pool.borrow()
    assert again is not None
    pool.take_back(None, again)
    assert pool.borrow() is again
    pool.take_back(None, again)
    pool.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(again.way_in)


def test_pipes_grow_as_far_as_the_system_allows():
    """F_SETPIPE_SZ is read back. The pipes are close-on-exec."""
    pipe = Pipe()
    assert pipe.size >= 256 * 1024
    assert not os.get_inheritable(pipe.way_in)
    pipe.close()


def test_small_pipes_are_not_used(monkeypatch):
    """If the system does not let a pipe grow, flows copy, and it is not asked again for each of them."""
    asked = []

    def refuse(_descriptor, _command, size):
        asked.append(size)
        raise PermissionError

    monkeypatch.setattr("fcntl.fcntl", refuse)
    pool = PipePool(2)
    assert pool.borrow() is None
    assert asked == [1 << 20, 1 << 19, 1 << 18]
    assert pool.borrow() is None
    assert len(asked) == 3


class Odd:
    """A socket that accepts send(2), but not splice(2): EINVAL, as for a file that is open for appending."""

    def __init__(self, sock, file):
        self.setblocking, self.send, self.fileno = sock.setblocking, sock.send, file.fileno


def test_an_odd_socket_gets_copies_and_the_others_keep_their_pipes(ends, tmp_path):
    """Data that is in the pipe already is delivered, however slowly the sink takes it."""
    client, near, far, target = ends
    with (tmp_path / "odd").open("ab") as file:
        pumps, pump = borrowing(near, Odd(far, file))
        small(far, socket.SO_SNDBUF)
        data = pattern(200_000)
        arrived = Target(target)
        feed(client, pump, data, arrived)
        assert pump.pipe is None
        while pump.held:
            arrived()
            pump.sink_ready()
            pump.move()
        arrived.until(len(data))
        assert bytes(arrived.data) == data
        assert (pump.sent, pump.error) == (len(data), None)
        assert pump._borrow() is None
        other = pumps.make(near, far)
        assert other._borrow() is not None
        other.close()
        pumps.close()


def test_without_memory_what_is_in_a_refused_pipe_is_not_delivered(ends, tmp_path, monkeypatch):
    """It is not counted as sent, and nothing is kept of it."""
    client, near, far, _target = ends
    with (tmp_path / "odd").open("ab") as file:
        pumps, pump = borrowing(near, Odd(far, file))
        client.sendall(pattern(50_000))
        edge(pump)
        monkeypatch.setattr(pump_module, "_HEADROOM", 1 << 60)
        assert (pump.move(), pump.error) == (Outcome.NO_MEMORY, "ENOMEM")
        assert pump.received > 0
        assert (pump.held, pump.sent) == (0, 0)
        pump.close()
        pumps.close()


def test_a_pool_that_lends_no_more_keeps_nothing():
    """It closes its spare pipes, and those that come back."""
    pool = PipePool(2)
    lent, spare = pool.borrow(), pool.borrow()
    pool.take_back(None, spare)
    pool.refused(PermissionError(errno.EPERM, "by a filter"))
    assert pool.borrow() is None
    pool.take_back(None, lent)
    assert pool.borrow() is None
    for pipe in (lent, spare):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pipe.way_in)


def give(code, monkeypatch):
    """Make splice(2) fail with this error."""

    def fail(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mprelay.system.pipes_linux._splice", fail)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPROTO])
def test_a_rare_error_that_splice_took_from_the_connection_is_not_an_end(ends, monkeypatch, code):
    """ICMP can cause any of them. recv(2) then reports a normal end, and a cut transfer would look complete."""
    client, near, far, _target = ends
    pumps, pump = borrowing(near, far)
    reset(client)
    edge(pump)
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET  # taken, as splice(2) takes it
    give(code, monkeypatch)
    assert (pump.move(), pump.error) == (Outcome.READ_FAILED, errno.errorcode[code])
    pump.close()
    assert pumps._pool._lends
    pumps.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOMEM, errno.EPERM])
def test_a_refusal_that_looks_like_an_error_is_not_one(ends, monkeypatch, code):
    """The connection is fine, so its bytes are copied.

    Only a refusal that concerns all flows ends the lending.
    """
    client, near, far, target = ends
    pumps, pump = borrowing(near, far)
    client.sendall(b"whole")
    edge(pump)
    give(code, monkeypatch)
    assert pump.move() is Outcome.STARVED
    assert target.recv(10) == b"whole"
    assert pumps._pool._lends == (code != errno.EPERM)
    pumps.close()
