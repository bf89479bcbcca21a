"""Deadlines: queues in their order, scheduled looks, and the conditions that delay a timeout."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mprelay.worker.deadlines import PROGRESS_INTERVAL, Deadlines

CONNECT, IDLE = 3.0, 10.0


class Timed:
    """A session, as its deadlines know it."""

    def __init__(self, admitted_at=0.0):
        self.admitted_at = self.active_at = admitted_at
        self.look = 0


@pytest.fixture
def deadlines():
    """Deadlines without any session."""
    return Deadlines(CONNECT, IDLE)


def test_without_sessions_nothing_is_due(deadlines):
    """Then the loop need not wake up."""
    deadlines.find_nearest()
    assert deadlines.look_at is None
    assert deadlines.expiry is None
    assert deadlines.connect_timed_out(1e9) is None
    assert deadlines.idle_timed_out(1e9) is None
    assert deadlines.look_due(1e9) is None


def test_a_session_connects_in_time_or_not(deadlines):
    """The time counts from its admission. The first late session is returned first."""
    first, second = Timed(1.0), Timed(2.0)
    deadlines.connect(first)
    deadlines.connect(second)
    assert deadlines.look_at == 1.0 + CONNECT
    assert deadlines.connect_timed_out(3.9) is None
    assert deadlines.connect_timed_out(4.0) is first
    deadlines.forget(first)
    assert deadlines.connect_timed_out(4.0) is None
    deadlines.find_nearest()
    assert deadlines.look_at == 2.0 + CONNECT


def test_the_session_that_was_quiet_longest_is_idle_first(deadlines):
    """Bytes move a session to the end of the queue."""
    sessions = [Timed(), Timed()]
    for at, session in enumerate(sessions):
        deadlines.connect(session)
        deadlines.connected(session, float(at))
    assert not deadlines.connecting
    sessions[0].active_at = 5.0
    deadlines.idle.move_to_end(sessions[0])
    assert deadlines.idle_timed_out(10.9) is None
    assert deadlines.idle_timed_out(11.0) is sessions[1]
    deadlines.forget(sessions[1])
    assert deadlines.idle_timed_out(14.9) is None
    assert deadlines.idle_timed_out(15.0) is sessions[0]
    deadlines.find_nearest()
    assert deadlines.look_at == 15.0


def test_each_look_is_returned_once_and_only_the_last_that_was_set(deadlines):
    """A new look replaces the earlier one. A look at a session that ended is not returned."""
    one, other = Timed(), Timed()
    deadlines.look_later(one, 2.0)
    deadlines.look_later(other, 1.0)
    deadlines.look_later(one, 3.0)
    assert deadlines.look_at == 1.0
    assert deadlines.look_due(0.9) is None
    assert deadlines.look_due(2.5) is other
    assert deadlines.look_due(2.5) is None
    deadlines.find_nearest()
    assert deadlines.look_at == 3.0
    deadlines.forget(one)
    assert deadlines.look_due(9.0) is None
    deadlines.find_nearest()
    assert deadlines.look_at is None


def test_the_expiry_can_be_changed(deadlines):
    """It may become earlier or later, or be cancelled."""
    deadlines.expire_at(5.0)
    deadlines.expire_at(4.0)
    assert deadlines.look_at == 4.0
    deadlines.expire_at(None)
    assert deadlines.look_at is None
    deadlines.expire_at(6.0)
    assert (deadlines.expiry, deadlines.look_at) == (6.0, 6.0)


def test_progress_is_due_within_an_interval_of_the_first_byte(deadlines):
    """Later bytes do not put it off."""
    deadlines.progress(1.0)
    deadlines.progress(1.5)
    assert deadlines.progress_at == deadlines.look_at == 1.0 + PROGRESS_INTERVAL
    deadlines.find_nearest()
    assert deadlines.look_at == 1.0 + PROGRESS_INTERVAL


def test_a_timeout_waits_until_every_event_was_handled(deadlines):
    """A full turn may have left some events unseen. After as many events as descriptors none is left."""
    assert deadlines.all_seen(9, 10, 25)
    assert [deadlines.all_seen(10, 10, 25) for _ in range(4)] == [False, False, True, False]
    assert deadlines.all_seen(0, 10, 25)
    assert not deadlines.all_seen(10, 10, 25)


class Anything(RuleBasedStateMachine):
    """Whatever sessions do, a worker never sleeps past a deadline."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.deadlines = Deadlines(CONNECT, IDLE)
        self.lingering = {}

    def _any(self, queue, number):
        sessions = [*queue]
        return sessions[number % len(sessions)] if sessions else None

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds):
        """Everything that is due is done, as in the loop."""
        self.now += seconds
        if self.deadlines.look_at is None or self.now < self.deadlines.look_at:
            return
        while (session := self.deadlines.connect_timed_out(self.now)) is not None:
            self.deadlines.forget(session)
        while (session := self.deadlines.look_due(self.now)) is not None:
            assert self.lingering.pop(session) <= self.now
        while (session := self.deadlines.idle_timed_out(self.now)) is not None:
            self.deadlines.forget(session)
            self.lingering.pop(session, None)
        self.deadlines.find_nearest()

    @rule()
    def a_session_begins(self):
        """Its connect timeout runs."""
        self.deadlines.connect(Timed(self.now))

    @rule(number=st.integers(0, 9))
    def one_connects(self, number):
        """Its idle timeout runs."""
        if session := self._any(self.deadlines.connecting, number):
            self.deadlines.connected(session, self.now)

    @rule(number=st.integers(0, 9))
    def one_moves_bytes(self, number):
        """The session is not idle."""
        if session := self._any(self.deadlines.idle, number):
            session.active_at = self.now
            self.deadlines.idle.move_to_end(session)

    @rule(number=st.integers(0, 9), seconds=st.floats(0, 4))
    def one_lingers(self, number, seconds):
        """The session is looked at later."""
        if session := self._any(self.deadlines.idle, number):
            self.lingering[session] = self.now + seconds
            self.deadlines.look_later(session, self.now + seconds)

    @rule(number=st.integers(0, 9))
    def one_ends(self, number):
        """The session is forgotten."""
        if session := self._any(self.deadlines.idle, number):
            self.deadlines.forget(session)
            self.lingering.pop(session, None)

    @invariant()
    def no_deadline_is_slept_through(self):
        """The next wake-up is not later than the nearest deadline."""
        due = [session.admitted_at + CONNECT for session in self.deadlines.connecting]
        due += [session.active_at + IDLE for session in self.deadlines.idle]
        due += self.lingering.values()
        assert not due or self.deadlines.look_at <= min(due)


TestAnything = Anything.TestCase


def test_the_session_timeout_counts_from_the_admission_whatever_moves():
    """The oldest session ends first. It may still be connecting."""
    deadlines = Deadlines(CONNECT, IDLE, 2.5)
    old, young = Timed(0.0), Timed(1.0)
    for session in (old, young):
        deadlines.connect(session)
    deadlines.connected(old, 0.5)
    deadlines.find_nearest()
    assert deadlines.look_at == 2.5
    assert deadlines.session_timed_out(2.4) is None
    assert deadlines.session_timed_out(2.5) is old
    deadlines.forget(old)
    deadlines.find_nearest()
    assert deadlines.look_at == min(3.5, 1.0 + CONNECT)
    assert deadlines.session_timed_out(3.4) is None
    assert deadlines.session_timed_out(9.0) is young
    deadlines.forget(young)
    assert deadlines.session_timed_out(9.0) is None
