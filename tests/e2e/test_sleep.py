"""The machine sleeps: the absolute timeout goes on meanwhile, and is heard at once afterwards."""

import contextlib
import signal

import pytest
from support.judge import moment
from support.peers import accept, echo, ends_with_reset, listening
from support.relay import Relay, with_site

HOUR = 3600

SLEPT = """
import os, time
def jumping(real, clock):
    def read(*which):
        return real(*which) + (%d if which == clock and os.path.exists(%r) else 0)
    return read
time.clock_gettime = jumping(time.clock_gettime, (time.CLOCK_BOOTTIME,))
time.time = jumping(time.time, ())
"""
"""Python code: from when a file exists on, the machine has slept. CLOCK_MONOTONIC does not know it."""

MOSTLY_ASLEEP = """
import time
real = time.monotonic
time.monotonic = lambda: real() / 1000
"""
"""Python code: CLOCK_MONOTONIC nearly stands still, so what depends on it would take a thousand times as long."""

WITHOUT_TIMER = """
import os, sys
sys.modules["_ctypes"] = None
vars(os).pop("timerfd_create", None)
"""


def test_the_machine_was_asleep_when_it_was_due(tmp_path):
    """The door is shut, and the session over, as soon as anything wakes the relay."""
    slept = tmp_path / "slept"
    options = ("--absolute-timeout", str(HOUR // 2))
    env = with_site(tmp_path, SLEPT % (HOUR, str(slept)))
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            slept.touch()
            with relay.connect() as late:
                assert ends_with_reset(late)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        expires = moment(relay.wait("relay.active")["expires_at"])
        assert 0 <= moment(relay.wait("relay.expired")["timestamp"]) - expires < 1
        assert relay.records[-1]["reason"] == "expired"
        assert relay.records[-1]["closed"] == {"relay_expired": 1}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_timer_wakes_it(tmp_path, stopped):
    """The supervisor, and the workers too, which need no supervisor for it."""
    options = ("--absolute-timeout", "3")
    env = with_site(tmp_path, MOSTLY_ASLEEP)
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            if stopped:
                relay.process.send_signal(signal.SIGSTOP)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.process.send_signal(signal.SIGCONT)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "expired"
        assert relay.records[-1]["closed"] == {"relay_expired": 1}


@pytest.mark.parametrize("stopped", [False, True])
def test_without_such_a_timer(tmp_path, stopped):
    """A machine that does not sleep needs none."""
    options = ("--absolute-timeout", "3")
    env = with_site(tmp_path, WITHOUT_TIMER)
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            if stopped:
                relay.process.send_signal(signal.SIGSTOP)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.process.send_signal(signal.SIGCONT)
        assert relay.finish() == 0
        assert relay.records[-1]["closed"] == {"relay_expired": 1}


def test_no_expiry_is_stamped_before_its_time():
    """Two clocks are read, one after the other, and in the right order."""
    with contextlib.ExitStack() as stack:
        relays = [
            stack.enter_context(Relay(("127.0.0.1", 9), "--absolute-timeout", "3", workers=1)) for _ in range(10)
        ]
        for relay in relays:
            assert relay.finish() == 0
            expires = moment(relay.wait("relay.active")["expires_at"])
            assert 0 <= moment(relay.wait("relay.expired")["timestamp"]) - expires < 1
