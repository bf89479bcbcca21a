"""The delay before a worker is started again."""

from mprelay.core.restarts import TRIES, Restarts


def test_a_worker_that_cannot_be_started_waits_longer_each_time():
    """The wait grows up to a minute. A successful start resets it."""
    restarts = Restarts(2)
    pauses = [restarts.failed(1) for _ in range(12)]
    assert pauses[:4] == [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8)]
    assert pauses[-1] == (12, 60.0)
    restarts.ready(1)
    assert restarts.failed(1) == (1, 0.1)


def test_a_worker_that_lived_is_replaced_at_once():
    """A worker that dies again and again is not."""
    restarts = Restarts(2)
    assert [restarts.died(1, 1.0) for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert restarts.died(2, 0.0) == 1.0
    assert restarts.died(1, 5.0) == 0.0
    assert restarts.died(1, 4.9) == 1.0


def test_it_is_hopeless_when_each_worker_was_tried_in_vain():
    """This needs a number of tries for each."""
    restarts = Restarts(2)
    for _ in range(TRIES):
        assert not restarts.hopeless()
        restarts.failed(1)
    for _ in range(TRIES):
        assert not restarts.hopeless()
        restarts.failed(2)
    assert restarts.hopeless()
    assert restarts.waiting(running={2}) == [1]
    restarts.ready(2)
    assert not restarts.hopeless()
