"""The timeouts of a session, whatever the wall clock does, and the absolute timeout of a machine that sleeps."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from datetime import UTC, datetime

import pytest
from support.judge import moment
from support.params import slow
from support.patches import with_site
from support.peers import accept, both_end, echo, ends_with_reset, listening, receive, reset_arrives, silent
from support.relay import Relay
from support.waiting import pass_time

MIB = 1 << 20

DAY = 86_400

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
"""Python code: once a file exists, the machine has slept. CLOCK_MONOTONIC does not count the sleep."""

MOSTLY_ASLEEP = """
import time
real = time.monotonic
time.monotonic = lambda: real() / 1000
"""
"""Python code: CLOCK_MONOTONIC nearly stands still, so timeouts based on it take a thousand times as long."""

WITHOUT_TIMER = """
import os, sys
sys.modules["_ctypes"] = None
vars(os).pop("timerfd_create", None)
"""


# -- connect -------------------------------------------------------------------------------------------------


def test_connect_timeout():
    """The target does not answer: 25, and a reset for the client."""
    with silent() as (server, _filler), Relay(server.getsockname(), "--connect-timeout", "1") as relay:
        with relay.connect() as client:
            client.sendall(b"anybody there?")
            assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert (closed["msg_id"], closed["reason"]) == (25, "connect_timeout")
        assert closed["message"] == (
            "Session handler serial number 1 connecting 127.0.0.1 to 127.0.0.1 has been terminated due to "
            "an expired target connection attempt."
        )
        assert closed["connect_ms"] is None
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)
        assert closed["duration_ms"] >= 1000
        assert relay.all("session.connected") == []


@pytest.mark.slow
def test_connect_timeout_does_not_hit_an_established_quiet_session():
    """Twice the connect timeout passes without a byte. Both directions still work afterwards."""
    options = ("--connect-timeout", "1", "--stats-interval", "0.5")
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            so_far = len(relay.all("relay.stats"))
            relay.wait("relay.stats", so_far + 5)
            assert relay.all("session.closed") == []
            client.sendall(b"still there?")
            assert receive(target, 12) == b"still there?"
            target.sendall(b"yes")
            assert receive(client, 3) == b"yes"
            both_end(client, target)
        assert relay.wait("session.closed")["duration_ms"] > 2000


# -- idle ----------------------------------------------------------------------------------------------------


def test_idle_timeout_without_data():
    """Record 24, and a reset for both peers."""
    with listening() as server, Relay(server.getsockname(), "--idle-timeout", "1") as relay:
        with relay.connect() as client, accept(server) as target:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        closed = relay.wait("session.closed")
        assert (closed["msg_id"], closed["reason"], closed["error"]) == (24, "idle_timeout", None)
        assert closed["message"] == (
            "Session handler serial number 1 connecting 127.0.0.1 to 127.0.0.1 exceeded the idle timeout "
            "and has been terminated."
        )
        assert (closed["bytes_from_client"], closed["bytes_from_target"]) == (0, 0)
        assert closed["duration_ms"] >= 1000


def test_idle_timeout_of_a_half_closed_session():
    """A target that never ends its direction does not keep the session for ever."""
    with listening() as server, Relay(server.getsockname(), "--idle-timeout", "2") as relay:
        with relay.connect() as client, accept(server) as target:
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
            assert ends_with_reset(client)
            assert reset_arrives(target)
        assert relay.wait("session.closed")["reason"] == "idle_timeout"


@contextlib.contextmanager
def flooding(sock: socket.socket):
    """Send to `sock` without end, until it breaks."""

    def flood() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(bytes(MIB))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("who", "buffer"),
    [
        pytest.param(
            "client", "100", marks=pytest.mark.posix("the speed at which 100 bytes each fill a connection")
        ),
        ("client", "4000"),
        ("target", "auto"),
    ],
)
def test_idle_timeout_with_data_stuck_behind_a_peer_that_does_not_read(who, buffer):
    """Waiting bytes are not activity, so both the sender and the peer that does not read are reset."""
    options = ("--idle-timeout", "1", "--buffer", buffer)
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            sender, sleeper = (client, target) if who == "client" else (target, client)
            with flooding(sender):
                closed = relay.wait("session.closed")
                assert reset_arrives(sleeper)
        assert closed["reason"] == "idle_timeout"
        assert closed[f"bytes_from_{who}"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("who", ["client", "target"])
def test_activity_in_one_direction_keeps_a_session_alive(who):
    """A byte arrives now and then, for longer than the idle timeout. When that stops, the session ends."""
    options = ("--idle-timeout", "2", "--stats-interval", "0.25")
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            sender, other = (client, target) if who == "client" else (target, client)
            start = len(relay.all("relay.stats"))
            for tick in range(1, 13):
                relay.wait("relay.stats", start + tick)
                sender.sendall(b".")
                assert receive(other, 1) == b"."
            assert ends_with_reset(other)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed[f"bytes_from_{who}"]) == ("idle_timeout", 12)
        assert closed["duration_ms"] >= 4000


# -- a moment of the wall clock ------------------------------------------------------------------------------


def in_rfc_3339(at):
    """Show Unix time as people write it."""
    return datetime.fromtimestamp(at, UTC).isoformat()


@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_the_relay_expires_at_a_moment_of_the_wall_clock():
    expires = time.time() + 5
    with listening() as server, Relay(server.getsockname(), "--expires-at", in_rfc_3339(expires)) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            assert abs(moment(relay.wait("relay.active")["expires_at"]) - expires) < 0.001
            assert ends_with_reset(client)
            assert 0 <= time.time() - expires < 1
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert 0 <= moment(relay.wait("relay.expired")["timestamp"]) - expires < 1
        stopped = relay.records[-1]
        assert (stopped["reason"], stopped["closed"]) == ("expired", {"relay_expired": 1})


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00Z", "2026-11-01T12:00:00+01:00"])
def test_a_moment_that_has_passed_opens_no_door(text):
    began = time.time()
    with Relay(("127.0.0.1", 9), "--expires-at", text, wait_active=False) as relay:
        assert relay.finish() == 0
    assert [record["event"] for record in relay.records] == ["relay.expired", "relay.stopped"]
    assert relay.records[-1]["reason"] == "expired"
    assert moment(relay.records[0]["timestamp"]) > began - 1


# -- the wall clock jumps, for the program alone -------------------------------------------------------------


class WallClock:
    """The wall clock of a program that was started in the environment `env`."""

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
        """Set the clock's distance from the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+}")
        new.replace(self._file)


