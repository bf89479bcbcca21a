"""When the progress of sessions is recorded: not all in one turn, and not while many records wait."""

import pytest
from support.kept import Kept

from mprelay.core.phases import Happening, RunState
from mprelay.core.protocol import Progress
from mprelay.records.writer import HIGH, Writer
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.progress import SessionProgress

MANY = 250


class Relay:
    """What there is of a relay in this test, with 250 sessions, and a clock that the test sets."""

    def __init__(self, interval=10.0):
        self.kept = Kept(limit=MANY, every_message=False)
        self.kept.book.workers.open(1, MANY)
        self.loop = Loop(0.0)
        self.writer = Writer()
        self.state = RunState()
        self.state.advance(Happening.ALL_READY)
        self.progress = SessionProgress(interval, self.loop, self.state, writer=self.writer, book=self.kept.book)
        for _ in range(MANY):
            self.kept.book.workers.place(self.kept.admit(("192.0.2.7", 1), 1.0, 0.0), 0.0)

    def move(self, serials, count, now):
        """Have the worker report that these sessions have got so far."""
        for serial in serials:
            assert self.kept.book.progress(1, Progress(serial, count, 0, 0, count), now)
            self.progress.look()

    def turn(self, now):
        """Take a turn of the loop; return the serials that are recorded in it."""
        self.loop.now = now
        self.loop._ring()
        self.kept.recorder.flush()
        told = [record["session"] for record in self.kept.records()]
        self.kept.lines.clear()
        return told

    @property
    def wakes_at(self):
        """When the loop wakes up by itself; None: never."""
        return min([alarm.when for alarm in self.loop._alarms], default=None)


@pytest.fixture
def relay():
    return Relay()


def test_a_relay_in_which_nothing_moves_is_not_woken_up(relay):
    """Nor is one in which nothing moves any more, or in which a report tells nothing new."""
    assert relay.wakes_at is None
    relay.move([7], 5, 1.0)
    assert relay.wakes_at == 10.0
    assert relay.turn(10.0) == [7]
    relay.move([7], 5, 11.0)
    assert relay.wakes_at is None


def test_the_intervals_follow_one_another_whenever_something_moves(relay):
    """A session that moves all the time is told of once in each."""
    for seconds in range(95):
        assert relay.turn(seconds + 0.5) == ([1] if seconds and seconds % 10 == 0 else [])
        relay.move([1], seconds + 1, seconds + 0.5)


def test_many_sessions_take_several_turns(relay):
    """In between, others may move again. They are told of at the end of the next interval."""
    relay.move(range(1, MANY + 1), 1, 1.0)
    told = [relay.turn(10.0)]
    relay.move([1], 2, 10.0)
    while relay.wakes_at == 10.0:
        told.append(relay.turn(10.0))
    assert [len(part) for part in told] == [100, 100, 50]
    assert [serial for part in told for serial in part] == list(range(1, MANY + 1))
    assert relay.wakes_at == 20.0
    assert relay.turn(20.0) == [1]


def test_nothing_is_written_while_many_records_wait(relay):
    """Nothing is lost: the last counts are written when there is room, after a second at the latest."""
    relay.move([1, 2], 1, 1.0)
    relay.writer.backlog = HIGH // 2 + 1
    assert relay.turn(10.0) == []
    relay.move([1], 3, 10.5)
    assert relay.turn(11.0) == []
    assert relay.wakes_at == 12.0
    relay.writer.backlog = HIGH // 2
    assert relay.turn(12.0) == [1, 2]
    assert relay.wakes_at is None


def test_a_short_interval_looks_for_room_as_often():
    relay = Relay(0.25)
    relay.move([1], 1, 0.0)
    relay.writer.backlog = HIGH
    assert relay.turn(0.25) == []
    assert relay.wakes_at == 0.5


def test_a_session_that_has_ended_is_told_of_no_more(relay):
    """Not even if it was due already."""
    relay.move(range(1, MANY + 1), 1, 1.0)
    assert len(relay.turn(10.0)) == 100
    for session in relay.kept.book.ledger.all_active()[150:]:
        relay.kept.book.lost(session, 1.0, 10.0, "drained")
    relay.kept.recorder.flush()
    relay.kept.lines.clear()
    assert relay.turn(10.0) == list(range(101, 151))
    assert relay.wakes_at is None


def test_a_relay_that_ends_tells_of_no_progress(relay):
    """What is reported then belongs to the ends of the sessions."""
    relay.state.advance(Happening.EXPIRED)
    relay.move([1], 1, 1.0)
    assert relay.wakes_at is None


def test_the_figures_are_those_of_the_moment_of_writing(relay):
    """`idle_s` counts from the report that showed that bytes had moved."""
    relay.move([1], 1, 1.0)
    relay.move([1], 7, 2.5)
    relay.loop.now = 10.0
    relay.loop._ring()
    relay.kept.recorder.flush()
    (record,) = relay.kept.records()
    assert (record["bytes_from_client"], record["bytes_to_target"], record["idle_s"]) == (7, 7, 7.5)
    assert (record["bytes_from_target"], record["bytes_to_client"], record["worker"]) == (0, 0, 1)
