"""Which sessions have moved bytes since that was last told of them."""

from mprelay.core.ledger import Ledger
from mprelay.core.moved import Moved


def sessions(count):
    """So many sessions."""
    ledger = Ledger(count)
    return [ledger.admit("192.0.2.1", port, 0.0) for port in range(count)]


def test_a_session_that_moved_is_told_once():
    """With the moment of its last move."""
    (session,) = sessions(1)
    moved = Moved()
    assert not moved
    moved.note(session, 1.0)
    moved.note(session, 2.0)
    assert moved
    assert not moved.due
    assert list(moved.take(9)) == []
    moved.begin()
    assert moved.due
    assert list(moved.take(9)) == [(session, 2.0)]
    assert not moved
    moved.begin()
    assert list(moved.take(9)) == []


def test_what_moves_while_others_are_told_waits_for_the_next_time():
    """Otherwise a session that always moves could be told of for ever. One that is due already stays due once."""
    first, second, third = sessions(3)
    moved = Moved()
    moved.note(first, 1.0)
    moved.note(second, 1.0)
    moved.begin()
    assert list(moved.take(1)) == [(first, 1.0)]
    moved.note(first, 2.0)
    moved.note(second, 3.0)
    moved.note(third, 4.0)
    assert list(moved.take(9)) == [(second, 3.0)]
    assert not moved.due
    assert moved
    moved.begin()
    assert list(moved.take(9)) == [(first, 2.0), (third, 4.0)]


def test_what_is_still_due_stays_due():
    """It comes first."""
    first, second = sessions(2)
    moved = Moved()
    moved.note(second, 1.0)
    moved.begin()
    moved.note(first, 2.0)
    moved.begin()
    assert list(moved.take(9)) == [(second, 1.0), (first, 2.0)]


def test_a_session_that_has_ended_is_forgotten():
    """Due or not, known or not."""
    first, second, third = sessions(3)
    moved = Moved()
    moved.note(first, 1.0)
    moved.begin()
    moved.note(second, 1.0)
    for session in (first, second, third):
        moved.forget(session)
    assert not moved
