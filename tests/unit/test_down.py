"""The channel down: tickets arrive with or without their sockets, orders arrive, and anything else is refused."""

import contextlib
import errno
import os
import socket
import struct
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.channel import build, down
from mprelay.channel.down import BATCH, KILL_BATCH, MESSAGE_SIZE, NotMessage, Receiver, Sender
from mprelay.core.protocol import (
    ADDRESSES_LIMIT,
    AWAITED_FROM,
    ERROR_LIMIT,
    Admit,
    CloseReason,
    Expiry,
    Kill,
    NewExpiry,
    Refuse,
    Targets,
    Ticket,
)
from mprelay.system import passing

with contextlib.suppress(ImportError):  # Windows has none
    import fcntl
    import resource

pytestmark = pytest.mark.posix("SCM_RIGHTS; the hand-over of Windows is in test_windows.py")


@pytest.fixture
def ends():
    """A sender and a receiver."""
    ours, theirs = passing.channel()
    sender, receiver = Sender(ours, os.getpid()), Receiver(theirs)
    yield sender, receiver
    sender.close()
    receiver.close()


def test_a_full_batch_arrives_in_one_message_in_order(ends):
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
    """It arrives after everything that was sent before it."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with near, far:
        sender.send([Ticket(1, 0.0)], [near.fileno()])
        sender.close()
        ((ticket, descriptor),) = receiver.receive()
        os.close(descriptor)
        assert ticket == Ticket(1, 0.0)
        assert receiver.receive() is None


def test_a_message_that_is_never_received_ends_its_connections(ends):
    """The kernel closes sockets in flight."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with far:
        sender.send([Ticket(1, 0.0)], [near.fileno()])
        near.close()
        receiver.close()
        assert far.recv(1) == b""


def test_at_the_descriptor_limit_the_last_tickets_come_without_sockets(ends):
    """MSG_CTRUNC: the kernel installs the descriptors that fit, and closes the rest."""
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
    """The error is EAGAIN, so the supervisor never blocks. Hundreds of messages fit before."""
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


