"""A helper process, seen from the supervisor."""

import time

import pytest
from support import deaf
from support.waiting import PATIENCE

from mprelay.supervisor.helper import Helper
from mprelay.supervisor.loop import Loop
from mprelay.system import oneway

pytestmark = pytest.mark.posix("signals as a descriptor")


@pytest.fixture
def loop():
    """An open loop."""
    made = Loop(time.monotonic())
    made.open(lambda: None)
    yield made
    made.close()


def turn_until(loop, condition):
    """Let the loop work until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        loop.turn(0.1)


def test_what_finds_no_room_is_dropped_and_nobody_waits(loop):
    """One message at most waits for a process that does not read. The end of that process is noticed."""
    heard, ended = [], []
    helper = Helper(
        loop,
        deaf.main,
        "mprelay: deaf",
        b"question\n",
        on_part=heard.append,
        on_end=lambda how, good: ended.append((how, good)),
        stays_open=True,
    )
    turn_until(loop, lambda: heard == [b"here\n"])
    assert helper.say(b"x" * (oneway.HOLDS // 2))
    assert helper.say(b"x" * oneway.HOLDS)
    assert not helper.say(b"y")
    loop.turn(0)
    assert not helper.say(b"y")
    helper.kill("is deaf")
    turn_until(loop, lambda: ended)
    assert ended == [("is deaf", False)]
    assert not helper.say(b"y")
