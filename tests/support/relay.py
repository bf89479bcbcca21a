"""Runs the installed program as a process, as a user would, and reads its records as a collector would."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Self

import psutil

from support.judge import Record, check_run, parse
from support.launching import KILLED, LAUNCHED, PROGRAM, PYTHON_EXE, Member
from support.peers import Address, Answer, accept, connect, free_port, knock
from support.processes import listens_at
from support.waiting import PATIENCE, eventually

NOWHERE = ("127.0.0.1", 9)  # a target for runs that never connect to it
FAILING_CALL = str(Path(__file__).with_name("seccomp.py"))


def failed_start(code: int, *options: str, **given: Any) -> list[Record]:
    """Run a relay that cannot start. Judge its end, and return its records without the last one."""
    with Relay(NOWHERE, *options, wait_active=False, expect_code=code, **given) as relay:
        relay.finish()
    *records, last = relay.records
    assert (last["event"], last["reason"]) == ("relay.stopped", "failed")
    assert not relay.all("relay.active")
    return records


def failing(*rules: str) -> tuple[str, ...]:
    """The command that runs the program with these calls failing."""
    return (sys.executable, FAILING_CALL, *rules, "--", PROGRAM)


class Relay:
    """One run of mprelay in front of `target`, with its records.

    Used as a context manager it waits until the relay is active, stops it at the end, and judges its records.
    """

    def __init__(
        self,
        target: Address,
        *options: str,
        acl: str = "127.0.0.0/8",
        workers: int = 2,
        command: tuple[str, ...] = (PROGRAM,),
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        expect_code: int | None = 0,
        quiet: bool = True,
        wait_active: bool = True,
        host: str = "127.0.0.1",
        splicing: bool = False,
        **popen: Any,
    ) -> None:
        self.port = free_port()
        self.host = host
        self.args = [str(self.port), target[0], str(target[1]), acl, "--workers", str(workers), *options]
        if PYTHON_EXE and workers == 1 and "--max-sessions" not in options:
            self.args += ["--max-sessions", "250"]  # one worker cannot have the default of 500
        self.detail = "session" if "session" in options else "full"
        self.expect_code = expect_code
        self.quiet = quiet
        self.wait_active = wait_active
        self.killed = False  # set this if the supervisor was killed: then the records may be incomplete
        self._command = command
        self._stdout = stdout
        self._stderr = stderr
        self._splicing = splicing
        self._popen = popen
        self._outlets: list[Member] = []
        self._news = threading.Condition()
        self._output = bytearray()
        self.records: list[Record] = []
        self._pids: dict[int, int] = {}
        self._asked_for: set[str] = set()  # kinds of records
        self.errors = ""
        self.reading = threading.Event()
        """Clear this to make the collector stand still, with at most 8 KiB in its buffer.

        With `splicing` it stands still within splice(2), and holds the mutex of the relay's pipe.
        """
        self.reading.set()

    def __enter__(self) -> Self:
        self._launched = LAUNCHED(
            self._command, self.args, stdout=self._stdout, stderr=self._stderr, **self._popen
        )
        self.process: subprocess.Popen[bytes] = self._launched.process
        self._threads: list[threading.Thread] = []
        if self.process.stderr is not None:
            self._threads.append(threading.Thread(target=self._read_errors, args=(self.process.stderr,)))
        if self.process.stdout is not None:
            stream: IO[bytes] = self.process.stdout
            if self._splicing:
                near, far = socket.socketpair()
                stream = far.makefile("rb")
                far.close()
                self._threads.append(threading.Thread(target=self._splice_on, args=(near, self.process.stdout)))
            self._threads.append(threading.Thread(target=self._read_records, args=(stream,)))
        for thread in self._threads:
            thread.start()
        try:
            if self.wait_active and self.process.stdout is not None:
                self.wait("relay.active")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        try:
            if kind is None:
                code = self.stop()
                self.judge()
                if self.expect_code is not None:
                    assert code == self.expect_code, (code, self.errors)
        finally:
            self._end()

    def judge(self) -> None:
        """Check the records against docs/contract.md and docs/records.md.

        Call this after the end of the process.
        """
        self._join()
        assert self.records == parse(bytes(self._output))
        check_run(self.records, detail=self.detail, ended=not self.killed)
        if self.quiet:
            assert self.errors == ""
        if "internal.error" not in self._asked_for:  # a test that asks for it has provoked it
            assert not self.all("internal.error")

    @staticmethod
    def _splice_on(sink: socket.socket, source: IO[bytes]) -> None:
        """Pass the records on as some collectors do: from the pipe to a socket, within the kernel."""
        with sink:
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            while os.splice(source.fileno(), sink.fileno(), 1 << 16):
                pass

    def _read_records(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.reading.wait()
            with self._news:
                self._output += line
                if line.endswith(b"\n"):
                    self.records += parse(line)
                    if self.records[-1]["event"] == "worker.started":
                        self._pids[self.records[-1]["worker"]] = self.records[-1]["pid"]
                self._news.notify_all()
        if stream is not self.process.stdout:
            stream.close()
        with self._news:
            self._news.notify_all()

    def _read_errors(self, stream: IO[bytes]) -> None:
        self.errors = stream.read().decode()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a process still holds stdout or stderr of a relay that has ended"

    def _end(self) -> None:
        """Leave nothing behind, in any case."""
        self.reading.set()
        family = [*self.family(), *(outlet for outlet in self._outlets if isinstance(outlet, psutil.Process))]
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        _gone, alive = psutil.wait_procs(family, timeout=PATIENCE)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive)
        self._join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._launched.close()

    # -- what a user does ------------------------------------------------------------------------------------

    def connect(self, host: str | None = None, **where: Any) -> socket.socket:
        """Connect as a client (see :func:`connect`)."""
        return connect((host or self.host, self.port), **where)

    def knock(self, host: str | None = None, say: bytes = b"", **where: Any) -> Answer:
        """Connect as a client and read to the end (see :func:`knock`)."""
        return knock((host or self.host, self.port), say, **where)

    def connect_once_open(self) -> socket.socket:
        """Connect as soon as the relay listens, for a relay whose records cannot be read."""
        made: list[socket.socket] = []

        def connected() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                made.append(self.connect())
            return bool(made)

        eventually(connected, "the relay listens")
        return made[0]

    def stall(self) -> int:
        """Stop the collector, and open served sessions until a client has to wait.

        Needs a target that ends each session. Returns the number of served clients.
        """
        self.reading.clear()
        for served in range(3000):
            try:
                self.knock(patience=1.0)
            except TimeoutError:
                return served
        raise AssertionError("no client ever had to wait")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the relay if it has not ended by itself, and return its exit code."""
        if self.process.poll() is None:
            with contextlib.suppress(ConnectionError, ProcessLookupError):  # it is ending by itself
                self.signal(number)
        return self.finish()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send the supervisor a signal."""
        self._launched.signal(number)

    def kill(self) -> None:
        """End the supervisor at once. Its records may then be incomplete."""
        self.killed = True
        if self.expect_code == 0:
            self.expect_code = KILLED
        self._launched.kill()

    def suspend(self) -> None:
        """Make the supervisor stand still."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the supervisor go on."""
        self.process.send_signal(signal.SIGCONT)

    def finish(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(PATIENCE)
        self._join()
        return code

    # -- what an operator sees -------------------------------------------------------------------------------

    def all(self, event: str, **fields: object) -> list[Record]:
        """The records so far of this kind, with these values."""
        self._asked_for.add(event)
        return [
            record
            for record in list(self.records)
            if record["event"] == event and all(record.get(name) == value for name, value in fields.items())
        ]

    def allow(self, event: str) -> None:
        """Expect that such records may be written."""
        self._asked_for.add(event)

    def wait(self, event: str, count: int = 1, *, patience: float = PATIENCE, **fields: object) -> Record:
        """Wait for the `count`-th such record, `patience` seconds at most, and return it."""
        deadline = time.monotonic() + patience
        with self._news:
            while len(found := self.all(event, **fields)) < count:
                left = deadline - time.monotonic()
                over = self.process.poll() is not None and not self._threads[-1].is_alive()
                assert left > 0, f"no {event} {fields} x{count}: {[r['event'] for r in self.records][-20:]}"
                assert not over, f"ended without {event} {fields}: {self.records[-3:]} {self.errors}"
                self._news.wait(min(left, 1.0))
        return found[count - 1]

    def ticks(self, count: int) -> None:
        """Wait for `count` further relay.stats records, which are the relay's own clock."""
        self.wait("relay.stats", len(self.all("relay.stats")) + count)

    @property
    def output(self) -> bytes:
        """What stood on stdout so far."""
        return bytes(self._output)

    def held_by(self, worker: int) -> set[int]:
        """The ports of the clients that this worker holds or held."""
        return {record["client_port"] for record in self.all("session.allocated", worker=worker)}

    @property
    def pid(self) -> int:
        """The pid of the supervisor, as records have it."""
        return self._launched.pid

    def listens(self) -> bool:
        """Whether the listener is open, without connecting, because the relay could take that for a client."""
        return listens_at(self.port)

    def family(self) -> list[psutil.Process]:
        """The processes that the relay has started."""
        return self._launched.family()

    def outlet(self) -> Member:
        """The process that owns stdout and stderr. It may outlive the relay, but not the test."""
        self._outlets.append(self._launched.outlet())
        return self._outlets[-1]

    def workers(self) -> dict[int, int]:
        """The pid of each worker, from its last worker.started record."""
        return dict(self._pids)

    def member(self, pid: int) -> Member:
        """A process of the relay by its pid in records."""
        return self._launched.member(pid)

    def worker(self, number: int) -> Member:
        """The process of a worker."""
        return self.member(self._pids[number])


def open_sessions(
    stack: contextlib.ExitStack, relay: Relay, server: socket.socket, count: int
) -> list[tuple[socket.socket, socket.socket]]:
    """Open `count` sessions. Returns the client's and the target's socket of each; `stack` closes them."""
    made = []
    for _ in range(count):
        client = stack.enter_context(relay.connect())
        made.append((client, stack.enter_context(accept(server))))
    relay.wait("session.target_channel_active", len(relay.all("session.closed")) + count)
    return made


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False, **options
    )
