"""Deadlines on the clock that goes on while the machine sleeps."""

import contextlib
import errno
import os
import select
import sys
import time

import pytest

from mprelay.system import boottime, poller
from mprelay.system.boottime import Deadline

with contextlib.suppress(ImportError):  # Windows has none
    import fcntl


@pytest.fixture
def deadline():
    """A deadline that is 50 ms ahead."""
    made = Deadline(boottime.now() + 0.05)
    yield made
    made.close()
    made.close()


@pytest.mark.posix("timerfd_create(2)")
def test_it_wakes_its_watchers(deadline):
    """It wakes them not before the deadline.

    An edge-triggered watch reports it once, and nothing need be read.
    """
    watch = poller.Poller()
    try:
        watch.add(deadline.fileno(), poller.READ | poller.EDGE)
        assert watch.wait(20) == [(deadline.fileno(), poller.READ)]
        assert deadline.reached()
        assert 0 <= deadline.late() < 10
        assert watch.wait(0) == []
    finally:
        watch.close()


@pytest.mark.posix("timerfd_create(2)")
def test_it_is_not_reached_before(deadline):
    """Its descriptor is not readable either."""
    far = Deadline(boottime.now() + 3600)
    try:
        assert not far.reached()
        assert -3600 <= far.late() < -3000
        assert select.select([deadline, far], [], [], 20)[0] == [deadline]
    finally:
        far.close()


@pytest.mark.posix("timerfd_create(2)")
def test_a_deadline_that_has_passed():
    """It is readable at once, even if it lies at the start of the machine."""
    past = Deadline(0.0)
    try:
        assert past.reached()
        assert select.select([past], [], [], 20)[0] == [past]
    finally:
        past.close()


def test_on_the_monotonic_clock_it_is_never_earlier():
    """Either clock may reach it first, and then it really is reached."""
    for _ in range(2000):
        at = boottime.now() + 5e-5
        deadline = Deadline(at)
        try:
            asked_at = deadline.ask_at()
            while time.monotonic() < asked_at:
                pass
            assert deadline.reached()
        finally:
            deadline.close()


@pytest.mark.posix("CLOCK_BOOTTIME")
def test_without_that_clock_the_monotonic_one_takes_its_place(monkeypatch):
    """A kernel or a sandbox may refuse the clock.

    It is usually read without a system call, so no call can be made to fail.
    """

    def refused(_clock):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    clock = sys.modules[boottime.now.__module__]
    assert clock._boot_clock() == time.CLOCK_BOOTTIME
    monkeypatch.setattr(time, "clock_gettime", refused)
    assert clock._boot_clock() is None
    monkeypatch.setattr(clock, "_CLOCK", None)
    assert abs(boottime.now() - time.monotonic()) < 10
    deadline = Deadline(boottime.now() + 3600)
    assert (deadline.fileno(), deadline.reached()) == (-1, False)
    deadline.close()


@pytest.mark.posix("timerfd_create(2)")
def test_it_is_neither_inherited_nor_blocking(deadline):
    assert not os.get_inheritable(deadline.fileno())
    assert fcntl.fcntl(deadline.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_deadline_by_the_wall_clock():
    """It has a timer of its own, which fires not before."""
    far, near = Deadline(time.time() + 3600, wall=True), Deadline(time.time() + 0.05, wall=True)
    try:
        assert not far.reached()
        assert -3600 <= far.late() < -3500
        if near.fileno() >= 0:
            assert 3500 < far.ask_at() - time.monotonic() <= 3601
            assert select.select([near, far], [], [], 20)[0] == [near]
        while time.monotonic() < near.ask_at() and not near.reached():
            pass
        assert near.reached()
        assert time.time() >= near.at
    finally:
        far.close()
        near.close()


@pytest.mark.posix("timerfd_create(2)")
def test_without_a_timer_the_wall_clock_is_looked_at_every_second(monkeypatch):
    """Nothing else tells that it was set."""
    monkeypatch.setattr(boottime, "timer", lambda _at, **_clock: -1)
    assert Deadline(time.time() + 3600, wall=True).ask_at() - time.monotonic() <= 1
    assert Deadline(boottime.now() + 3600).ask_at() - time.monotonic() > 3500


def test_it_is_reached_in_time():
    """This can always be asked, with a timer and without one."""
    ahead, past = Deadline(boottime.now() + 3600), Deadline(boottime.now() - 1)
    assert (ahead.reached(), past.reached()) == (False, True)
    assert -3600 <= ahead.late() < -3500
    assert 1 <= past.late() < 100
    ahead.close()
    past.close()
