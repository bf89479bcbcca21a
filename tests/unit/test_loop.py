"""The supervisor's loop, with real pipes and real clocks."""

import os
import signal
from math import inf

import pytest

from mprelay.supervisor.loop import Loop
from mprelay.system.poller import READ, WRITE

pytestmark = pytest.mark.posix("pipes and signals as descriptors")


@pytest.fixture
def loop():
    """An open loop."""
    made = Loop(0.0)
    made.open(lambda: None)
    yield made
    made.close()


@pytest.fixture
def pipe():
    """A pipe: its read end, its write end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def turn(loop, timeout=0.0):
    """Wait for `timeout` at most, and make the due calls."""
    loop.turn(timeout)


def test_a_ready_descriptor_is_called_until_it_is_unwatched(loop, pipe):
    """This holds for reading and for writing."""
    way_out, way_in = pipe
    calls = []
    loop.watch(way_out, lambda: calls.append("read"))
    turn(loop)
    assert calls == []
    loop.watch(way_in, lambda: calls.append("write"), WRITE)
    turn(loop)
    assert calls == ["write"]
    loop.change(way_in, 0)
    os.write(way_in, b"x")
    turn(loop)
    assert calls == ["write", "read"]
    loop.unwatch(way_out)
    loop.unwatch(way_out)
    turn(loop)
    assert calls == ["write", "read"]
    loop.watch(way_out, loop.take_signals, READ)
    loop.unwatch(way_out)
    loop.unwatch(way_in)


def test_an_earlier_call_can_end_a_later_watch(loop, pipe):
    """The later call is then not made, although both descriptors were ready."""
    way_out, way_in = pipe
    os.write(way_in, b"x")
    calls = []

    def only_one(name):
        calls.append(name)
        loop.unwatch(way_out)
        loop.unwatch(way_in)

    loop.watch(way_out, lambda: only_one("read"))
    loop.watch(way_in, lambda: only_one("write"), WRITE)
    turn(loop)
    assert len(calls) == 1


def test_alarms_ring_once_unless_moved_or_cancelled(loop):
    """Each alarm rings at its moment, and a cancelled one never."""
    calls = []
    loop.turn(0)
    loop.after(0, lambda: calls.append("now"))
    never = loop.after(0, lambda: calls.append("never"))
    never.cancel()
    late = loop.after(3600, lambda: calls.append("late"))
    unset = loop.unset_alarm(lambda: calls.append("set"))
    assert [never.pending, unset.pending] == [False, False]
    assert late.pending
    turn(loop)
    turn(loop)
    assert calls == ["now"]
    late.move(loop.now)
    unset.move(loop.now)
    turn(loop)
    assert calls == ["now", "late", "set"]
    assert not late.pending
    loop.at(loop.now, lambda: calls.append("never"))
    loop.cancel_alarms()
    turn(loop)
    assert calls == ["now", "late", "set"]


def test_an_alarm_can_stop_another_that_is_due_too(loop):
    """It may cancel the other alarm, or put it off."""
    calls = []
    loop.turn(0)
    loop.after(0, lambda: (cancelled.cancel(), moved.move(loop.now + 3600)))
    cancelled = loop.after(0, lambda: calls.append("cancelled"))
    moved = loop.after(0, lambda: calls.append("moved"))
    turn(loop)
    assert calls == []
    assert moved.pending


def test_an_alarm_ends_the_wait(loop):
    """It does so no earlier than its moment."""
    loop.turn(0)
    alarm = loop.after(0.02, lambda: None)
    loop.turn(inf)
    assert loop.now >= alarm.when


def test_signals_are_delivered():
    """The loop calls the function that it was opened with."""
    heard = []
    loop = Loop(0.0)
    loop.open(lambda: heard.extend(loop.take_signals()))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        turn(loop, 5.0)
        assert heard == [signal.SIGTERM]
    finally:
        loop.close()
