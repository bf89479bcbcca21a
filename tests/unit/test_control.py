"""The control socket within the supervisor: who is kept and who is dropped, and what a turn has for its clients.

Real sockets. The clock is the real one, and a test may put it forward.
"""

import socket
import sys
import time
from contextlib import ExitStack
from math import inf

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: Unix sockets", allow_module_level=True)

from support.control import Operator
from support.waiting import PATIENCE

from mprelay.supervisor import control
from mprelay.supervisor.control import Control
from mprelay.supervisor.loop import Loop
from mprelay.system.unix_socket import Listener

LINE = b"x" * 99 + b"\n"


class Served:
    """A control socket with a loop of its own, which answers each request with `answer()`."""

    def __init__(self, directory, monkeypatch):
        self.path = directory / "s"
        self.answer = lambda: {"ok": True}
        self.ahead = 0.0
        self.real = real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.ahead)
        self.loop = Loop(time.monotonic())
        self.loop.open(lambda: None)
        self.watch = None
        self.control = Control(self.loop, Listener(str(self.path)), self._obey, self._on_watch)
        self.control.start()

    def _obey(self, _request, _peer, reply):
        reply(self.answer())

    def _on_watch(self, sink):
        self.watch = sink

    def turn_until(self, condition):
        """Let the loop work until something holds."""
        until = self.real() + PATIENCE
        while not condition():
            assert self.real() < until
            self.loop.turn(0.01)
            self.control.work()

    def pass_by(self, seconds):
        """Let time pass. Alarms that are due ring."""
        self.ahead += seconds
        self.loop.turn(0)
        self.control.work()

    def clients(self):
        """Those that are connected now."""
        return [*self.control._clients.values()]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Such a socket."""
    made = Served(tmp_path, monkeypatch)
    yield made
    made.control.close()
    made.loop.close()


def stuck(served, stack):
    """A client that has asked for more than the kernel holds for it, and has taken nothing of it."""
    served.answer = lambda: iter([LINE * 100] * 1000)
    operator = stack.enter_context(Operator(served.path))
    operator.say({"command": "status"})
    served.turn_until(lambda: any(client.blocked for client in served.clients()))
    return operator


def test_all_clients_together_have_a_millisecond_of_a_turn(served):
    """However many there are, and however long their answers take. Each gets on."""
    steps = []

    def answer():
        number = len(steps)
        steps.append(0)
        for _ in range(50):
            steps[number] += 1
            served.ahead += 0.0002
            yield b""
        yield control.line_of({"ok": True})

    served.answer = answer
    with ExitStack() as stack:
        operators = [stack.enter_context(Operator(served.path)) for _ in range(20)]
        for operator in operators:
            operator.say({"command": "status"})
        most = before = 0

        def all_are_served():
            nonlocal most, before
            most = max(most, sum(steps) - before)
            before = sum(steps)
            if len(steps) == 20 and 50 not in steps:
                assert max(steps) - min(steps) < 25
            return steps == [50] * 20 and not any(client.busy for client in served.clients())

        served.turn_until(all_are_served)
        assert all(operator.hear() == {"ok": True} for operator in operators)
    assert most <= control.BUDGET / 0.0002 + 1


def test_what_was_begun_is_done_though_nobody_waits_for_it(served, monkeypatch):
    """Its client has gone, or takes a minute and more to be served."""
    monkeypatch.setattr(control, "BUDGET", 1e-9)  # one step in a turn
    steps = []

    def answer():
        for _ in range(10):
            steps.append(len(served.clients()))
            yield b""
        yield control.line_of({"ok": True})

    served.answer = answer
    with Operator(served.path) as operator:
        operator.say({"command": "status"})
    served.turn_until(lambda: steps)
    while served.clients():
        assert len(steps) <= 10
        served.pass_by(control.SILENCE)
    assert steps == [1] * 10


def take(operator, count):
    """Take that many bytes, a few at a time."""
    while count > 0:
        count -= len(operator.socket.recv(min(count, 500)))


def test_who_takes_a_little_at_a_time_is_kept(served):
    """The kernel tells of room only when most has been taken, and that may take longer than a client is given."""
    with ExitStack() as stack:
        operator = stuck(served, stack)
        (client,) = served.clients()
        waiting = client.waiting
        for _ in range(6):
            take(operator, 20_000)
            served.pass_by(control.PATIENCE + 0.1)
            assert served.clients() == [client]
        assert client.waiting == waiting  # no send has found room
        served.pass_by(control.PATIENCE + 0.1)
        assert served.clients() == []


def test_who_takes_nothing_is_dropped(served):
    """After ten seconds, and not before."""
    with ExitStack() as stack:
        stuck(served, stack)
        served.pass_by(control.PATIENCE - 1)
        assert len(served.clients()) == 1
        served.pass_by(1)
        assert served.clients() == []


def test_who_takes_a_byte_now_and_then_is_dropped(served):
    """What the kernel holds for it does not become less."""
    with ExitStack() as stack:
        operator = stuck(served, stack)
        take(operator, 1)
        served.pass_by(control.PATIENCE + 0.1)
        assert served.clients() == []


def test_room_is_made_by_the_one_that_has_taken_nothing_for_longest(served, monkeypatch):
    """Not by the one whose last request is older, and who has taken something since."""
    monkeypatch.setattr(control, "CLIENTS", 2)
    with ExitStack() as stack:
        slow = stuck(served, stack)
        (first,) = served.clients()
        served.pass_by(1)
        stack.enter_context(Operator(served.path)).say({"command": "status"})
        served.turn_until(lambda: [client.blocked for client in served.clients()] == [True, True])
        served.pass_by(1)
        take(slow, 20_000)
        stack.enter_context(Operator(served.path))
        served.turn_until(lambda: [client.blocked for client in served.clients()] == [True, False])
        assert served.clients()[0] is first


def test_records_are_gathered_for_watchers_and_sent_at_the_end_at_the_latest(tmp_path, monkeypatch):
    """Each turn of a busy relay has a few records. A send for each turn would cost more than the records."""
    monkeypatch.setattr(control, "GATHER", inf)
    watched = []
    loop = Loop(0.0)
    loop.open(lambda: None)
    listener = Listener(str(tmp_path / "control"))
    serving = Control(loop, listener, lambda *_: None, watched.append)
    serving.start()

    def turns():
        """Take turns until nothing is left to do."""
        while loop._poller.wait(0) or serving._resume.pending:
            loop.turn()
            serving.work()

    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for watcher in (first, second):
            watcher.connect(str(tmp_path / "control"))
            watcher.sendall(b'{"command":"watch"}\n')
            turns()
            assert watcher.recv(99) == b'{"ok":true}\n'
            for record in (b"one\n", b"two\n"):
                watched[0]([record])
                turns()
            with pytest.raises(BlockingIOError):
                watcher.recv(99, socket.MSG_DONTWAIT)
        assert first.recv(99) == b"one\ntwo\n"  # before the second began
        serving.close()
        assert first.recv(99) == second.recv(99) == b"one\ntwo\n"
    loop.close()
