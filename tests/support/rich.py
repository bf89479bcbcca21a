"""Runs in which nearly everything happens, in any format: for those who read records, and know no other rules.

A run is the program, its clients and its target. What is returned is what stood on stdout.
"""

import contextlib
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from support.formats import event_of
from support.launching import PROGRAM
from support.peers import accept, connect, echo, free_port, knock, listening, reset
from support.processes import workers_of
from support.waiting import PATIENCE

LABELS: Final = ("a=1", "a.b=2", "event=x", ".x=3", "x.=4", "a..b=5", "k" * 200 + "=6", "ticket=CHG-1042")
"""Keys that would make a field a value and an object at once, if they were taken for paths."""

SEEN: Final = {
    *("worker.started", "target.resolved", "relay.active", "connection.attempt", "connection.rejected"),
    *("connection.accepted", "session.allocated", "session.connected", "session.relaying"),
    *("session.requester_channel_active", "session.target_channel_active", "session.closed"),
    *("connection.limited", "connection.pool_exhausted", "connection.proxy_invalid", "connection.refused_more"),
    *("worker.exited", "acl.reloaded", "acl.reload_failed", "relay.stats", "relay.draining", "relay.stopped"),
}
"""The events of :func:`busy`."""


class _Program:
    """The program with its output so far."""

    def __init__(self, process: subprocess.Popen[bytes], log_format: str, sink: IO[bytes] | None) -> None:
        self.process = process
        self._sink = sink
        self.output = bytearray()
        self._log_format = log_format
        self._events: list[str] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if self._sink is not None:
                self._sink.write(line)
                self._sink.flush()
            with self._news:
                self.output += line
                self._events.append(event_of(self._log_format, json.loads(line)))
                self._news.notify_all()

    def wait(self, event: str, count: int = 1) -> None:
        """Wait for the `count`-th record of an event."""
        with self._news:
            there = self._news.wait_for(lambda: self._events.count(event) >= count, PATIENCE)
            assert there, (event, count, self._events[-20:])

    def finish(self, code: int) -> bytes:
        """Wait for the end; return all output."""
        assert self.process.wait(PATIENCE) == code
        self._thread.join(PATIENCE)
        return bytes(self.output)


@contextlib.contextmanager
def _program(log_format: str, *arguments: str, sink: IO[bytes] | None = None) -> Iterator[_Program]:
    labels = [word for label in LABELS for word in ("--label", label)]
    command = [PROGRAM, *arguments, "--log-format", log_format, *labels]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        program = _Program(process, log_format, sink)
        try:
            yield program
        finally:
            process.kill()
            program.finish(process.wait(PATIENCE))


def busy(log_format: str, place: Path, *more: str, sink: IO[bytes] | None = None) -> bytes:
    """Refusals of all kinds, sessions that end in several ways, workers killed, a reload, and a drain.

    `more`: further options. `sink` gets each record as it is written.
    """
    rules = place / "rules"
    rules.write_text("!127.0.0.2/32\n127.0.0.0/8\n")
    port = free_port()
    options = ["--resolve", "60", "--max-sessions", "3", "--max-per-client", "2", "--workers", "2"]
    options += ["--accept-proxy", "127.0.0.9/32", "--stats-interval", "0.2", "--drain-timeout", "0.2", *more]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listening())
        target = ("localhost", str(server.getsockname()[1]))
        program = stack.enter_context(_program(log_format, str(port), *target, f"@{rules}", *options, sink=sink))
        program.wait("relay.active")
        relay = ("127.0.0.1", port)

        def session(source: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(connect(relay, source=source))
            return client, stack.enter_context(accept(server))

        for _ in range(12):  # the last ones are summed up
            knock(relay, source="127.0.0.2")
        ended = 0
        for end in (
            lambda client, target: (client.close(), target.close()),
            lambda client, target: (target.close(), client.close()),
            lambda client, _target: reset(client),
            lambda _client, target: reset(target),
        ):
            client, peer = session()
            echo(client, peer)
            end(client, peer)
            ended += 1
            program.wait("session.closed", ended)
        knock(relay, b"nonsense\r\n", source="127.0.0.9")
        program.wait("connection.proxy_invalid")
        client = stack.enter_context(connect(relay, source="127.0.0.9"))
        client.sendall(b"PROXY TCP4 127.0.0.7 192.0.2.8 4711 80\r\n")
        stack.enter_context(accept(server))
        session()
        session()
        knock(relay)
        program.wait("connection.limited")
        knock(relay, source="127.0.0.3")
        program.wait("connection.pool_exhausted")
        for worker in workers_of(program.process.pid):
            worker.kill()
        program.wait("worker.started", 4)
        program.wait("session.closed", ended + 3)
        rules.write_text("127.0.0.0/8\n")
        program.process.send_signal(signal.SIGHUP)
        program.wait("acl.reloaded")
        rules.write_text("localhost\n")
        program.process.send_signal(signal.SIGHUP)
        program.wait("acl.reload_failed")
        client, peer = session()
        echo(client, peer)
        server.close()
        knock(relay)
        program.wait("session.closed", ended + 4)
        program.wait("relay.stats")
        program.process.send_signal(signal.SIGTERM)
        return program.finish(0)


def short(log_format: str, *more: str) -> bytes:
    """A few sessions, one after the other, and a drain. `more`: further options."""
    relay = ("127.0.0.1", free_port())
    with listening() as server:
        arguments = (str(relay[1]), "127.0.0.1", str(server.getsockname()[1]), "ANY", "--workers", "1")
        with _program(log_format, *arguments, *more) as program:
            program.wait("relay.active")
            for count in range(1, 4):
                with connect(relay) as client, accept(server) as peer:
                    echo(client, peer)
                program.wait("session.closed", count)
            program.process.send_signal(signal.SIGTERM)
            return program.finish(0)


def expiring(log_format: str) -> bytes:
    """An idle session, and the end by the absolute timeout."""
    port = free_port()
    with listening() as server:
        arguments = (str(port), "127.0.0.1", str(server.getsockname()[1]), "ANY", "--workers", "1")
        limits = ("--idle-timeout", "1", "--absolute-timeout", "3", "--log-detail", "session")
        with _program(log_format, *arguments, *limits) as program:
            program.wait("relay.active")
            with connect(("127.0.0.1", port)), accept(server):
                program.wait("session.closed")
                return program.finish(0)


def refused(log_format: str) -> bytes:
    """A start with several wrong parameters."""
    with _program(log_format, "0", "nowhere", "x", "10.0.0.1", "--workers", "\x1b\n'\"") as program:
        return program.finish(2)


def unable(log_format: str) -> bytes:
    """A start on a port that is taken."""
    with listening() as taken:
        port = str(taken.getsockname()[1])
        with _program(
            log_format, port, "127.0.0.1", "9", "ANY", "--workers", "1", "--bind", "127.0.0.1"
        ) as program:
            return program.finish(69)
