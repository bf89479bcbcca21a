"""Orders to workers whose channel is full."""

import time

from mprelay.core.protocol import AWAITED_FROM, Refuse
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.orders import Orders


class Worker:
    """A worker as orders know it."""

    def __init__(self, number):
        self.number = number
        self.error = None
        self.got = []

    def order(self, order):
        """Take an order, or have no room for it."""
        if self.error is not None:
            raise self.error
        self.got.append(order)


ONE, OTHER = Refuse(AWAITED_FROM), Refuse(AWAITED_FROM + 1)


def orders_to(members):
    loop = Loop(time.monotonic())
    return loop, Orders(loop, members)


def ring(loop):
    """Let the time for another try pass."""
    loop.now += 1.0
    loop._ring()


def test_an_order_waits_for_room_and_the_next_ones_behind_it():
    worker = Worker(1)
    loop, orders = orders_to({1: worker})
    worker.error = BlockingIOError(11, "full")
    orders.give(1, ONE)
    ring(loop)
    orders.give(1, OTHER)
    worker.error = None
    ring(loop)
    assert worker.got == [ONE, OTHER]
    ring(loop)
    assert worker.got == [ONE, OTHER]


def test_a_replacement_gets_no_order_that_was_meant_for_another():
    """It knows nothing of what it is about."""
    members = {1: Worker(1)}
    loop, orders = orders_to(members)
    members[1].error = BlockingIOError(11, "full")
    orders.give(1, ONE)
    members[1] = Worker(1)
    ring(loop)
    orders.give(1, OTHER)
    assert members[1].got == [OTHER]


def test_a_worker_that_is_dying_or_gone_needs_none():
    worker = Worker(1)
    loop, orders = orders_to({1: worker})
    worker.error = BrokenPipeError(32, "gone")
    orders.give(1, ONE)
    worker.error = None
    ring(loop)
    orders.give(2, OTHER)
    assert worker.got == []
