"""The pace of checkpoints: soon after a record, and never without one."""

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

import json

from support.samples import usual

from mprelay.records import catalogue
from mprelay.records.render import RENDERERS
from mprelay.records.sealed import SealedRecorder
from mprelay.seal import keys
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.sealing import INTERVAL, Sealing


class Relay:
    """What there is of a relay in this test, and a clock that the test sets."""

    def __init__(self):
        self.lines = []
        self.loop = Loop(0.0)
        self.recorder = SealedRecorder(
            RENDERERS["json"], self.lines.extend, new_key=keys.new, owner=None, note_sink=None
        )
        self.sealing = Sealing(self.loop, self.recorder)

    def turn(self, now):
        """Take a turn of the loop; return the events that are recorded in it."""
        self.loop.now = now
        self.loop._ring()
        self.sealing.look()
        self.recorder.flush()
        told = [json.loads(line)["event"] for line in self.lines]
        self.lines.clear()
        return told

    def write(self):
        """Write a record."""
        self.recorder.write(catalogue.RELAY_STATS, **usual(catalogue.RELAY_STATS))

    @property
    def wakes_at(self):
        """When the loop wakes up by itself; None: never."""
        return min([alarm.when for alarm in self.loop._alarms if alarm.pending], default=None)


def test_a_record_is_covered_ten_seconds_later():
    relay = Relay()
    assert relay.turn(1.0) == ["log.key"]
    relay.write()
    assert relay.turn(5.0) == ["relay.stats"]
    assert relay.wakes_at == 1.0 + INTERVAL
    assert relay.turn(1.0 + INTERVAL) == ["log.checkpoint"]


def test_a_relay_that_writes_nothing_is_not_woken():
    relay = Relay()
    relay.turn(0.0)
    relay.turn(INTERVAL)
    assert relay.wakes_at is None
    assert relay.turn(5 * INTERVAL) == []
    relay.write()
    assert relay.turn(6 * INTERVAL) == ["relay.stats"]
    assert relay.wakes_at == 7 * INTERVAL


def test_a_drain_and_the_end_do_not_wait():
    """At the end the last record is a checkpoint, even if the key has been used up by it."""
    relay = Relay()
    relay.turn(0.0)
    relay.write()
    relay.sealing.cover()
    relay.sealing.cover()
    assert relay.turn(1.0) == ["relay.stats", "log.checkpoint"]
    relay.write()
    relay.sealing.finish()
    assert relay.turn(2.0) == ["relay.stats", "log.checkpoint"]
