"""Readiness, as all variants of the Poller tell it, and what only one of them does. Real sockets and clocks."""

import contextlib
import errno
import importlib
import socket
import sys
import threading
import time

import pytest

from mprelay.system import limits, poller, poller_select
from mprelay.system.poller_select import EDGE, ERROR, READ, WRITE

VARIANTS = [poller_select]
if sys.platform == "linux":
    VARIANTS.append(importlib.import_module("mprelay.system.poller_epoll"))


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.__name__.rpartition("_")[2])
def variant(request):
    """A variant: the module."""
    return request.param


@pytest.fixture
def watch(variant):
    """A Poller of a variant."""
    made = variant.Poller()
    yield made
    made.close()


@pytest.fixture
def select_watch():
    """A Poller made of select(2)."""
    made = poller_select.Poller()
    yield made
    made.close()


@pytest.fixture
def pair():
    """Two connected sockets that never block."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(0)
    yield ends
    for end in ends:
        end.close()


def fill(sock):
    """Send until the peer's and the own buffers are full."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))


def test_the_variants_have_the_same_interface():
    """They have every name that :mod:`mprelay.system.poller` passes on, and a Poller with the same methods."""
    public = {name for name in dir(poller_select.Poller) if not name.startswith("_")}
    for variant in VARIANTS:
        assert set(poller.__all__) <= set(vars(variant))
        made = variant.Poller()
        assert public <= set(dir(made))
        made.close()


def test_this_platform_has_a_poller():
    """Only a Python without epoll on Linux lacks one."""
    assert poller.missing() is None
    assert poller_select.missing() is None
    assert poller.TELLS_EDGES == (sys.platform == "linux")
    assert not poller_select.TELLS_EDGES


def test_readiness_is_told_as_long_as_it_lasts(watch, pair):
    """This holds for reading and for writing, and ends with what is watched."""
    near, far = pair
    watch.add(near.fileno(), READ)
    assert watch.wait(0) == []
    far.send(b"x")
    assert watch.wait(None) == watch.wait(None) == [(near.fileno(), READ)]
    watch.change(near.fileno(), READ | WRITE)
    assert watch.wait(None) == [(near.fileno(), READ | WRITE)]
    near.recv(1)
    assert watch.wait(None) == [(near.fileno(), WRITE)]
    fill(near)
    assert watch.wait(0) == []
    watch.change(near.fileno(), 0)
    far.send(b"x")
    assert watch.wait(0) == []
    watch.remove(near.fileno())
    watch.add(near.fileno(), READ)
    assert watch.wait(None) == [(near.fileno(), READ)]


def test_what_is_not_watched_can_be_neither_changed_nor_removed(watch, pair):
    """Whoever tries that has lost track."""
    near, far = pair
    watch.add(far.fileno(), READ)
    watch.remove(far.fileno())
    for change in (lambda: watch.change(near.fileno(), READ), lambda: watch.remove(far.fileno())):
        with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is checked
            change()
        assert refused.value.errno == errno.ENOENT


def test_what_cannot_be_watched_is_refused_at_once(watch):
    """No later wait fails because of it."""
    sock = socket.socket()
    closed = sock.fileno()
    sock.close()
    for descriptor, error in ((closed, OSError), (-1, ValueError)):
        with pytest.raises(error):
            watch.add(descriptor, READ)
    assert watch.wait(0) == []


@pytest.mark.parametrize("timeout", [0.0001, 0.001, 0.0157, 0.05])
@pytest.mark.parametrize("watched", [True, False])
def test_a_deadline_has_passed_when_the_wait_for_it_is_over(watch, pair, timeout, watched):
    """No turn of a loop comes too early. A Poller that watches nothing waits too."""
    if watched:
        watch.add(pair[0].fileno(), READ)
    until = time.monotonic() + timeout
    assert watch.wait(timeout) == []
    assert time.monotonic() >= until


def test_a_deadline_that_has_passed_is_not_waited_for(watch, pair):
    """A negative timeout is none."""
    watch.add(pair[0].fileno(), READ)
    assert watch.wait(-5.0) == []


def test_a_timeout_may_exceed_the_limit_of_the_system(watch, pair):
    """In this test something is ready before."""
    near, far = pair
    watch.add(near.fileno(), READ)
    far.send(b"x")
    assert watch.wait(1e30) == [(near.fileno(), READ)]


def test_a_wait_that_takes_too_short_a_time_goes_on(select_watch, pair, monkeypatch):
    """Windows counts the time in ticks of some milliseconds, and may be early by one."""
    real, asked = poller_select.select.select, []

    def early(readers, writers, troubled, timeout):
        asked.append(timeout)
        return real(readers, writers, troubled, 0)

    select_watch.add(pair[0].fileno(), READ)
    monkeypatch.setattr(poller_select.select, "select", early)
    until = time.monotonic() + 0.01
    assert select_watch.wait(0.01) == []
    assert time.monotonic() >= until
    assert len(asked) > 1
    assert min(asked) >= 0.001, "a wait below a millisecond would spin"