def test_a_dead_receiver_is_an_error(ends):
    """The error is EPIPE, without the signal."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with near, far:
        receiver.close()
        with pytest.raises(BrokenPipeError):
            sender.send([Ticket(1, 0.0)], [near.fileno()])


def test_a_dead_sender_with_unread_data_is_the_end_too(ends):
    """On a local socket the error is ECONNRESET: the other end was closed before it had read everything."""
    sender, receiver = ends
    receiver._passing._sock.send(b"never read")
    sender.close()
    assert receiver.receive() is None


# -- extras, and orders ---------------------------------------------------------------------------------------

CLIENT = ("192.0.2.1", 40000)
LONGEST = ("0000:0000:0000:0000:0000:ffff:255.255.255.255", 65535)
LARGEST = Ticket(2**64 - 1, 1.2345678901234567e-05, LONGEST)
LARGEST_TARGETS = Targets((LONGEST[0],) * ADDRESSES_LIMIT)
LARGEST_KILL = Kill((2**64 - 1,) * KILL_BATCH, max(CloseReason, key=len))


def through(message, descriptors=()):
    """The content of a message, as it arrives."""
    return down.unpack(message, [*descriptors])


def test_a_ticket_may_have_a_client(ends):
    """Tickets without one go beside it, in their order and with their sockets."""
    sender, receiver = ends
    tickets = [Ticket(1, 2.5), Ticket(2, 2.5, CLIENT), Ticket(3, 2.5)]
    pairs = [socket.socketpair() for _ in tickets]
    sender.send(tickets, [near.fileno() for near, _ in pairs])
    for near, _ in pairs:
        near.close()
    message = receiver.receive()
    assert [ticket for ticket, _ in message] == tickets
    for (ticket, descriptor), (_, far) in zip(message, pairs, strict=True):
        assert type(ticket) is Ticket
        os.write(descriptor, str(ticket.serial).encode())
        os.close(descriptor)
        assert far.recv(10) == str(ticket.serial).encode()
        far.close()
    assert receiver.receive() == []


def test_the_largest_batch_fits_in_one_message(ends):
    """It has the longest possible addresses, and all sockets."""
    sender, receiver = ends
    assert len(down.pack_tickets([LARGEST] * BATCH)) <= MESSAGE_SIZE
    near, far = socket.socketpair()
    with near, far:
        sender.send([LARGEST] * BATCH, [near.fileno()] * BATCH)
        message = receiver.receive()
        assert [ticket for ticket, _ in message] == [LARGEST] * BATCH
        for _, descriptor in message:
            os.close(descriptor)


@pytest.mark.parametrize(
    "order",
    [
        Kill((1,), CloseReason.KILLED),
        Kill((), CloseReason.DRAINED),
        LARGEST_KILL,
        NewExpiry(Expiry(1234.5)),
        NewExpiry(Expiry(0.0, wall=True)),
        NewExpiry(None),
        Targets(("192.0.2.1", "2001:db8::1"), named=True),
        Targets((), "NXDOMAIN", named=True),
        LARGEST_TARGETS,
        Admit(AWAITED_FROM, LARGEST),
        Admit(2**64 - 1, Ticket(1, 0.0, CLIENT)),
        Refuse(AWAITED_FROM),
    ],
)
def test_an_order_arrives_in_its_place(ends, order):
    """It arrives between tickets, as an equal value of the same kind."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with near, far:
        for serial in (1, 2):
            sender.send([Ticket(serial, 0.0)], [near.fileno()])
            sender.send_order(order)
        for serial in (1, 2):
            ((ticket, descriptor),) = receiver.receive()
            os.close(descriptor)
            assert ticket == Ticket(serial, 0.0)
            again = receiver.receive()
            assert (type(again), again) == (type(order), order)
    assert receiver.receive() == []


@pytest.mark.parametrize("reason", CloseReason)
def test_a_kill_names_its_reason(reason):
    """Any reason arrives as the same member of the enumeration."""
    assert through(down.pack_order(Kill((7, 8), reason))).reason is reason


def test_an_order_never_blocks(ends):
    """EAGAIN while the channel is full, EPIPE when the worker is gone."""
    sender, receiver = ends
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send_order(LARGEST_KILL)
    while received := receiver.receive():
        assert received == LARGEST_KILL
    receiver.close()
    with pytest.raises(BrokenPipeError):
        sender.send_order(NewExpiry(None))


def test_an_order_that_is_too_long_is_not_sent(ends):
    """Nothing arrives. The caller splits it."""
    sender, receiver = ends
    with pytest.raises(ValueError, match="513 sessions"):
        sender.send_order(Kill((1,) * (KILL_BATCH + 1), CloseReason.KILLED))
    with pytest.raises(ValueError, match="tickets: a message of"):
        sender.send([Ticket(1, 1.0, ("x" * MESSAGE_SIZE, 1))], [0])
    assert receiver.receive() == []


def row(serial, admitted_at):
    """A ticket without extras, as it travels."""
    return struct.pack(down.TICKET_FORMAT, serial, admitted_at)


def as_json(*values):
    """A message of another kind, as it travels."""
    message = orjson.dumps(values)
    return message if len(message) % 2 else message + b" "


GOOD_TICKET = (1, 1.5, None)
NAMED = True


