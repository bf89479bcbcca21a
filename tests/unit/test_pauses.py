"""For how long admission has been paused, and by what."""

from mprelay.core.pauses import Pauses


def test_each_cause_has_its_seconds():
    """A cause that gives way to another ends there. The one that lasts counts so far."""
    pauses = Pauses()
    assert pauses.seconds(5.0) == {}
    pauses.note("log", 10.0)
    pauses.note("log", 11.0)
    pauses.note("operator", 12.0)
    pauses.note(None, 15.0)
    pauses.note(None, 20.0)
    assert pauses.seconds(30.0) == {"log": 2.0, "operator": 3.0}
    pauses.note("log", 40.0)
    assert pauses.seconds(41.0) == {"log": 3.0, "operator": 3.0}
    assert pauses.seconds(42.0) == {"log": 4.0, "operator": 3.0}
