"""The Poller of this platform, and the common interface of all variants."""

import os

import pytest

from mprelay.system import poller, poller_epoll, poller_none
from mprelay.system.waker import Waker


def test_the_variants_have_the_same_interface():
    """They have every name that :mod:`mprelay.system.poller` passes on, and a Poller with the same methods."""
    for variant in (poller_epoll, poller_none):
        assert set(poller.__all__) <= set(vars(variant))
    public = {name for name in dir(poller_none.Poller) if not name.startswith("_")}
    made = poller_epoll.Poller()
    try:
        assert public <= set(dir(made))
    finally:
        made.close()


def test_a_platform_without_a_poller_is_named_and_not_used():
    """The relay refuses to start there, and nothing before that needs a Poller."""
    assert poller.missing() is None
    assert poller_none.missing() == "epoll"
    with pytest.raises(NotImplementedError):
        poller_none.Poller()


def test_the_number_of_events_is_bounded(monkeypatch):
    """The next call returns the events that were left out."""
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


def test_a_timeout_may_exceed_the_limit_of_the_system():
    """It is cut to a day. In this test something is ready before."""
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
