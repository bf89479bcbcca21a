"""The hand-off channel: sockets arrive with their tickets, or are told missing."""

import contextlib
import fcntl
import os
import resource
import socket
from pathlib import Path

import pytest

from mprelay.channel import down as handoff
from mprelay.channel.down import BATCH, NoPassing, NoSockets
from mprelay.core.protocol import Ticket


@pytest.fixture
def ends():
    """A sender and a receiver."""
    down, up = handoff.channel()
    sender, receiver = handoff.sender(down), handoff.receiver(up)
    yield sender, receiver
    sender.close()
    receiver.close()


def test_a_full_batch_arrives_in_one_message_in_order(ends):
    """Tickets and sockets stay together."""
    sender, receiver = ends
    pairs = [socket.socketpair() for _ in range(BATCH)]
    tickets = [Ticket(serial, serial / 8) for serial in range(BATCH)]
    sender.send(tickets, [near.fileno() for near, _ in pairs])
    for near, _ in pairs:
        near.close()
    message = receiver.receive()
    assert [ticket for ticket, _ in message] == tickets
    for (ticket, descriptor), (_, far) in zip(message, pairs, strict=True):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.write(descriptor, str(ticket.serial).encode())
        os.close(descriptor)
        assert far.recv(10) == str(ticket.serial).encode()
        far.close()
    assert receiver.receive() == []


def test_the_end_is_the_stop_message(ends):
    """After all that was sent before it."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with near, far:
        sender.send([Ticket(1, 0.0)], [near.fileno()])
        sender.close()
        ((ticket, descriptor),) = receiver.receive()
        os.close(descriptor)
        assert ticket == Ticket(1, 0.0)
        assert receiver.receive() is None


def test_a_message_that_nobody_receives_ends_its_connections(ends):
    """The kernel closes what is under way."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with far:
        sender.send([Ticket(1, 0.0)], [near.fileno()])
        near.close()
        receiver.close()
        assert far.recv(1) == b""


def test_at_the_descriptor_limit_the_last_tickets_come_without_sockets(ends):
    """MSG_CTRUNC: the kernel installs what fits, and closes the rest."""
    sender, receiver = ends
    pairs = [socket.socketpair() for _ in range(4)]
    sender.send([Ticket(serial, 0.0) for serial in range(4)], [near.fileno() for near, _ in pairs])
    for near, _ in pairs:
        near.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(2)]  # the numbers of the only two that will fit: all below are taken
    top = max(free) + 1
    taken = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    fill = [os.dup(0) for number in range(top) if number not in taken]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    try:
        message = receiver.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [ticket.serial for ticket, _ in message] == [0, 1, 2, 3]
    assert [descriptor is None for _, descriptor in message] == [False, False, True, True]
    for descriptor in [*fill, *(d for _, d in message if d is not None)]:
        os.close(descriptor)
    for _, far in pairs:
        assert far.recv(1) == b""
        far.close()


def test_a_full_channel_refuses_and_the_sender_keeps_its_socket(ends):
    """EAGAIN, never a blocked supervisor; hundreds fit before."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with near, far:
        fitted = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send([Ticket(fitted, 0.0)], [near.fileno()])
                fitted += 1
        assert fitted >= 500
        near.send(b"still ours")
        assert far.recv(20) == b"still ours"
        got = 0
        while message := receiver.receive():
            got += len(message)
            for _, descriptor in message:
                os.close(descriptor)
        assert got == fitted


def test_a_dead_receiver_is_told(ends):
    """EPIPE, without the signal."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with near, far:
        receiver.close()
        with pytest.raises(BrokenPipeError):
            sender.send([Ticket(1, 0.0)], [near.fileno()])


def test_a_dead_sender_with_unread_data_is_the_end_too(ends):
    """ECONNRESET on a local socket: the other end was closed before it had read all."""
    sender, receiver = ends
    receiver._sock.send(b"never read")
    sender.close()
    assert receiver.receive() is None


def test_the_probe_passes_here():
    """This system can do it."""
    assert handoff.missing() is None
    handoff.probe()


def test_the_probe_tells_no_sockets_from_no_passing(monkeypatch):
    """EMFILE for the channel is message 9; a channel that passes nothing is message 10."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(NoSockets) as told:
            handoff.probe()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert told.value.errno == 24
    monkeypatch.setattr(handoff, "channel", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    handoff.probe()  # a stream passes descriptors as well
    monkeypatch.setattr(handoff, "channel", udp_pair)
    with pytest.raises(NoPassing, match="SCM_RIGHTS"):
        handoff.probe()


def udp_pair():
    """A channel that cannot carry descriptors."""
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (one, other):
        sock.bind(("127.0.0.1", 0))
    one.connect(other.getsockname())
    return one, other
