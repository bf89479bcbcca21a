"""Thousands of clients of the control socket, beside sessions that go on and new ones: nobody waits for them."""

import contextlib
import os
import subprocess
import sys
import time

import psutil
import pytest
from support.control import Operator
from support.peers import echoing_elsewhere
from support.processes import open_files
from support.relay import Relay
from support.waiting import PATIENCE, eventually, pass_time

pytestmark = [pytest.mark.slow, pytest.mark.posix("the control socket")]

MIB = 1 << 20
STALL = 0.05
"""Seconds: more is a stall."""

SESSIONS = 200
"""They exchange small messages, one after the other."""

KILL_NOBODY = {"command": "kill", "client": "192.0.2.0/24"}
"""All sessions are looked at, and none is of such a client."""

EXCHANGE = """if True:
    import socket, struct, sys, time
    from select import select
    port, count = map(int, sys.argv[1:])

    def connect():
        made = socket.create_connection(("127.0.0.1", port))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # else ports run out
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def exchange(peer):
        peer.sendall(b"hello")
        assert peer.recv(16) == b"hello"

    peers = [connect() for _ in range(count)]
    for peer in peers:
        exchange(peer)
    print("ready", flush=True)
    took = []
    while not select([sys.stdin], [], [], 0.001)[0]:
        began = time.perf_counter()
        if peers:
            exchange(peers[len(took) % count])
        else:
            with connect() as peer:
                exchange(peer)
        took.append(time.perf_counter() - began)
    print(*took)
"""
"""Exchanges a message with each of `count` sessions, or with a new one each time if that is 0.

It ends with its stdin, and then says how long each exchange took.
"""


class Figures:
    """How long exchanges took, in seconds."""

    def __init__(self, text):
        took = sorted(map(float, text.split()))
        self.count = len(took)
        self.median, self.p99, self.p999 = (took[int(self.count * share)] for share in (0.5, 0.99, 0.999))
        self.longest = took[-1]

    def __repr__(self):
        seconds = (self.median, self.p99, self.p999, self.longest)
        median, p99, p999, longest = (f"{each * 1000:.2f}" for each in seconds)
        return f"{self.count} exchanges: median {median}, p99 {p99}, p99.9 {p999}, longest {longest} ms"


@contextlib.contextmanager
def exchanging(relay, count):
    """Let messages be exchanged meanwhile. The list that is given gets their figures."""
    command = [sys.executable, "-c", EXCHANGE, str(relay.port), str(count)]
    figures = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield figures
            figures.append(Figures(process.communicate(timeout=PATIENCE)[0]))
        finally:
            process.kill()


def measured(relay, do):
    """Do something, and return how long exchanges took meanwhile: with sessions, and with new ones."""
    with exchanging(relay, SESSIONS) as old, exchanging(relay, 0) as new:
        do()
    return [*old, *new]


def visit(path, count):
    """Clients that never read, and others that come one by one: they ask and read, or leave, or send anything."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            one = stack.enter_context(Operator(path, SO_SNDBUF=4096))
            one.socket.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                for _ in range(20):
                    one.say({"command": "sessions"}, KILL_NOBODY)
        for number in range(count):
            with Operator(path) as one:
                match number % 5:
                    case 0:
                        assert one.ask("status")["ok"]
                    case 1:
                        one.say({"command": "sessions"})
                    case 2:
                        one.say(os.urandom(number % 100))
                    case 3:
                        one.say(KILL_NOBODY)


@pytest.mark.timeout(300)
@pytest.mark.wall_clock("50 ms, in which sessions go on and new ones begin whatever control clients do")
def test_ten_thousand_clients_stall_nobody_and_leave_nothing(tmp_path):
    """Sessions go on, new ones begin, and no descriptor and no memory is left of such clients.

    A busy machine has stalls of its own. So one exchange in a thousand may be longer, or more if they also are
    without any client.
    """
    path = tmp_path / "control"
    options = ("--log-detail", "session", "--stats-interval", "0", "--control", str(path))
    with echoing_elsewhere() as target, Relay(target, *options) as relay:
        supervisor = psutil.Process(relay.pid)
        files = open_files(relay.pid)
        measured(relay, lambda: visit(path, 500))
        memory = supervisor.memory_info().rss
        began = time.monotonic()
        beside = measured(relay, lambda: [visit(path, 5000) for _ in range(2)])
        without = measured(relay, lambda: pass_time(time.monotonic() - began))
        eventually(lambda: open_files(relay.pid) == files, "all are gone")
        assert supervisor.memory_info().rss - memory < 2 * MIB
        for one, other in zip(beside, without, strict=True):
            assert one.p999 < max(STALL, 2 * other.p999), (beside, without)
