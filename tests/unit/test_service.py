"""What the service manager is told, and when."""

import socket
from contextlib import closing

import pytest
from support.manager import managing
from support.peers import fill

from mprelay.core.ledger import Ledger
from mprelay.core.phases import Happening, RunState
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.service import Service
from mprelay.system.notify import Notifier

pytestmark = pytest.mark.posix("a service manager that is told by datagrams")


class Told:
    """What there is of a relay in this test, with a clock that the test sets."""

    def __init__(self, manager, **variables):
        self._manager = manager
        self.address = manager.address
        self.notifier = Notifier({"NOTIFY_SOCKET": manager.address} | variables)
        self.loop = Loop(0.0)
        self.state = RunState()
        self.ledger = Ledger(9)
        self.reads = False
        self.service = Service(
            self.notifier,
            self.loop,
            self.state,
            self.ledger,
            drain_timeout=20.0,
            reloading=lambda: self.reads,
        )

    def turn(self, now=0.0):
        """Take a turn; return what is said in it."""
        self.loop.now = now
        self.loop._ring()
        self.service.look()
        return self._manager.rest()

    @property
    def wakes_at(self):
        """When the loop wakes up by itself; None: never."""
        return min([alarm.when for alarm in self.loop._alarms], default=None)


@pytest.fixture
def told(tmp_path):
    with managing(tmp_path) as manager:
        made = Told(manager)
        with closing(made.notifier):
            yield made


def test_a_run_from_its_start_to_its_end(told):
    """Each phase is told once. A drain may take its time, and the end of all is not watched."""
    assert told.turn() == [["STATUS=starting"]]
    told.state.advance(Happening.ALL_READY)
    assert told.turn() == [["READY=1", "STATUS=0 of 9 sessions"]]
    told.ledger.admit("192.0.2.1", 1, 0.0)
    told.state.advance(Happening.SIGNAL)
    assert told.turn(1.0) == [["STOPPING=1", "EXTEND_TIMEOUT_USEC=25000000", "STATUS=draining, 1 sessions left"]]
    told.state.advance(Happening.DRAIN_TIMEOUT)
    assert told.turn(1.0) == [["STOPPING=1", "WATCHDOG_USEC=0", "STATUS=ending"]]
    told.state.advance(Happening.NO_WORKER_LEFT)
    told.service.end()
    assert told.turn(2.0) == []
    assert told.wakes_at is None


def test_the_end_is_told_even_if_no_turn_follows(told):
    told.turn()
    told.state.advance(Happening.CRASHED)
    told.service.end()
    assert told._manager.rest() == [["STOPPING=1", "WATCHDOG_USEC=0", "STATUS=ending"]]


def test_what_finds_no_room_is_told_again(told):
    """In the order in which it happened: a manager that misses READY ends the relay. The end is tried twice."""
    told.turn()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(told.address)
        fill(other.fileno())
        told.state.advance(Happening.ALL_READY)
        told.service.look()
        told.reads = True
        told.service.reload()
        told.reads = False
        told.service.look()
        assert told.wakes_at == pytest.approx(0.2)
        assert not any("READY=1" in message for message in told.turn(0.1))
        assert [message[0] for message in told.turn(0.2)] == ["READY=1", "RELOADING=1", "READY=1"]
        assert told.wakes_at is None
        told.state.advance(Happening.EXPIRED)
        fill(other.fileno())
        told.service.look()
        assert told._manager.rest()
        told.service.end()
    assert told._manager.rest() == [["STOPPING=1", "WATCHDOG_USEC=0", "STATUS=ending"]]


def test_the_number_of_sessions_is_told_at_most_every_five_seconds(told):
    """And only while it changes: nothing wakes an idle relay up."""
    told.state.advance(Happening.ALL_READY)
    told.turn(100.0)
    assert told.wakes_at is None
    told.ledger.admit("192.0.2.1", 1, 0.0)
    assert told.turn(101.0) == []
    told.ledger.admit("192.0.2.1", 1, 0.0)
    assert told.turn(102.0) == []
    assert told.wakes_at == 105.0
    assert told.turn(105.0) == [["STATUS=2 of 9 sessions"]]
    assert told.turn(200.0) == []
    assert told.wakes_at is None
    told.ledger.close(1, "drained")
    assert told.turn(300.0) == []
    assert told.turn(300.0) == [["STATUS=1 of 9 sessions"]]


@pytest.mark.parametrize("turns", [0, 3])
def test_a_reload_begins_and_ends(told, turns):
    """Whatever came of it. It may end in the turn in which it began: no process could be started."""
    told.state.advance(Happening.ALL_READY)
    told.turn()
    told.reads = turns > 0
    told.service.reload()
    ((begins, moment),) = told._manager.rest()
    assert begins == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=")
    for _ in range(turns):
        assert told.turn() == []
    told.reads = False
    assert told.turn() == [["READY=1"]]
    assert told.turn() == []


def test_a_relay_that_drains_is_not_ready_again(told):
    """Whether the reload began before or after the stop."""
    told.state.advance(Happening.ALL_READY)
    told.turn()
    told.reads = True
    told.service.reload()
    told._manager.rest()
    told.ledger.admit("192.0.2.1", 1, 0.0)
    told.state.advance(Happening.SIGNAL)
    told.turn()
    told.reads = False
    assert told.turn() == []
    told.service.reload()
    assert told.turn() == []


def test_the_watchdog_hears_twice_as_often_as_it_must(tmp_path):
    """It hears from the first turn on."""
    with managing(tmp_path) as manager:
        told = Told(manager, WATCHDOG_USEC="3000000")
        with closing(told.notifier):
            assert told.turn(0.0) == [["WATCHDOG=1"], ["STATUS=starting"]]
            assert told.wakes_at == 1.5
            assert told.turn(1.4) == []
            assert told.turn(1.5) == [["WATCHDOG=1"]]
            assert told.turn(4.0) == [["WATCHDOG=1"]]
            assert told.wakes_at == 5.5