@pytest.fixture
def wall_clock(tool, tmp_path):
    """A wall clock that the test sets."""
    return WallClock(tool("faketime"), tmp_path)


@pytest.mark.posix("LD_PRELOAD")
@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
@pytest.mark.parametrize("jump", [DAY, *slow(-DAY)])
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


@pytest.mark.posix("LD_PRELOAD")
@pytest.mark.wall_clock(
    "the one second that docs/contract.md allows for an expiry, two turns and the idle timeout"
)
def test_an_expiry_by_the_wall_clock_follows_its_jumps_and_comes_once(wall_clock):
    """It comes neither before its time nor twice, and nothing else follows the clock."""
    options = ("--expires-at", in_rfc_3339(time.time() + HOUR), "--stats-interval", "0.1", "--idle-timeout", "2")
    with listening() as server, Relay(server.getsockname(), *options, env=wall_clock.env) as relay:
        with relay.connect() as idle, accept(server) as far:
            echo(idle, far)
            wall_clock.jump(-DAY)
            relay.ticks(3)
            wall_clock.jump(HOUR / 2)
            assert ends_with_reset(idle)
        closed = relay.wait("session.closed")
        assert (closed["reason"], relay.all("relay.expired")) == ("idle_timeout", [])
        assert 2000 <= closed["duration_ms"] < 4000
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            wall_clock.jump(DAY)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert len(relay.all("relay.expired")) == 1
        stopped = relay.records[-1]
        assert (stopped["reason"], stopped["closed"]) == ("expired", {"idle_timeout": 1, "relay_expired": 1})


@pytest.mark.posix("LD_PRELOAD")
@pytest.mark.wall_clock("the connect timeout, and a second")
@pytest.mark.parametrize("jump", [DAY, *slow(-DAY)])
def test_the_connect_timeout_does_not_follow_a_jump(wall_clock, jump):
    """The recorded duration of a session does not follow it either."""
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


@pytest.mark.posix("LD_PRELOAD")
@pytest.mark.wall_clock("the drain timeout, and two seconds")
@pytest.mark.parametrize("jump", [DAY, *slow(-DAY)])
def test_a_drain_does_not_follow_a_jump(wall_clock, jump):
    """The drain timeout does not depend on the wall clock."""
    options = ("--drain-timeout", "1")
    with listening() as server, Relay(server.getsockname(), *options, env=wall_clock.env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            began = time.monotonic()
            relay.signal()
            relay.wait("relay.draining")
            wall_clock.jump(jump)
            echo(client, target)
            assert ends_with_reset(client)
        assert relay.finish() == 0
        assert 1 <= time.monotonic() - began < 3
        assert relay.wait("session.closed")["reason"] == "drained"


@pytest.mark.posix("SIGSTOP")
@pytest.mark.slow
@pytest.mark.wall_clock("the idle timeout, and not much more")
def test_what_came_while_a_worker_stood_still_came_in_time():
    """It is seen before the time is believed to be over (docker pause, SIGSTOP, a suspended machine)."""
    options = ("--idle-timeout", "2")
    with (
        listening() as server,
        Relay(server.getsockname(), *options, workers=1) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        relay.worker(1).suspend()
        pass_time(1)
        client.sendall(b"in time")
        pass_time(1.5)
        relay.worker(1).resume()
        assert receive(target, 7) == b"in time"
        echo(client, target)


# -- the machine sleeps --------------------------------------------------------------------------------------


@pytest.mark.posix("CLOCK_BOOTTIME")
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_an_expiry_that_was_due_while_the_machine_slept(tmp_path):
    """The listener is closed and the session ended as soon as anything wakes the relay."""
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


@pytest.mark.posix("CLOCK_BOOTTIME")
@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("clock", [MOSTLY_ASLEEP, WITHOUT_TIMER], ids=["timer", "no timer and no sleep"])
def test_each_process_keeps_the_expiry_by_itself(tmp_path, clock, stopped):
    """The workers need no supervisor for it. A machine that does not sleep needs no timer."""
    options = ("--absolute-timeout", "5")
    env = with_site(tmp_path, clock)
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            relay.wait("session.allocated")  # the supervisor has closed its copy of the client's socket
            if stopped:
                relay.suspend()
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.resume()
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "expired"
        assert relay.records[-1]["closed"] == {"relay_expired": 1}


@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_no_expiry_is_stamped_before_its_time():
    """Two clocks are read, one after the other and in the right order."""
    with contextlib.ExitStack() as stack:
        relays = [
            stack.enter_context(Relay(("127.0.0.1", 9), "--absolute-timeout", "3", workers=1)) for _ in range(10)
        ]
        for relay in relays:
            assert relay.finish() == 0
            expires = moment(relay.wait("relay.active")["expires_at"])
            assert 0 <= moment(relay.wait("relay.expired")["timestamp"]) - expires < 1