@pytest.mark.parametrize(
    "message",
    [
        b"xx",
        row(1, 1.0)[:-2],
        row(1, 1.0) + b"xx",
        row(1, -1.0),
        row(1, float("nan")),
        row(1, float("inf")),
        row(1, 1e11),
        row(1, 1.0) * (BATCH + 1),
        b"x",
        b"\xff" * 15,
        b"[" * 4001,
        as_json(),
        as_json("bill", [1], "killed"),
        as_json(["kill"], [1], "killed"),
        as_json(1, [1], "killed"),
        orjson.dumps({"kill": [1]}) + b" ",
        as_json("kill"),
        as_json("kill", [1]),
        as_json("kill", [1], "killed", 1),
        as_json("kill", 1, "killed"),
        as_json("kill", [1], "for fun"),
        as_json("kill", [1], None),
        as_json("kill", [True], "killed"),
        as_json("kill", [1.0], "killed"),
        as_json("kill", [-1], "killed"),
        as_json("kill", [1] * (KILL_BATCH + 1), "killed"),
        b'["kill",[99999999999999999999999],"killed"]',
        as_json("expiry"),
        as_json("expiry", 1.0),
        as_json("expiry", [1, False]),
        as_json("expiry", [-1.0, False]),
        as_json("expiry", [1e11, True]),
        as_json("expiry", ["1.0", True]),
        as_json("expiry", [1.0, 1]),
        as_json("expiry", [1.0]),
        as_json("expiry", None, None),
        b'["expiry",[NaN,false]]',
        as_json("targets"),
        as_json("targets", ["::1"], None),
        as_json("targets", ["::1"], None, 1),
        as_json("targets", ["::1"], "NXDOMAIN", NAMED),
        as_json("targets", [], None, NAMED),
        as_json("targets", [], "", NAMED),
        as_json("targets", [], "é", NAMED),
        as_json("targets", [], "X" * (ERROR_LIMIT + 1), NAMED),
        as_json("targets", "::1", None, NAMED),
        as_json("targets", [1], None, NAMED),
        as_json("targets", [""], None, NAMED),
        as_json("targets", ["1" * 46], None, NAMED),
        as_json("targets", ["::1"] * (ADDRESSES_LIMIT + 1), None, NAMED),
        as_json("admit"),
        as_json("admit", 1),
        as_json("admit", "1", GOOD_TICKET),
        as_json("admit", 1, GOOD_TICKET[:-1]),
        as_json("admit", 1, GOOD_TICKET, None),
        as_json("refuse"),
        as_json("refuse", -1),
        as_json("refuse", 1, 1),
        as_json("tickets"),
        as_json("tickets", *[GOOD_TICKET] * (BATCH + 1)),
        as_json("tickets", GOOD_TICKET[:-1]),
        as_json("tickets", [*GOOD_TICKET, None]),
        as_json("tickets", "12345"),
        as_json("tickets", ("1", *GOOD_TICKET[1:])),
        as_json("tickets", (-1, *GOOD_TICKET[1:])),
        as_json("tickets", (1, 1, None)),
        as_json("tickets", (1, -1.5, None)),
        as_json("tickets", (*GOOD_TICKET[:2], 1)),
        as_json("tickets", (*GOOD_TICKET[:2], [])),
        as_json("tickets", (*GOOD_TICKET[:2], ["::1"])),
        as_json("tickets", (*GOOD_TICKET[:2], ["::1", 1, 1])),
        as_json("tickets", (*GOOD_TICKET[:2], [1, "::1"])),
        as_json("tickets", (*GOOD_TICKET[:2], ["", 1])),
        as_json("tickets", (*GOOD_TICKET[:2], ["1" * 46, 1])),
        as_json("tickets", (*GOOD_TICKET[:2], ["é", 1])),
        as_json("tickets", (*GOOD_TICKET[:2], ["\x1b", 1])),
        as_json("tickets", (*GOOD_TICKET[:2], ["::1", -1])),
        as_json("tickets", (*GOOD_TICKET[:2], ["::1", 65536])),
        as_json("tickets", (*GOOD_TICKET[:2], ["::1", True])),
    ],
)
def test_a_message_that_no_supervisor_sends_is_refused(ends, message):
    """The sockets that came with it are closed."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with far:
        sender._passing.send(message, [near.fileno()])
        near.close()
        with pytest.raises(NotMessage):
            receiver.receive()
        assert far.recv(1) == b""


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (down.pack_tickets([Ticket(1, 1.0)]), 2),
        (down.pack_tickets([Ticket(1, 1.0, CLIENT)]), 2),
        (down.pack_order(Kill((1,), CloseReason.KILLED)), 1),
        (down.pack_order(NewExpiry(None)), 1),
    ],
)
def test_more_sockets_than_tickets_are_refused(ends, message, count):
    """An order has none. The sockets are closed."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with far:
        sender._passing.send(message, [near.fileno()] * count)
        near.close()
        with pytest.raises(NotMessage, match="sockets"):
            receiver.receive()
        assert far.recv(1) == b""


