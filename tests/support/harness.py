"""Runs the installed program as a process, as a user would, and reads its records as a collector would."""

import contextlib
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from support.judge import check_run, parse

PROGRAM = str(Path(sys.executable).with_name("mprelay"))
FAILING_CALL = str(Path(__file__).with_name("seccomp.py"))
PATIENCE = 20.0  # seconds until something that must happen is said not to happen; no test measures with it
ABORT = struct.pack("ii", 1, 0)

_ports = random.SystemRandom().sample(
    range(20000, 32000), 2000
)  # below the kernel's range for outgoing connections


def free_port() -> int:
    """A TCP port that nobody listens on, on any address, and that no outgoing connection gets."""
    while True:
        port = _ports.pop()
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            return port


class Relay:
    """One run of mprelay in front of `target`, with its records.

    Used as a context manager it waits until the relay is active, stops it at the end, and judges its records.
    """

    def __init__(
        self,
        target,
        *options: str,
        acl: str = "127.0.0.0/8",
        workers: int = 2,
        command: tuple[str, ...] = (PROGRAM,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        expect_code: int | None = 0,
        quiet: bool = True,
        wait_active: bool = True,
        host: str = "127.0.0.1",
        splicing: bool = False,
        **popen,
    ) -> None:
        self.port = free_port()
        self.host = host
        self.args = [str(self.port), target[0], str(target[1]), acl, "--workers", str(workers), *options]
        self.detail = "session" if "session" in options else "full"
        self.expect_code = expect_code
        self.quiet = quiet
        self.wait_active = wait_active
        self.killed = False  # set it where the supervisor was killed: then nothing has to be complete
        self._command = command
        self._stdout = stdout
        self._stderr = stderr
        self._splicing = splicing
        self._popen = popen
        self._outlets: list[psutil.Process] = []
        self._news = threading.Condition()
        self._output = bytearray()
        self.records: list[dict] = []
        self._pids: dict[int, int] = {}
        self.errors = ""
        self.reading = threading.Event()
        """Clear it, and the collector stands still, with at most 8 KiB in its hands.

        With `splicing` it stands still within splice(2), and holds the mutex of the relay's pipe.
        """
        self.reading.set()

    def __enter__(self):
        self.process = subprocess.Popen(
            [*self._command, *self.args],
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            **self._popen,
        )
        self._threads = []
        if self.process.stderr is not None:
            self._threads.append(threading.Thread(target=self._read_errors))
        if self.process.stdout is not None:
            stream = self.process.stdout
            if self._splicing:
                near, far = socket.socketpair()
                stream = far.makefile("rb")
                far.close()
                self._threads.append(threading.Thread(target=self._splice_on, args=(near,)))
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

    def __exit__(self, kind, *_rest):
        try:
            if kind is None:
                code = self.stop()
                self.judge()
                if self.expect_code is not None:
                    assert code == self.expect_code, (code, self.errors)
        finally:
            self._end()

    def judge(self) -> None:
        """Hold the records against the contract. After the end of the process."""
        self._join()
        assert self.records == parse(bytes(self._output))
        check_run(self.records, detail=self.detail, ended=not self.killed)
        if self.quiet:
            assert self.errors == ""

    def _splice_on(self, sink: socket.socket) -> None:
        """Pass the records on as some collectors do: from the pipe to a socket, within the kernel."""
        with sink:
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            while os.splice(self.process.stdout.fileno(), sink.fileno(), 1 << 16):
                pass

    def _read_records(self, stream) -> None:
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

    def _read_errors(self) -> None:
        self.errors = self.process.stderr.read().decode()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "somebody still holds stdout or stderr of a relay that has ended"

    def _end(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.reading.set()
        family = [*self.family(), *self._outlets]
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

    # -- what a user does ------------------------------------------------------------------------------------

    def connect(
        self, host: str | None = None, *, source: str | None = None, port: int = 0, wait: bool = True
    ) -> socket.socket:
        """Connect as a client (see :func:`connect`)."""
        return connect((host or self.host, self.port), source=source, port=port, wait=wait)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the relay, if it has not ended by itself, and return its exit code."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        return self.finish()

    def finish(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(PATIENCE)
        self._join()
        return code

    # -- what an operator sees -------------------------------------------------------------------------------

    def all(self, event: str, **fields) -> list[dict]:
        """The records so far of this kind, with these values."""
        return [
            record
            for record in list(self.records)
            if record["event"] == event and all(record.get(name) == value for name, value in fields.items())
        ]

    def wait(self, event: str, count: int = 1, **fields) -> dict:
        """Wait for the `count`-th such record and return it."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while len(found := self.all(event, **fields)) < count:
                left = deadline - time.monotonic()
                over = self.process.poll() is not None and not self._threads[-1].is_alive()
                assert left > 0, f"no {event} {fields} x{count}: {[r['event'] for r in self.records][-20:]}"
                assert not over, f"ended without {event} {fields}: {self.records[-3:]} {self.errors}"
                self._news.wait(min(left, 1.0))
        return found[count - 1]

    def family(self) -> list[psutil.Process]:
        """The processes that the relay has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def outlet(self) -> psutil.Process:
        """The process that owns stdout and stderr. It may outlive the relay, but not the test."""
        self._outlets.append(outlet_of(self.process.pid))
        return self._outlets[-1]

    def workers(self) -> dict[int, int]:
        """The pid of each worker, as its last worker.started record has it."""
        return dict(self._pids)


def connect(address, *, source: str | None = None, port: int = 0, wait: bool = True) -> socket.socket:
    """Connect to who may reset the connection at once; without `wait` it may still be under way.

    On loopback connect(2) itself may report the reset. That is the same outcome as a reset a moment later, so the
    caller then gets a socket that was reset after it was connected. It has the same port if `source` was given.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.bind((source, port))
        own = sock.getsockname() if source else ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)
        sock.settimeout(PATIENCE if wait else 0)
        try:
            sock.connect(address)
        except BlockingIOError:
            sock.settimeout(PATIENCE)
        except ConnectionResetError:
            sock.close()
            return _reset_after_connect(family, own)
        undo.pop_all()
    return sock


def _reset_after_connect(family: int, own) -> socket.socket:
    """Make a client's socket, bound to `own`, that was connected and then reset."""
    with contextlib.ExitStack() as undo, listening(family, own[0]) as server:
        sock = undo.enter_context(socket.socket(family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(own)
        sock.settimeout(PATIENCE)
        sock.connect(server.getsockname())
        reset(accept(server))
        undo.pop_all()
    return sock


@contextlib.contextmanager
def listening(family=socket.AF_INET, host="127.0.0.1", backlog=128):
    """A target: a listening socket; the test accepts and answers itself."""
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, 0))
        server.listen(backlog)
        server.settimeout(PATIENCE)
        yield server


@contextlib.contextmanager
def silent():
    """A target that does not answer: its queue is full, so the kernel drops every further SYN.

    Closing the socket that it yields beside the listener, and accepting it, lets the next one in.
    """
    with listening(backlog=0) as server, socket.create_connection(server.getsockname()) as filler:
        yield server, filler


def accept(server: socket.socket) -> socket.socket:
    """Accept one connection as the target."""
    conn, _ = server.accept()
    conn.settimeout(PATIENCE)
    return conn


def failing(*rules: str) -> tuple[str, ...]:
    """The command that runs the program with these calls failing."""
    return (sys.executable, FAILING_CALL, *rules, "--", PROGRAM)


@contextlib.contextmanager
def limit(pid: int, what: int, soft: int):
    """Lower a limit of a running process for a while."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def echo(client: socket.socket, target: socket.socket) -> None:
    """Bytes still go both ways."""
    client.sendall(b"there")
    assert receive(target, 5) == b"there"
    target.sendall(b"back")
    assert receive(client, 4) == b"back"


@contextlib.contextmanager
def answering(server: socket.socket, greeting: bytes = b"", *, hold: bool = False):
    """Let a target, in a thread, greet each connection, and end it, or hold it to the end of all."""
    stop = threading.Event()
    held: list[socket.socket] = []

    def serve() -> None:
        server.settimeout(0.1)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                conn, _ = server.accept()
                held.append(conn)
                conn.sendall(greeting)
            if not hold:
                end()

    def end() -> None:
        while held:
            held.pop().close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        end()


def receive(sock: socket.socket, size: int | None = None) -> bytes:
    """Read exactly `size` bytes, or all up to the end of data."""
    data = bytearray()
    while size is None or len(data) < size:
        part = sock.recv(1 << 20 if size is None else min(1 << 20, size - len(data)))
        if not part:
            assert size is None, f"ended after {len(data)} of {size} bytes"
            break
        data += part
    return bytes(data)


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of a normal end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.close()


def ends_with_reset(sock: socket.socket) -> bool:
    """Read to the end; tell whether it was a reset (True) or a normal end (False)."""
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return False


def reset_arrives(sock: socket.socket) -> bool:
    """Wait for trouble on a socket whose peer has already ended: recv(2) no longer tells a reset then."""
    poll = select.poll()
    poll.register(sock, 0)  # errors and hang-ups only
    assert poll.poll(PATIENCE * 1000), "nothing happened"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def eventually(condition, what: str) -> None:
    """Wait until `condition()` holds; for what has no descriptor, record or sentinel to wait on (/proc)."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        pause.wait(0.01)


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that no other offset repeats soon."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


def opened(pid: int | str, descriptor: int) -> str:
    """What a process has under a descriptor, as /proc shows it. OSError: nothing."""
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


def outlet_of(pid: int) -> psutil.Process:
    """The child of a relay that owns stdout: the only one whose descriptor 1 is not the relay's."""
    found = []

    def is_there() -> bool:
        for child in psutil.Process(pid).children():
            with contextlib.suppress(OSError):  # it has ended, or has no descriptor 1
                if opened(child.pid, 1) != opened(pid, 1):
                    found.append(child)
        return bool(found)

    eventually(is_there, "an outlet")
    return found[0]


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers of a relay whose records nobody can read."""
    outlet = outlet_of(pid)
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if child != outlet and child.name().startswith("mprelay-w"):
                found.append(child)
    return found


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def moment(text: str) -> float:
    """Read a record's timestamp as Unix time."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


def read_until(descriptor: int, word: bytes | None) -> bytes:
    """Read until `word` has come, or (None) to the end."""
    data = b""
    deadline = time.monotonic() + PATIENCE
    while word is None or word not in data:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {word!r} in {data!r}"
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # a terminal's way to say the end: EIO
            part = b""
        if not part:
            assert word is None, f"ended without {word!r}: {data!r}"
            break
        data += part
    return data


def with_site(directory: Path, code: str) -> dict[str, str]:
    """Make an environment in which every Python runs `code` before anything else."""
    (directory / "sitecustomize.py").write_text(code)
    return os.environ | {"PYTHONPATH": str(directory)}
