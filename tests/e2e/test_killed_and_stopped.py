"""Workers that are killed in the midst of something, and a supervisor that stands still."""

import contextlib
import os
import signal
import threading

import pytest
from support.peers import accept, echo, ends_with_reset, listening, receive, silent
from support.processes import open_files
from support.relay import Relay
from support.waiting import eventually


def has_died(relay: Relay, pid: int, number: int) -> None:
    """The record of a worker's death, and another worker in its place."""
    exited = relay.wait("worker.exited", pid=pid)
    assert (exited["level"], exited["signal"]) == ("error", signal.Signals(number).name)
    relay.wait("worker.started", len(relay.all("worker.exited")) + len(relay.workers()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_while_it_connects(number):
    """Its session is lost, and was never connected."""
    with silent() as (server, _filler), Relay(server.getsockname()) as relay, relay.connect() as client:
        worker = relay.wait("session.allocated")["worker"]
        pid = relay.workers()[worker]
        os.kill(pid, number)
        assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["worker"], closed["connect_ms"]) == ("worker_lost", worker, None)
        has_died(relay, pid, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_in_a_bulk_transfer(number):
    """Both peers see a reset; what is known of the bytes is not more than there were."""
    with listening() as server, Relay(server.getsockname()) as relay, relay.connect() as client:
        sent = 0

        def flood() -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                while True:
                    sent += client.send(bytes(1 << 20))

        with accept(server) as target:
            flooding = threading.Thread(target=flood)
            flooding.start()
            receive(target, 64 << 20)
            pid = relay.workers()[relay.wait("session.allocated")["worker"]]
            os.kill(pid, number)
            assert ends_with_reset(target)
            flooding.join()
        closed = relay.wait("session.closed")
        assert closed["reason"] == "worker_lost"
        assert closed["bytes_from_client"] <= sent
        has_died(relay, pid, number)


def test_a_worker_that_is_killed_in_the_middle_of_reporting(many_files):
    """Nobody hears it (the supervisor is stopped), so a part of its reports is on the way, and a part not yet."""
    if many_files < 7000:
        pytest.skip(f"a limit of {many_files} open files")
    count = 3000
    with (
        listening(backlog=4096) as server,
        Relay(server.getsockname(), "--max-sessions", str(count), "--log-detail", "session", workers=1) as relay,
    ):
        (pid,) = relay.workers().values()
        with contextlib.ExitStack() as stack:
            at_rest = open_files(pid)
            clients = [stack.enter_context(relay.connect()) for _ in range(count)]
            targets = [stack.enter_context(accept(server)) for _ in range(count)]
            for target in targets:
                target.sendall(b"x")
            for client in clients:
                assert receive(client, 1) == b"x"
            relay.process.send_signal(signal.SIGSTOP)
            for sock in (*clients, *targets):
                sock.close()
        eventually(lambda: open_files(pid) <= at_rest + 2, "all sessions are over in the worker")
        os.kill(pid, signal.SIGKILL)
        relay.process.send_signal(signal.SIGCONT)
        relay.wait("session.closed", count)
        heard = relay.all("session.closed", reason="worker_lost")
        assert 0 < len(heard) < count
        has_died(relay, pid, signal.SIGKILL)


def test_sessions_go_on_while_the_supervisor_is_stopped():
    """They need it only to begin; who comes meanwhile waits."""
    with (
        listening() as server,
        Relay(server.getsockname()) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        relay.process.send_signal(signal.SIGSTOP)
        with relay.connect() as late:
            for _ in range(3):
                echo(client, target)
            relay.process.send_signal(signal.SIGCONT)
            with accept(server) as other:
                late.sendall(b"late")
                assert receive(other, 4) == b"late"


def test_workers_keep_the_absolute_timeout_while_the_supervisor_is_stopped():
    """And when it goes on all is as if it had been there."""
    with listening() as server, Relay(server.getsockname(), "--absolute-timeout", "3") as relay:
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x")
            assert receive(target, 1) == b"x"
            relay.process.send_signal(signal.SIGSTOP)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.process.send_signal(signal.SIGCONT)
        assert relay.finish() == 0
        assert relay.wait("session.closed")["reason"] == "relay_expired"
        assert relay.records[-1]["reason"] == "expired"