def test_a_wait_of_more_than_a_day_goes_on_too(select_watch, pair, monkeypatch):
    """It makes several system calls, and none is asked for more than a day."""
    real, asked = poller_select.select.select, []

    def a_day_later(readers, writers, troubled, timeout):
        asked.append(timeout)
        return real(readers, writers, troubled, 0 if len(asked) < 3 else None)

    near, far = pair
    select_watch.add(near.fileno(), READ)
    monkeypatch.setattr(poller_select.select, "select", a_day_later)
    sender = threading.Timer(0.05, far.send, [b"x"])
    sender.start()
    assert select_watch.wait(None) == [(near.fileno(), READ)]
    sender.join()
    assert asked == [86400.0] * 3


def test_the_number_of_events_is_bounded(variant, monkeypatch):
    """What epoll leaves out comes with the next call. The other variant leaves nothing out."""
    watch = variant.Poller()
    pairs = [socket.socketpair() for _ in range(3)]
    try:
        monkeypatch.setattr(variant.Poller, "EVENTS_AT_ONCE", 2)
        for near, far in pairs:
            far.send(b"x")
            watch.add(near.fileno(), READ | (EDGE if variant.TELLS_EDGES else 0))
        if variant.TELLS_EDGES:
            assert [len(watch.wait(timeout)) for timeout in (0, None, 0)] == [2, 1, 0]
        else:
            assert {descriptor for descriptor, _ in watch.wait(None)} == {near.fileno() for near, _ in pairs}
    finally:
        watch.close()
        for near, far in pairs:
            near.close()
            far.close()


# -- select(2) -----------------------------------------------------------------------------------------------


def test_what_is_added_for_edges_is_told_of_only_after_a_change(select_watch, pair):
    """There are no edges. Whoever wants one has another way."""
    near, far = pair
    far.send(b"x")
    select_watch.add(near.fileno(), READ | WRITE | EDGE)
    assert select_watch.wait(0) == []
    select_watch.change(near.fileno(), WRITE)
    assert select_watch.wait(None) == [(near.fileno(), WRITE)]
    select_watch.remove(near.fileno())


def test_a_connect_that_fails_is_told(select_watch):
    """What is watched for WRITE and ERROR tells of it. SO_ERROR says what it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with socket.socket() as client:
        client.settimeout(0)
        client.connect_ex(address)
        select_watch.add(client.fileno(), WRITE | ERROR)
        ((descriptor, mask),) = select_watch.wait(20)
        assert descriptor == client.fileno()
        assert mask & WRITE
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        select_watch.remove(client.fileno())


@pytest.mark.skipif(
    sys.platform == "win32", reason="an urgent byte that is in its place is not exceptional there"
)
def test_an_urgent_byte_does_not_wake_whoever_waits_for_room(select_watch):
    """It would do so again and again. It is told only if ERROR is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as far:
        near, _ = server.accept()
        with near:
            near.settimeout(0)
            fill(near)
            select_watch.add(near.fileno(), ERROR)
            far.send(b"!", socket.MSG_OOB)
            assert select_watch.wait(20) == [(near.fileno(), WRITE | ERROR)]
            select_watch.change(near.fileno(), WRITE)
            assert select_watch.wait(0) == []


def test_more_sockets_than_select_takes_are_refused_at_once(select_watch, monkeypatch):
    """The wait goes on with those that it has. Whoever leaves makes room."""
    monkeypatch.setattr(poller_select, "_SET_SIZE", 4)
    pairs = [socket.socketpair() for _ in range(3)]
    ends = [end for pair in pairs for end in pair]
    try:
        for end in ends[:4]:
            select_watch.add(end.fileno(), WRITE)
        for mask in (WRITE, WRITE | EDGE):
            with pytest.raises(OSError, match=r"select\(\) takes 4 descriptors at most") as refused:
                select_watch.add(ends[4].fileno(), mask)
            assert refused.value.errno == errno.EMFILE
        assert len(select_watch.wait(None)) == 4
        select_watch.add(ends[3].fileno(), WRITE)
        select_watch.remove(ends[0].fileno())
        select_watch.add(ends[4].fileno(), WRITE)
        assert {descriptor for descriptor, _ in select_watch.wait(None)} == {end.fileno() for end in ends[1:5]}
    finally:
        for end in ends:
            end.close()


def test_a_worker_has_no_more_sessions_than_its_poller_takes():
    """Each has two sockets, and the worker watches a few others. POSIX counts descriptors instead."""
    most = limits.SESSIONS_PER_WORKER
    assert (most is None) == (sys.platform != "win32")
    assert 2 * (most or 0) + 2 <= poller.Poller.EVENTS_AT_ONCE


def test_as_many_sockets_as_select_takes(select_watch, request):
    """No fewer, and no more. On POSIX the number of a descriptor counts, too."""
    ends = []
    taken = refused = 0
    if sys.platform != "win32":
        assert request.getfixturevalue("many_files") > 2 * poller_select.Poller.EVENTS_AT_ONCE
    try:
        while not refused:
            ends += socket.socketpair()
            for end in ends[-2:]:
                try:
                    select_watch.add(end.fileno(), WRITE)
                    taken += 1
                except OSError as failure:
                    refused = failure.errno
        assert refused == errno.EMFILE
        assert taken == len(select_watch.wait(None)) <= poller_select.Poller.EVENTS_AT_ONCE
        assert taken > poller_select.Poller.EVENTS_AT_ONCE * 3 / 4, "other descriptors of this process count, too"
    finally:
        for end in ends:
            end.close()
