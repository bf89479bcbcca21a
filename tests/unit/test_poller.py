"""The Poller of this platform, and that each variant offers the same."""

import os

import pytest

from mprelay.system import poller, poller_epoll, poller_none
from mprelay.system.waker import Waker


def test_the_variants_offer_the_same():
    """All that :mod:`mprelay.system.poller` passes on, and a Poller of the same methods."""
    for variant in (poller_epoll, poller_none):
        assert set(poller.__all__) <= set(vars(variant))
    public = {name for name in dir(poller_none.Poller) if not name.startswith("_")}
    made = poller_epoll.Poller()
    try:
        assert public <= set(dir(made))
    finally:
        made.close()


def test_where_there_is_none_it_is_named_and_not_made():
    """The relay refuses to start; nothing before that needs one."""
    assert poller.missing() is None
    assert poller_none.missing() == "epoll"
    with pytest.raises(NotImplementedError):
        poller_none.Poller()


def test_it_returns_at_most_so_many_events(monkeypatch):
    """What was left out is returned by the next call."""
    monkeypatch.setattr(poller.Poller, "EVENTS_AT_ONCE", 2)
    watch = poller.Poller()
    wakers = [Waker() for _ in range(3)]
    try:
        for waker in wakers:
            os.write(waker.writer, b"x")
            watch.add(waker.fileno(), poller.READ | poller.EDGE)
        assert [len(watch.wait(timeout)) for timeout in (0, None, 0)] == [2, 1, 0]
        assert watch.wait(-5.0) == []
    finally:
        watch.close()
        for waker in wakers:
            waker.close()


def test_a_timeout_may_be_longer_than_the_system_takes():
    """It is cut to a day; here something is ready before."""
    watch = poller.Poller()
    waker = Waker()
    try:
        watch.add(waker.fileno(), poller.READ)
        os.write(waker.writer, b"x")
        assert watch.wait(1e30) == [(waker.fileno(), poller.READ)]
        assert waker.clear() == b"x"
        assert waker.clear() == b""
        assert watch.wait(0.0) == []
    finally:
        watch.close()
        waker.close()
