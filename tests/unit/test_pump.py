"""The pump: sent whole, byte by byte or in random chunks, the same data comes out. Real sockets."""

import contextlib
import select
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.peers import pattern, reset
from support.pumps import edge, small, tcp_pair

from mprelay.system import poller
from mprelay.worker import pump as pump_module
from mprelay.worker.pump import Outcome, Pumps

with contextlib.suppress(ImportError):  # Windows has none
    import resource


@pytest.fixture
def ends():
    """A client and a target, each with the relay's end of its connection."""
    socks = [*tcp_pair(), *reversed(tcp_pair())]  # ours block: with a timeout Python would wait for room
    yield socks
    for sock in socks:
        sock.close()


class Counting:
    """A socket that records the calls."""

    def __init__(self, sock):
        self.sock = sock
        self.calls = []

    def __getattr__(self, name):
        """Record the call, and pass it on to the socket."""
        self.calls.append(name)
        return getattr(self.sock, name)


@pytest.mark.parametrize("size", [100, 4000, None])
@given(chunks=st.lists(st.integers(1, 9000), max_size=20))
@settings(max_examples=25)
def test_any_chunks_come_out_the_same(size, chunks):
    """Order and content never change, and all bytes are counted."""
    client, near, far, target = (*tcp_pair(), *reversed(tcp_pair()))
    sent = pattern(sum(chunks))
    with client, near, far, target:
        pump = Pumps(size, 0).make(near, far)
        at = 0
        for chunk in chunks:
            client.sendall(sent[at : at + chunk])
            at += chunk
            edge(pump)
            while pump.move() is Outcome.UNFINISHED:
                pass
        client.shutdown(socket.SHUT_WR)
        edge(pump, poller.HANGUP)
        while (outcome := pump.move()) is Outcome.UNFINISHED:
            pass
        while outcome is Outcome.STARVED:  # loopback may still be carrying the last bytes
            edge(pump)
            outcome = pump.move()
        assert outcome is Outcome.ENDED
        far.shutdown(socket.SHUT_WR)
        received = b""
        while part := target.recv(65536):
            received += part
        assert received == sent
        assert pump.received == len(sent)
        assert pump.over
        assert not pump.can_move


def test_an_exact_buffer_takes_no_more_than_its_size(ends):
    """BUF is exact: one read, one buffer."""
    client, near, far, _target = ends
    client.sendall(b"x" * 1000)
    pump = Pumps(100, 0).make(near, far)
    small(far, socket.SO_SNDBUF)
    while pump.move() in (Outcome.UNFINISHED, Outcome.STARVED):
        client.sendall(b"x" * 1000)
        edge(pump)
    assert len(pump._rest) <= 100
    assert pump._rest.obj is pump._buffer.obj


def test_nothing_is_read_while_the_sink_is_full(ends):
    """This is back-pressure: data already read waits, and no more data is read behind it."""
    client, near, far, _target = ends
    small(far, socket.SO_SNDBUF)
    client.setblocking(False)  # noqa: FBT003
    pump = Pumps(4000, 0).make(near, far)
    outcome = None
    while outcome is not Outcome.BLOCKED:
        with contextlib.suppress(BlockingIOError):
            client.send(b"x" * 65536)
        edge(pump)
        outcome = pump.move()
    before = pump.received
    assert not pump.writable
    assert not pump.can_move
    assert pump.move() is Outcome.BLOCKED
    assert pump.received == before
    assert not pump.moved


def test_a_short_read_shows_an_empty_source(ends):
    """No system call is made only to get EAGAIN."""
    client, near, far, _target = ends
    pump = Pumps(None, 0).make(near, far)
    client.sendall(b"hello")
    near.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    edge(pump)
    assert pump.move() is Outcome.STARVED
    assert not pump.readable


@pytest.mark.posix("poll(2) in the test")
def test_a_short_read_is_not_final_if_the_edge_reported_more(ends):
    """A FIN is already queued behind the data, and no other edge will report it."""
    client, near, far, _target = ends
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)
    poll = select.poll()
    poll.register(near, select.POLLRDHUP)
    assert poll.poll(20_000)
    pump = Pumps(None, 0).make(near, far)
    edge(pump, poller.END)
    assert pump.fin_received
    assert (pump.move(), pump.received) == (Outcome.ENDED, 3)


@pytest.mark.posix("EPOLLRDHUP, without which an end is always looked for")
def test_data_with_the_end_behind_it_needs_no_second_look(ends):
    """A short read that met the FIN is the end. A read that filled the buffer may not have reached it."""
    client, near, far, target = ends
    client.sendall(b"x" * 150)
    client.shutdown(socket.SHUT_WR)
    near.recv(150, socket.MSG_PEEK | socket.MSG_WAITALL)
    pump = Pumps(100, 0).make(near, far)
    pump._source = counting = Counting(near)
    edge(pump, poller.END)
    assert pump.move() is Outcome.ENDED
    assert (pump.received, counting.calls) == (150, ["recv_into"] * 2)
    assert target.recv(150, socket.MSG_WAITALL) == b"x" * 150


