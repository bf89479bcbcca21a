"""The readers of stdout: slow, stalled, out of space, or gone."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.judge import check_run, parse
from support.launching import PROGRAM, PYTHON_EXE, TICKING, command
from support.peers import accept, answering, echo, ends_with_reset, fill, free_port, is_shut, listening, receive
from support.processes import outlet_of, workers_of
from support.relay import NOWHERE, Relay, run
from support.waiting import PATIENCE, eventually, read_until

MIB = 1 << 20


# -- a reader that does not keep up --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stalled_collector():
    """Admission pauses, an open session goes on, and memory is bounded.

    Then everything resumes, and no record is lost.
    """
    with (
        listening() as server,
        Relay(server.getsockname(), "--stats-interval", "0") as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        supervisor = psutil.Process(relay.process.pid)
        at_rest = supervisor.memory_info().rss
        with answering(server):
            admitted = relay.stall()
            before = supervisor.memory_info().rss
            assert before - at_rest < 4 * MIB  # the backlog is full at 1 MiB
            with contextlib.ExitStack() as stack:
                waiting = [stack.enter_context(relay.connect()) for _ in range(50)]
                echo(client, target)
                assert supervisor.memory_info().rss - before < MIB
                relay.reading.set()
                for sock in waiting:
                    assert receive(sock) == b""
            relay.wait("connection.accepted", admitted + 50)
        echo(client, target)


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system with room for 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "mprelay-test", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system of its own to be had: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.posix("a file as stdout, which Wine 8 does not give to Python")
def test_a_disk_that_is_full_for_a_while(small_disk: Path):
    """The problem is reported on stderr, and sessions go on.

    Once there is room again, every record is written.
    """
    log, ballast = small_disk / "log", small_disk / "ballast"
    ballast.write_bytes(bytes(1000 * 1024))
    with (
        log.open("wb") as stdout,
        listening() as server,
        Relay(server.getsockname(), "--label", "padding=" + "x" * 900, stdout=stdout, quiet=False) as relay,
    ):
        eventually(lambda: b"relay.active" in log.read_bytes(), "the relay is active")
        sessions = 0
        while log.stat().st_size < 20 * 1024 or sessions < 10:
            with relay.connect() as client, accept(server) as target:
                echo(client, target)
            sessions += 1
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        ballast.unlink()
        relay.signal()
        assert relay.finish() == 0
        records = parse(log.read_bytes())
    check_run(records)
    assert records[-1]["admitted"] == sessions + 1
    assert "No space left on device" in relay.errors


@pytest.mark.posix("RLIMIT_FSIZE")
def test_a_file_at_its_size_limit(tmp_path: Path):
    """EFBIG (``ulimit -f``) does not mean that the reader is gone: the rest waits until the file may grow."""
    log = tmp_path / "log"
    command = ("/bin/sh", "-c", 'ulimit -S -f 16 && exec "$0" "$@"', PROGRAM)  # blocks of 512 bytes
    with (
        log.open("wb") as stdout,
        listening() as server,
        Relay(server.getsockname(), command=command, stdout=stdout, quiet=False) as relay,
    ):
        eventually(lambda: b"relay.active" in log.read_bytes(), "the relay is active")
        sessions = 0
        while log.stat().st_size < 16 * 512 or sessions < 10:
            with relay.connect() as client, accept(server) as target:
                echo(client, target)
            sessions += 1
        unlimited = (resource.RLIM_INFINITY, resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE)[1])
        resource.prlimit(relay.outlet().pid, resource.RLIMIT_FSIZE, unlimited)
        relay.signal()
        assert relay.finish() == 0
        records = parse(log.read_bytes())
    check_run(records)
    assert records[-1]["admitted"] == sessions
    assert "File too large" in relay.errors


@contextmanager
def records_pipe(*, full: bool = False):
    """Make a pipe for stdout: (our end as a file, the program's end). Either may be closed early."""
    reader, writer = os.pipe()
    if full:
        fill(writer)
    with os.fdopen(reader, "rb", buffering=0) as ours, os.fdopen(writer, "wb", buffering=0) as theirs:
        yield ours, theirs


@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_expiry_while_the_reader_of_the_records_stands_still():
    """Sessions and listener end in time. The records wait for their reader, and none is lost."""
    with (
        listening() as server,
        records_pipe(full=True) as (ours, theirs),
        Relay(server.getsockname(), "--absolute-timeout", "2", stdout=theirs) as relay,
    ):
        started = time.monotonic()
        theirs.close()
        with relay.connect_once_open() as client, accept(server):
            assert ends_with_reset(client)
            assert time.monotonic() - started < 4  # 2, a second more, and the start of the interpreter
            eventually(lambda: not relay.listens(), "the listener is closed")
        output = read_until(ours.fileno(), b"relay.stopped")
        output += read_until(ours.fileno(), None)
        assert relay.finish() == 0
    records = parse(output.lstrip(b"."))
    check_run(records)
    assert records[-1]["reason"] == "expired"


# -- 74: stdout is gone --------------------------------------------------------------------------------------


def session_members(leader: int) -> list[int]:
    """Return the processes of the session that `leader` led, without those that have ended."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_reader_that_has_seen_enough(tool, lines):
    """`mprelay … | head -1` ends by itself, both during the start and when no further record is due."""
    script = f'"$@" | head -{lines}; echo "${{PIPESTATUS[0]}}"'
    relay = command(str(free_port()), NOWHERE[0], "9", "ANY", "--workers", "2", *TICKING)
    with subprocess.Popen(
        [tool("bash"), "-c", script, "bash", *relay],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as shell:
        try:
            output, _ = shell.communicate(timeout=PATIENCE)
            if PYTHON_EXE:  # the system ends what is left, a moment later
                eventually(lambda: session_members(shell.pid) == [], "nobody is left")
            assert session_members(shell.pid) == []
        finally:
            for pid in session_members(shell.pid):
                os.kill(pid, signal.SIGKILL)
    *records, code = output.splitlines()
    assert int(code) == 74
    assert len(parse(b"".join(line + b"\n" for line in records))) == lines


def test_reader_goes_away_while_a_session_is_open():
    """The listener closes, the session may finish, then the exit code is 74."""
    with (
        listening() as server,
        records_pipe() as (ours, theirs),
        Relay(server.getsockname(), *TICKING, stdout=theirs, expect_code=74, quiet=False) as relay,
    ):
        theirs.close()
        read_until(ours.fileno(), b"relay.active")
        with relay.connect_once_open() as client, accept(server) as target:
            read_until(ours.fileno(), b"session.target_channel_active")
            family = relay.family()
            ours.close()
            eventually(lambda: not relay.listens(), "the listener is closed")
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b"question"
            target.sendall(b"answer")
            target.close()
            assert receive(client) == b"answer"
        assert relay.finish() == 74
        assert psutil.wait_procs(family, PATIENCE)[1] == []


def test_reader_goes_away_and_a_session_does_not_finish():
    """The session may last for --drain-timeout and no longer. Then its peers see a reset."""
    options = ("--drain-timeout", "1", *TICKING)
    with (
        listening() as server,
        records_pipe() as (ours, theirs),
        Relay(server.getsockname(), *options, stdout=theirs, expect_code=74, quiet=False) as relay,
    ):
        theirs.close()
        read_until(ours.fileno(), b"relay.active")
        with relay.connect_once_open() as client, accept(server) as target:
            read_until(ours.fileno(), b"session.target_channel_active")
            gone = time.monotonic()
            ours.close()
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            assert time.monotonic() - gone >= 1
        assert relay.finish() == 74


@pytest.mark.posix("a shell's >&-")
def test_no_stdout_from_the_start(tool):
    """With stdout closed by >&- the relay does not start, because nothing could be recorded.

    It says so on stderr.
    """
    port = str(free_port())
    done = run(tool("bash"), "-c", '"$@" >&-', "bash", PROGRAM, port, "127.0.0.1", "9", "ANY")
    assert done.returncode == 74
    assert b"stdout" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.posix("a shell's >&-, and /dev/full")
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("asked", ["--help", "--version", ""])
def test_help_that_cannot_be_written(tool, asked, redirection):
    """The requested text could not be written: that is neither a crash nor a success."""
    done = run(tool("bash"), "-c", f'"$@" {asked} {redirection}', "bash", PROGRAM)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 74


@pytest.mark.posix("a shell's >&-")
def test_wrong_parameters_and_no_stdout(tool):
    """No record can name the wrong parameters.

    The missing stdout is the worse problem: 74, reported on stderr.
    """
    done = run(tool("bash"), "-c", '"$@" >&-', "bash", PROGRAM, "0", "127.0.0.1", "9", "ANY")
    assert done.returncode == 74
    assert done.stderr == b"mprelay: nothing can be written to stdout: Bad file descriptor\n"


@pytest.mark.parametrize(
    "redirection",
    [
        "2>&1 | head -1",
        *(
            pytest.param(closed, marks=pytest.mark.posix("a shell's >&-"))
            for closed in ("2>&- | head -1", "<&- | head -1", "<&- 2>&- | head -1")
        ),
    ],
)
def test_stdout_is_gone_whatever_the_other_streams_are(redirection):
    """The exit code is 74 with stderr in the same pipe, with stderr closed, and with stdin closed."""
    relay = command(str(free_port()), "127.0.0.1", "9", "ANY", "--workers", "2", *TICKING)
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}; echo ${{PIPESTATUS[0]}}', "bash", *relay],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        input="",
    )
    first, code = done.stdout.splitlines()
    assert '"event":"worker.started"' in first
    assert code == "74"


# -- no room -------------------------------------------------------------------------------------------------


@pytest.mark.posix("/dev/full")
@pytest.mark.slow
def test_no_room_for_the_records():
    """On /dev/full the problem is reported on stderr and sessions go on.

    A signal stops the relay, a second one the wait.
    """
    with (
        Path("/dev/full").open("wb") as full,
        listening() as server,
        Relay(server.getsockname(), stdout=full, expect_code=74, quiet=False) as relay,
    ):
        with relay.connect_once_open() as client, accept(server) as target:
            for _ in range(3):
                client.sendall(b"question")
                assert receive(target, 8) == b"question"
                target.sendall(b"answer")
                assert receive(client, 6) == b"answer"
        workers, outlet = workers_of(relay.process.pid), relay.outlet()
        relay.signal()
        assert psutil.wait_procs(workers, PATIENCE)[1] == []
        assert is_shut(relay.port)
        assert relay.process.poll() is None
        relay.signal()
        assert relay.process.wait(PATIENCE) == 74
        assert outlet.is_running()  # it still tries to write its records
        outlet.kill()
        relay.finish()
        assert "No space left on device" in relay.errors
        assert f"process {outlet.pid} still writes what it has" in relay.errors
        assert "Traceback" not in relay.errors


@pytest.mark.posix("/dev/full")
def test_wrong_parameters_and_no_room():
    """The records wait for room, as a relay's do. A signal ends the wait."""
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen([PROGRAM, "0", "127.0.0.1", "9", "ANY"], stdout=full, stderr=subprocess.PIPE) as process,
    ):
        try:
            said = read_until(process.stderr.fileno(), b"No space left on device")
            process.terminate()
            process.wait(PATIENCE)
        finally:
            process.kill()
        assert b"Traceback" not in said + process.stderr.read()


@pytest.mark.posix("/dev/full")
@pytest.mark.slow
def test_records_and_complaints_on_the_same_full_disk():
    """Neither stream blocks the other: after the expiry a signal still ends the relay."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = subprocess.Popen(
            [PROGRAM, str(free_port()), "127.0.0.1", "9", "ANY", "--workers", "1", "--absolute-timeout", "5"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
        )
    try:
        outlet = outlet_of(process.pid)
        eventually(lambda: len(workers_of(process.pid)) == 1, "a worker")
        eventually(lambda: not workers_of(process.pid), "expiry")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 74
        outlet.kill()  # it would retry for ever
    finally:
        process.kill()
        process.wait()
