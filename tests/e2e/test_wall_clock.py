"""The wall clock jumps (for the program alone): timestamps jump with it, and no deadline does."""

import os
import subprocess
import time

import pytest
from support.judge import moment
from support.peers import accept, echo, ends_with_reset, listening, silent
from support.relay import Relay

DAY = 86_400


class WallClock:
    """What the program, started in the environment `env`, takes for the wall clock."""

    def __init__(self, faketime, directory):
        shown = subprocess.run(
            [faketime, "-f", "+0", "sh", "-c", 'echo "$LD_PRELOAD"'], capture_output=True, text=True, check=True
        )
        self._file = directory / "offset"
        self.jump(0)
        self.env = os.environ | {
            "LD_PRELOAD": shown.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }

    def jump(self, seconds):
        """Be so far from the machine's clock."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+}")
        new.replace(self._file)


@pytest.fixture
def wall_clock(tool, tmp_path):
    """A clock that the test sets."""
    return WallClock(tool("faketime"), tmp_path)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_idle_and_absolute_timeout_do_not_follow_a_jump(wall_clock, jump):
    """They come when they are due, neither at once nor a day later."""
    options = ("--idle-timeout", "1", "--absolute-timeout", "4", "--stats-interval", "0.5")
    with listening() as server, Relay(server.getsockname(), *options, env=wall_clock.env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            wall_clock.jump(jump)
            echo(client, target)
            closed = relay.wait("session.closed")
        assert closed["reason"] == "idle_timeout"
        assert 1000 <= closed["duration_ms"] < 3000
        assert relay.finish() == 0
        stopped = relay.records[-1]
        assert (stopped["reason"], stopped["closed"]) == ("expired", {"idle_timeout": 1})
        assert 4 <= stopped["uptime_s"] < 5
        before = moment(relay.wait("session.allocated")["timestamp"])
        for record in (closed, relay.wait("relay.expired"), stopped):
            assert abs(moment(record["timestamp"]) - before - jump) < 10
        assert len(relay.all("relay.stats")) >= 6


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_the_connect_timeout_does_not_follow_a_jump(wall_clock, jump):
    """Nor does what a session took."""
    with (
        silent() as (server, _filler),
        Relay(server.getsockname(), "--connect-timeout", "1", env=wall_clock.env) as relay,
    ):
        with relay.connect() as client:
            relay.wait("session.allocated")
            wall_clock.jump(jump)
            assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert closed["reason"] == "connect_timeout"
        assert 1000 <= closed["duration_ms"] < 2000


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_drain_does_not_follow_a_jump(wall_clock, jump):
    """It has its own time, whatever the wall says."""
    options = ("--drain-timeout", "1")
    with listening() as server, Relay(server.getsockname(), *options, env=wall_clock.env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            began = time.monotonic()
            relay.process.terminate()
            relay.wait("relay.draining")
            wall_clock.jump(jump)
            echo(client, target)
            assert ends_with_reset(client)
        assert relay.finish() == 0
        assert 1 <= time.monotonic() - began < 3
        assert relay.wait("session.closed")["reason"] == "drained"
