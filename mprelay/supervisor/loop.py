"""The supervisor's event loop: descriptors, signals, alarms and the deadline.

Rules:

1. The loop waits in :meth:`Loop.turn` and nowhere else.
2. The clocks are read once for each wake-up.
3. No turn does anything for each session. There are a few alarms, and at most one for each worker.
"""

import os
import time
from collections.abc import Callable
from math import inf
from typing import Final

from mprelay.supervisor.checks import init_failed
from mprelay.system import poller, signals, spawning
from mprelay.system.boottime import Deadline
from mprelay.system.poller import READ

_STANDSTILL: Final = 1.0  # seconds of lateness that show that this process, or the whole machine, was stopped


class Alarm:
    """A call at a moment of the monotonic clock. It is made once, unless :meth:`move` sets it again."""

    __slots__ = ("_alarms", "call", "pending", "when")

    def __init__(self, alarms: "dict[Alarm, None]", when: float, call: Callable[[], None]) -> None:
        self._alarms = alarms
        self.when = when
        self.call = call
        self.pending = True
        """Whether the call is still to be made."""
        alarms[self] = None

    def move(self, when: float) -> None:
        """Make the call at `when` (monotonic, seconds) instead."""
        self.when = when
        self.pending = True
        self._alarms[self] = None

    def cancel(self) -> None:
        """Do not make the call."""
        self.pending = False
        self._alarms.pop(self, None)


class Loop:
    """Waits for descriptors, signals and moments. Nothing can be watched before :meth:`open`."""

    _poller: poller.Poller
    _signals: signals.Signals
    _deadline_alarm: Alarm

    def __init__(self, now: float) -> None:
        self.now = now
        """The monotonic clock at the last wake-up, seconds."""
        self.wall = time.time()
        """Unix time at the last wake-up, seconds."""
        self.late_at = -inf
        """When this loop last noticed that it had stood still (monotonic, seconds)."""
        self.is_open = False
        self._calls: dict[int, Callable[[], None]] = {}
        self._alarms: dict[Alarm, None] = {}
        self._deadline: Deadline | None = None
        self._deadline_call: Callable[[], None] | None = None

    def open(self, on_signal: Callable[[], None]) -> None:
        """Make the poller, and take stop signals from now on. Raises Failure."""
        try:
            step = "epoll"
            self._poller = poller.Poller()
            step = "signals"
            # PID 1 becomes the parent of every orphan in its namespace. Dead ones stay until it waits for them.
            self._signals = signals.Signals(spawning.reap if os.getpid() == 1 else None)
            step = "epoll"
            self.watch(self._signals.fileno(), on_signal)
            self._poller.wait(0)
            if os.getpid() == 1:
                spawning.reap()  # children that ended before SIGCHLD was handled
        except OSError as failure:
            raise init_failed(step, failure.errno, failure.strerror) from failure
        self.is_open = True

    def close(self) -> None:
        """Stop waiting. From now on signals have their default effect."""
        if self.is_open:
            self.is_open = False
            self._signals.close()
            self._poller.close()

    # -- what to wait for ------------------------------------------------------------------------------------

    def watch(self, descriptor: int, call: Callable[[], None], mask: int = READ) -> None:
        """Make this call whenever a descriptor is ready. Raises OSError if the kernel cannot watch it."""
        self._poller.add(descriptor, mask)
        self._calls[descriptor] = call

    def change(self, descriptor: int, mask: int) -> None:
        """Watch a descriptor that is watched already for READ, WRITE or both."""
        self._poller.change(descriptor, mask)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor, if it is watched."""
        if self._calls.pop(descriptor, None) is not None:
            self._poller.remove(descriptor)

    def at(self, when: float, call: Callable[[], None]) -> Alarm:
        """Make this call at `when` (monotonic, seconds)."""
        return Alarm(self._alarms, when, call)

    def unset_alarm(self, call: Callable[[], None]) -> Alarm:
        """Return an alarm for this call that is not set yet: :meth:`Alarm.move` sets it."""
        alarm = Alarm(self._alarms, inf, call)
        alarm.cancel()
        return alarm

    def after(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Make this call `seconds` after the last wake-up."""
        return Alarm(self._alarms, self.now + seconds, call)

    def cancel_alarms(self) -> None:
        """Cancel all alarms, but not the deadline."""
        for alarm in list(self._alarms):
            alarm.cancel()

    def at_deadline(self, deadline: Deadline, call: Callable[[], None]) -> None:
        """Make this call first in each turn from `deadline` on, even if the machine sleeps. Raises Failure.

        A deadline that was set before no longer counts, and is closed.
        """
        if self._deadline is not None:
            self._deadline_alarm.cancel()
            if self._deadline.fileno() >= 0:
                self._poller.remove(self._deadline.fileno())
            self._deadline.close()
        self._deadline = deadline
        self._deadline_call = call
        self._deadline_alarm = self.at(deadline.ask_at(), self._look_at_deadline)
        if deadline.fileno() >= 0:
            try:
                self._poller.add(deadline.fileno(), READ | poller.EDGE)  # to wake, nothing else
            except OSError as failure:
                raise init_failed("epoll", failure.errno, failure.strerror) from failure

    def _look_at_deadline(self) -> None:
        """Wake again if the deadline has not come yet, because the wall clock was set back. Else `turn` calls."""
        if self._deadline is not None and not self._deadline.reached():
            self._deadline_alarm.move(self._deadline.ask_at())

    def take_signals(self) -> list[int]:
        """Return the stop signals that came since the last call."""
        return self._signals.take()

    # -- a turn ----------------------------------------------------------------------------------------------

    def turn(self, timeout: float = inf) -> None:
        """Wait, for `timeout` seconds at most; make the calls that are due, then those of ready descriptors."""
        nearest = min([alarm.when for alarm in self._alarms], default=inf)
        before = time.monotonic()
        left = min(nearest - before, timeout)
        ready = self._poller.wait(None if left == inf else left)
        now = time.monotonic()
        late_since = now - _STANDSTILL
        if self.now < before - _STANDSTILL or (nearest < late_since and before < late_since):
            self.late_at = now
        self.now = now
        self.wall = time.time()
        if self._deadline_call is not None and self._deadline is not None and self._deadline.reached():
            self._deadline_call()
        if nearest <= now:
            self._ring()
        calls = self._calls
        for descriptor, _mask in ready:
            call = calls.get(descriptor)  # None: an earlier call has stopped watching it
            if call is not None:
                call()

    def _ring(self) -> None:
        """Make the calls of the alarms that are due."""
        now = self.now
        for alarm in [alarm for alarm in self._alarms if alarm.when <= now]:
            if alarm.pending and alarm.when <= now:  # another call may have cancelled or moved it
                alarm.cancel()
                alarm.call()
