"""A collector that does not keep up: the records wait, new connections wait, and sessions in flight do not."""

import contextlib
import resource
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from support.judge import check_run, parse
from support.peers import accept, answering, echo, listening, receive
from support.relay import PROGRAM, Relay
from support.waiting import eventually

MIB = 1 << 20


def test_a_collector_that_stands_still():
    """Admission pauses, a session in flight goes on, memory is bounded; then all goes on, and none is lost."""
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
            assert before - at_rest < 4 * MIB  # the backlog is full at one
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
    """A file system of its own with room for 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "mprelay-test", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system of its own to be had: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_for_a_while(small_disk: Path):
    """Said on stderr; sessions go on; when there is room again every record is there."""
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
        relay.process.send_signal(signal.SIGTERM)
        assert relay.finish() == 0
        records = parse(log.read_bytes())
    check_run(records)
    assert records[-1]["admitted"] == sessions + 1
    assert "No space left on device" in relay.errors


def test_a_file_that_has_its_largest_size(tmp_path: Path):
    """EFBIG (``ulimit -f``) is no end of the reader: what does not fit waits, and follows when it may."""
    log = tmp_path / "log"
    command = ("/bin/sh", "-c", 'ulimit -S -f 16 && exec "$0" "$@"', PROGRAM)  # of 512 bytes each
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
        relay.process.send_signal(signal.SIGTERM)
        assert relay.finish() == 0
        records = parse(log.read_bytes())
    check_run(records)
    assert records[-1]["admitted"] == sessions
    assert "File too large" in relay.errors