def test_a_message_that_is_too_long_is_refused(ends):
    """EMSGSIZE: the part that arrives is not used."""
    sender, receiver = ends
    sender._passing.send(b" " * MESSAGE_SIZE + b"x", [])
    with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)):
        receiver.receive()


def test_a_batch_with_clients_may_miss_sockets_too():
    """The last tickets stay without."""
    tickets = [Ticket(serial, 1.0, CLIENT) for serial in range(3)]
    assert through(down.pack_tickets(tickets), [5]) == [*zip(tickets, [5, None, None], strict=True)]
    assert through(down.pack_tickets(tickets), []) == [*zip(tickets, [None] * 3, strict=True)]


ADDRESSES = st.none() | st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))
MOMENTS = st.floats(0.0, 1e11, exclude_max=True)
SERIALS = st.integers(0, 2**64 - 1)
PLAIN = st.tuples(SERIALS, MOMENTS).map(lambda values: Ticket(*values))
WITH_CLIENT = st.tuples(SERIALS, MOMENTS, ADDRESSES).map(lambda values: Ticket(*values))


@given(st.lists(PLAIN | WITH_CLIENT, min_size=1, max_size=BATCH))
def test_any_tickets_arrive(tickets):
    """They stay the same, down to the last bit of a moment."""
    message = down.pack_tickets(tickets)
    assert 0 < len(message) <= MESSAGE_SIZE
    assert through(message, range(len(tickets))) == [*zip(tickets, range(len(tickets)), strict=True)]


@given(
    st.builds(Kill, st.lists(SERIALS).map(tuple), st.sampled_from(CloseReason))
    | st.builds(NewExpiry, st.none() | st.builds(Expiry, MOMENTS, st.booleans()))
    | st.builds(
        Targets, st.lists(st.ip_addresses().map(str), min_size=1, max_size=9).map(tuple), st.none(), st.booleans()
    )
)
def test_any_order_arrives(order):
    """It is never taken for tickets."""
    message = down.pack_order(order)
    assert 0 < len(message) <= MESSAGE_SIZE
    assert through(message) == order


@given(st.binary(min_size=1, max_size=2000) | st.binary(max_size=500).map(lambda data: b'["kill",' + data))
def test_no_bytes_break_it(data):
    """They are tickets, an order, or refused."""
    with contextlib.suppress(NotMessage):
        assert isinstance(through(data), list | Kill | NewExpiry)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(down, "KINDS", down.KINDS[::-1]),
        lambda patch: patch.setattr(down, "KINDS", (*down.KINDS[:-1], down.KINDS[-1]._replace(name="other"))),
        lambda patch: patch.setitem(Kill.__annotations__, "reason", str),
        lambda patch: patch.setitem(NewExpiry.__annotations__, "further", int),
        lambda patch: patch.setitem(Ticket.__annotations__, "client", int),
        lambda patch: patch.setattr(down, "TICKET_FORMAT", "<dQ"),
    ],
)
def test_the_build_covers_all_that_goes_down(monkeypatch, change):
    """A worker of a program that packs messages differently belongs to another build."""
    assert build._build() == build.BUILD
    change(monkeypatch)
    assert build._build() != build.BUILD