def test_a_reset_is_reported_after_the_data_before_it(ends):
    """All data that arrived counts. The error is reported after it."""
    client, near, far, _target = ends
    client.sendall(b"data")
    near.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
    reset(client)
    pump = Pumps(None, 0).make(near, far)
    edge(pump, poller.END, poller.ERROR, poller.HANGUP)
    assert pump.move() is Outcome.READ_FAILED
    assert (pump.error, pump.received, pump.fin_received) == ("ECONNRESET", 4, False)


@pytest.mark.parametrize(("told", "outcome"), [(True, Outcome.READ_FAILED), (False, Outcome.ENDED)])
def test_an_end_may_be_a_reset(ends, monkeypatch, told, outcome):
    """Under Wine recv() cannot tell. Then the system is asked in another way."""
    client, near, far, _target = ends
    monkeypatch.setattr(pump_module, "END_MAY_BE_RESET", True)
    monkeypatch.setattr("mprelay.system.sockets.was_reset", lambda sock: sock is near and told)
    client.shutdown(socket.SHUT_WR)
    near.recv(1, socket.MSG_PEEK)
    pump = Pumps(None, 0).make(near, far)
    edge(pump)
    assert pump.move() is outcome
    assert (pump.error, pump.fin_received) == ("ECONNRESET" if told else None, not told)


def test_a_failing_send_is_reported(ends):
    """The sink was reset."""
    client, near, far, target = ends
    reset(target)
    pump = Pumps(None, 0).make(near, far)
    outcome = Outcome.STARVED
    while outcome is Outcome.STARVED:
        client.sendall(b"data")
        near.recv(1, socket.MSG_PEEK)
        edge(pump)
        outcome = pump.move()
    assert outcome is Outcome.WRITE_FAILED
    assert pump.error == "ECONNRESET"


def test_a_flow_yields_after_a_while(ends):
    """No flow starves the others."""
    client, near, far, _target = ends
    client.sendall(b"x" * 10_000)
    near.recv(10_000, socket.MSG_PEEK | socket.MSG_WAITALL)
    pump = Pumps(100, 0).make(near, far)
    edge(pump)
    assert pump.move() is Outcome.UNFINISHED
    assert 0 < pump.received < 10_000
    assert pump.can_move


def until_it_blocks(client, pump):
    """Move data to a sink that takes only some of it. Returns the outcome, once there is a rest."""
    outcome = None
    while outcome not in (Outcome.NO_MEMORY, Outcome.BLOCKED):
        with contextlib.suppress(BlockingIOError):
            client.send(b"x" * 65536)
        edge(pump)
        outcome = pump.move()
    return outcome


def test_the_memory_that_the_loop_needs_is_not_used_up(ends, monkeypatch):
    """A rest for which there would be memory is not kept if too little were left."""
    client, near, far, _target = ends
    small(far, socket.SO_SNDBUF)
    client.setblocking(False)  # noqa: FBT003
    monkeypatch.setattr(pump_module, "_HEADROOM", 1 << 60)
    pump = Pumps(None, 0).make(near, far)
    assert (until_it_blocks(client, pump), pump.error) == (Outcome.NO_MEMORY, "ENOMEM")


class Sipping:
    """A sink that takes only as many bytes as it is told. How many a real one takes is the kernel's secret."""

    def __init__(self):
        self.room = 0

    def send(self, data, _flags):
        """Take what there is room for."""
        taken, self.room = min(self.room, len(data)), 0
        if not taken:
            raise BlockingIOError
        return taken


def test_what_is_held_is_delivered_without_more_memory(ends, monkeypatch):
    """Also in parts, and however often the sink takes nothing."""
    client, near, _far, _target = ends
    sink = Sipping()
    pump = Pumps(None, 0).make(near, sink)
    client.sendall(b"x" * 1000)
    near.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)
    edge(pump)
    assert pump.move() is Outcome.BLOCKED
    monkeypatch.setattr(pump_module, "_HEADROOM", 1 << 60)
    for room, held in ((0, 1000), (100, 900), (0, 900), (899, 1)):
        sink.room = room
        assert pump.sink_ready()
        assert (pump.move(), pump.held, pump.sent) == (Outcome.BLOCKED, held, 1000 - held)


@pytest.mark.posix("RLIMIT_AS")
def test_a_lack_of_memory_for_the_rest_is_reported(ends):
    """Scratch is shared, so data that the sink does not take must be copied, and that can fail."""
    client, near, far, _target = ends
    small(far, socket.SO_SNDBUF)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    client.setblocking(False)  # noqa: FBT003
    pump = Pumps(None, 0).make(near, far)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    refused = False

    def keep(rest):
        nonlocal refused
        with open("/proc/self/statm") as statm:  # noqa: PTH123
            pages = int(statm.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096, hard))
        try:
            return bytes(bytearray(1 << 30)[: len(rest)])  # a gibibyte no longer fits
        finally:
            refused = True
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    pump._keep = keep
    outcome = until_it_blocks(client, pump)
    assert refused
    assert (outcome, pump.error) == (Outcome.NO_MEMORY, "ENOMEM")
