"""Sockets are passed to another process in whole messages, and their owner is always known."""

import array
import errno
import os
import socket
import struct
import sys
import tracemalloc

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: SCM_RIGHTS", allow_module_level=True)

import fcntl
import resource

from mprelay.system import passing, passing_rights, passing_share
from mprelay.system.passing import NoPassing, NoSockets, Receiver

SIZE, COUNT = 100, 4


@pytest.fixture
def share(monkeypatch):
    """Share sockets by a pipe, here too. What Windows does for another process, dup(2) does within this one."""
    monkeypatch.setattr(passing_share, "_share", lambda descriptor, _pid: struct.pack("<q", os.dup(descriptor)))
    monkeypatch.setattr(passing_share, "_received", lambda blob: struct.unpack("<q", blob)[0])
    return passing_share


@pytest.fixture(params=["rights", "share"])
def variant(request):
    """Each variant of passing."""
    return passing_rights if request.param == "rights" else request.getfixturevalue("share")


def both(variant):
    """A sender and a receiver."""
    ours, theirs = variant.channel()
    return variant.Sender(ours, os.getpid()), variant.Receiver(theirs, SIZE, COUNT)


@pytest.fixture
def ends():
    """A sender and a receiver of the variant that Linux has."""
    sender, receiver = both(passing_rights)
    yield sender, receiver
    sender.close()
    receiver.close()


def test_a_message_takes_little_memory(variant):
    """Less than the longest one: a receiver that has run out of memory can still take what waits."""
    ours, theirs = variant.channel()
    sender, receiver = variant.Sender(ours, os.getpid()), variant.Receiver(theirs, 1 << 20, COUNT)
    sender.send(b"x" * 16, [])
    tracemalloc.start()
    try:
        assert receiver.receive() == (b"x" * 16, [])
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
        sender.close()
        receiver.close()


def test_the_variants_have_the_same_interface():
    """They have the same names to choose from, and the same methods."""
    for variant in (passing_rights, passing_share):
        assert {"MECHANISM", "End", "Receiver", "Sender", "channel", "missing"} <= set(vars(variant))
    for name in ("Sender", "Receiver"):
        public = [{n for n in dir(getattr(v, name)) if n[0] != "_"} for v in (passing_rights, passing_share)]
        assert public[0] == public[1]


def test_a_platform_without_passing_is_named():
    """The relay refuses to start there."""
    assert passing.missing() is None
    assert passing_share.missing() == "socket.share"


def test_sockets_arrive_with_their_message(variant):
    """They arrive in order. The sender's copies may be closed at once."""
    sender, receiver = both(variant)
    pairs = [socket.socketpair() for _ in range(COUNT)]
    sender.send(b"first", [near.fileno() for near, _ in pairs])
    sender.send(b"second", [])
    for near, _ in pairs:
        near.close()
    message, descriptors = receiver.receive()
    assert message == b"first"
    assert receiver.receive() == (b"second", [])
    for number, descriptor in enumerate(descriptors):
        with socket.socket(fileno=descriptor) as arrived:
            arrived.sendall(b"%d" % number)
    for number, (_, far) in enumerate(pairs):
        with far:
            assert far.recv(10) == b"%d" % number
            assert far.recv(10) == b""
    sender.close()
    receiver.close()


def test_a_socket_that_cannot_be_shared_leaves_nothing_behind(share, monkeypatch):
    """Those before it are closed by the receiver. The next message is whole."""
    sender, receiver = both(share)
    (near, far), (other, _far) = pairs = socket.socketpair(), socket.socketpair()
    share_it = share._share

    def refused(descriptor, pid):
        if descriptor == other.fileno():
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return share_it(descriptor, pid)

    monkeypatch.setattr(share, "_share", refused)
    with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
        sender.send(b"message", [near.fileno(), other.fileno()])
    sender.send(b"next", [])
    near.close()
    assert receiver.receive() == (b"next", [])
    assert far.recv(1) == b""
    for pair in pairs:
        for sock in pair:
            sock.close()
    sender.close()
    receiver.close()


