"""What an operator's commands do to many sessions: a few at a time."""

import time
from ipaddress import ip_address, ip_network
from itertools import pairwise
from types import SimpleNamespace

import orjson
import pytest
from support.kept import Kept

from mprelay.core.phases import RunState
from mprelay.core.protocol import CloseReason
from mprelay.core.requests import request_of
from mprelay.supervisor.commands import Commands
from mprelay.supervisor.control import Peer
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.orders import Orders

COUNT = 1000
IN_PIECE = 50


class Worker:
    """A worker as orders know it."""

    number = 1

    def __init__(self):
        self.orders = []
        self.order = self.orders.append


class Relay:
    """The commands of a relay with a worker that has all sessions: one of each client."""

    def __init__(self, clients):
        self.kept = Kept(limit=len(clients), every_message=False)
        self.kept.book.workers.open(1, len(clients))
        for client in clients:
            self.kept.book.workers.place(self.kept.admit((client, 1), 1.0, 1.0), 1.0)
        worker = Worker()
        self.orders = worker.orders
        self.commands = Commands(
            None,
            RunState(),
            recorder=self.kept.recorder,
            writer=SimpleNamespace(congested=False),
            book=self.kept.book,
            crew=SimpleNamespace(orders=Orders(Loop(time.monotonic()), {1: worker})),
            door=None,
            reload=None,
            lifetime=None,
            drain=None,
        )

    def kill(self, client):
        """Give the order, and return the pieces of its answer."""
        answers = []
        request = request_of(orjson.dumps({"command": "kill", "client": client}))
        self.commands.obey(request, Peer(0, 1), answers.append)
        return answers[0]

    def killed(self):
        """The sessions that the worker was told to end."""
        return [serial for order in self.orders for serial in order.serials]

    def recorded(self):
        """What the record of the one command says."""
        self.kept.recorder.flush()
        (record,) = [each for each in self.kept.records() if each["event"] == "control.command"]
        return record["arguments"], record["ok"], record["problem"]


@pytest.fixture
def relay():
    """A relay with a quarter of its sessions in each network 10.0.N.0/24."""
    return Relay([f"10.0.{number % 4}.1" for number in range(COUNT)])


def test_many_are_killed_a_few_at_a_time(relay):
    """The record comes before the first, and the answer after the last."""
    pieces = relay.kill("10.0.1.0/24")
    *empty, last = [(piece, len(relay.killed())) for piece in pieces]
    assert [piece for piece, _ in empty] == [b""] * (COUNT // IN_PIECE)
    ends = [0, *(end for _, end in empty)]
    assert all(later - before <= IN_PIECE for before, later in pairwise(ends))
    assert last == (b'{"ok":true,"killed":250}\n', 250)
    assert relay.killed() == [*range(2, COUNT + 1, 4)]
    assert {order.reason for order in relay.orders} == {CloseReason.KILLED}
    assert relay.recorded() == ({"client": "10.0.1.0/24"}, True, None)


CLIENTS = ["10.0.0.1", "10.0.0.255", "10.0.1.0", "255.255.255.255", "::1", "2001:db8::1", "2001:db9::", "fe80::1"]


@pytest.mark.parametrize(
    "network",
    [
        *("10.0.0.1", "10.0.0.0/24", "10.0.0.0/255.255.254.0", "0.0.0.0/0", "::ffff:10.0.0.255", "192.0.2.0/24"),
        *("::1", "::/0", "2001:db8::/31", "2001:db8::/32", "::a00:1"),
    ],
)
def test_those_in_the_network_are_killed(network):
    """IPv4 is in no network of IPv6."""
    relay = Relay(CLIENTS)
    [*relay.kill(network)]
    whole = ip_network(network.removeprefix("::ffff:"))
    expected = [client for client in CLIENTS if ip_address(client) in whole]
    assert [CLIENTS[serial - 1] for serial in relay.killed()] == expected


def test_those_that_end_meanwhile_are_not_counted(relay):
    """Nor is their worker told."""
    pieces = relay.kill("10.0.1.0/24")
    next(pieces)
    for session in relay.kept.book.ledger.all_active()[COUNT // 2 :]:
        relay.kept.book.lost(session, 1.0, 1.0, CloseReason.WORKER_LOST)
    assert orjson.loads([*pieces][-1]) == {"ok": True, "killed": 125}
    assert len(relay.killed()) == 125


def test_a_kill_of_nobody_is_refused_when_all_were_looked_at(relay):
    """There is one record of it."""
    *empty, last = relay.kill("192.0.2.0/24")
    assert empty == [b""] * (COUNT // IN_PIECE)
    problem = "there is no session of 192.0.2.0/24"
    assert orjson.loads(last) == {"ok": False, "error": problem}
    assert relay.killed() == []
    assert relay.recorded() == ({"client": "192.0.2.0/24"}, False, problem)
