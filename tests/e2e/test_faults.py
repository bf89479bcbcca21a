"""Faults that once broke something: each was seen, then mended."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest
from support.peers import accept, connect, ends_with_reset, free_port, listening, receive, reset
from support.processes import outlet_of, workers_of
from support.relay import PROGRAM, Relay
from support.waiting import PATIENCE, eventually


def test_a_replacement_that_hangs_at_its_start_holds_nobody_up():
    """Its channels got the numbers of the dead worker's: an old event once made the supervisor wait for it."""
    with listening() as server, Relay(server.getsockname(), "--absolute-timeout", "4", workers=2) as relay:
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x")
            receive(target, 1)
            busy = relay.wait("session.allocated")["worker"]
            idle_pid = relay.workers()[3 - busy]
            known = {process.pid for process in relay.family()}
            os.kill(idle_pid, signal.SIGKILL)
            eventually(lambda: {p.pid for p in relay.family()} - known, "another worker")
            for process in relay.family():
                if process.pid not in known:
                    process.suspend()
            client.sendall(b"y")
            assert receive(target, 1) == b"y"
            relay.wait("relay.expired")
            assert ends_with_reset(client)
        assert relay.finish() == 0


def test_the_working_directory_may_go_away():
    """A worker is replaced all the same, and the others notice nothing."""
    place = tempfile.mkdtemp()
    with (
        listening() as server,
        Relay(server.getsockname(), cwd=place, workers=2) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        client.sendall(b"x")
        receive(target, 1)
        shutil.rmtree(place)
        busy = relay.wait("session.allocated")["worker"]
        os.kill(relay.workers()[3 - busy], signal.SIGKILL)
        relay.wait("worker.started", 3)
        client.sendall(b"y")
        assert receive(target, 1) == b"y"


@pytest.mark.parametrize(
    "redirection", ["2>&1 | head -1", "2>&- | head -1", "<&- | head -1", "<&- 2>&- | head -1"]
)
def test_stdout_is_gone_whatever_the_other_streams_are(redirection):
    """74, with stderr in the same pipe, closed, or with stdin closed."""
    command = f"{PROGRAM} {free_port()} 127.0.0.1 9 ANY --workers 1 {redirection}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    first, code = done.stdout.splitlines()
    assert '"event":"worker.started"' in first
    assert code == "74"


def test_with_stdin_closed_sessions_work():
    """No socket may get the number of a standard stream."""
    closed_stdin = ("bash", "-c", f'exec {PROGRAM} "$@" <&-', "mprelay")
    with (
        listening() as server,
        Relay(server.getsockname(), command=closed_stdin) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive(target) == b"question"


def test_records_and_complaints_on_the_same_full_disk():
    """Neither kills the other: after the expiry a signal still ends it."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = subprocess.Popen(
            [PROGRAM, str(free_port()), "127.0.0.1", "9", "ANY", "--workers", "1", "--absolute-timeout", "3"],
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
        outlet.kill()  # it would try again for ever
    finally:
        process.kill()
        process.wait()


def test_a_target_that_accepts_and_resets_was_connected():
    """28 and then its reset, never "refused"; what it sent before is counted."""
    with listening() as server, Relay(server.getsockname()) as relay:
        stop = threading.Event()

        def answer_and_reset():
            while not stop.is_set():
                target = accept(server)
                target.send(b"sorry!")
                reset(target)

        answering = threading.Thread(target=answer_and_reset)
        answering.start()
        try:
            for _ in range(60):
                with relay.connect() as client:
                    assert ends_with_reset(client)
            relay.wait("session.closed", 60)
        finally:
            stop.set()
            connect(server.getsockname()).close()
            answering.join()
        ends = {(r["reason"], r["error"]) for r in relay.all("session.closed")}
        assert ends == {("target_read_closed", "ECONNRESET")}
        assert len(relay.all("session.connected")) == 60
        assert {r["bytes_from_target"] for r in relay.all("session.closed")} <= {0, 6}


def test_a_signal_while_many_workers_start_is_heard_at_once():
    """One worker is started a turn; who was not ready is ended without a word of alarm."""
    with Relay(("127.0.0.1", 9), workers=64, wait_active=False) as relay:
        eventually(lambda: len(relay.family()) > 2, "a worker, beside outlet and resource tracker")
        relay.process.send_signal(signal.SIGTERM)
        relay.wait("relay.draining")
        assert relay.finish() == 0
        assert len(relay.all("worker.exited")) < 64
        assert {r["level"] for r in relay.all("worker.exited")} == {"info"}