def test_a_shared_message_arrives_in_parts(share):
    """A stream may be cut anywhere. Nothing is taken before a message is whole, and the next one waits."""
    ours, theirs = share.channel()
    receiver = share.Receiver(theirs, SIZE, COUNT)
    near, far = socket.socketpair()
    with near, far:
        blob = share._share(near.fileno(), 0)
        whole = share._HEAD.pack(3, 1, len(blob)) + b"one" + blob + share._HEAD.pack(3, 0, 0) + b"two"
        for byte in whole[:22]:
            with pytest.raises(BlockingIOError):
                receiver.receive()
            os.write(ours.fileno(), bytes([byte]))
        os.write(ours.fileno(), whole[22:])
        message, (descriptor,) = receiver.receive()
        os.close(descriptor)
        assert message == b"one"
        assert receiver.receive() == (b"two", [])
    os.write(ours.fileno(), whole[:14])
    ours.close()
    assert receiver.receive() == (b"", [])  # a message of which the rest will never come
    receiver.close()


def test_a_received_descriptor_is_not_inherited(ends):
    """It is close-on-exec from the moment that the kernel installs it."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with far:
        sender.send(b"one", [near.fileno()])
        near.close()
        message, (descriptor,) = receiver.receive()
        assert message == b"one"
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.write(descriptor, b"x")
        os.close(descriptor)
        assert far.recv(2) == b"x"


def test_messages_stay_apart_and_may_have_no_socket(ends):
    """They arrive in order, each one whole. An empty channel is an error, which differs from the end."""
    sender, receiver = ends
    sender.send(b"one", [])
    sender.send(b"x" * SIZE, [])
    assert receiver.receive() == (b"one", [])
    assert receiver.receive() == (b"x" * SIZE, [])
    with pytest.raises(BlockingIOError):
        receiver.receive()
    sender.close()
    assert receiver.receive() == (b"", [])


def test_a_message_that_is_too_long_is_an_error_and_leaves_nothing(ends):
    """Its sockets are closed. The next message is whole."""
    sender, receiver = ends
    near, far = socket.socketpair()
    with far:
        sender.send(b"x" * (SIZE + 1), [near.fileno()])
        near.close()
        sender.send(b"next", [])
        with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)) as told:
            receiver.receive()
        assert told.value.errno == errno.EMSGSIZE
        assert far.recv(1) == b""
        assert receiver.receive() == (b"next", [])


def test_more_sockets_than_there_is_room_for(ends):
    """The first ones arrive, and the rest is closed."""
    sender, receiver = ends
    room = (socket.CMSG_SPACE(COUNT * 4) - socket.CMSG_LEN(0)) // array.array("i").itemsize
    pairs = [socket.socketpair() for _ in range(room + 2)]
    sender.send(b"many", [near.fileno() for near, _ in pairs])
    for near, _ in pairs:
        near.close()
    message, descriptors = receiver.receive()
    assert (message, len(descriptors)) == (b"many", room)
    for descriptor in descriptors:
        os.write(descriptor, b"x")
        os.close(descriptor)
    for index, (_, far) in enumerate(pairs):
        with far:
            assert far.recv(1) == (b"x" if index < room else b"")


def test_a_dead_sender_with_unread_data_is_the_end_too(ends):
    """On a local socket the error is ECONNRESET: the other end was closed before it had read everything."""
    sender, receiver = ends
    receiver._sock.send(b"never read")
    sender.close()
    assert receiver.receive() == (b"", [])


def test_the_probe_passes_here():
    """This system can pass sockets."""
    passing.probe()


def test_the_probe_distinguishes_no_sockets_from_no_passing(monkeypatch):
    """EMFILE for the channel is message 9. A channel that passes nothing is message 10."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(NoSockets) as told:
            passing.probe()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert told.value.errno == errno.EMFILE
    monkeypatch.setattr(passing, "channel", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    passing.probe()  # a stream passes descriptors as well
    monkeypatch.setattr(passing, "channel", udp_pair)
    with pytest.raises(NoPassing, match="SCM_RIGHTS: the message arrived without its descriptor"):
        passing.probe()


def udp_pair():
    """A channel that cannot carry descriptors."""
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (one, other):
        sock.bind(("127.0.0.1", 0))
    one.connect(other.getsockname())
    return one, other


def test_the_probe_names_the_error(monkeypatch):
    """If a sandbox refuses the call, message 10 has its error."""

    def refused(_self):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Receiver, "receive", refused)
    with pytest.raises(NoPassing, match=r"SCM_RIGHTS: EPERM$"):
        passing.probe()
