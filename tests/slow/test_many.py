"""Thousands of sessions: at once, one after another, idle, and with their worker killed."""

import contextlib
import resource
import socket
from pathlib import Path

import psutil
import pytest
from support.launching import KILLED_WORKER
from support.peers import accept, echoing, echoing_elsewhere, listening, receive, reset
from support.processes import open_files
from support.relay import Relay
from support.waiting import eventually, pass_time

pytestmark = [pytest.mark.slow, pytest.mark.alone("memory, wake-ups, and most of the descriptors there are")]

MIB = 1 << 20


def test_ten_thousand_short_connections_leave_nothing_behind():
    """Each process ends with as many descriptors as it began with, and with as much memory, apart from noise."""
    options = ("--log-detail", "session", "--stats-interval", "0")
    with echoing() as server, Relay(server.getsockname(), *options) as relay:
        processes = [psutil.Process(relay.process.pid), *relay.family()]
        assert len(processes) >= 3
        files = {process.pid: open_files(process.pid) for process in processes}
        expected = len(relay.records)
        memory = {}

        def connect(count: int) -> None:
            nonlocal expected
            for number in range(count):
                with relay.connect() as client:
                    client.send(b"hello")
                    assert client.recv(16) == b"hello"
                    if number % 4 == 0:
                        reset(client)
            expected += count
            eventually(lambda: len(relay.records) == expected, "a record for each")

        connect(2000)
        for process in processes:
            memory[process.pid] = process.memory_info().rss
        connect(8000)
        assert files == {process.pid: open_files(process.pid) for process in processes}
        growth = {process.pid: process.memory_info().rss - memory[process.pid] for process in processes}
        assert max(growth.values()) < 2 * MIB, growth
    assert relay.records[-1]["admitted"] == 10_000
    assert 50_000 == relay.records[-1]["bytes_from_client"] == relay.records[-1]["bytes_from_target"]


def switches(processes: list[psutil.Process]) -> dict[int, int]:
    """How often each process has gone to sleep so far, summed over its threads (proc_pid_status)."""
    found = {}
    for process in processes:
        count = 0
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
        found[process.pid] = count
    return found


def nobody_wakes(relay: Relay) -> None:
    """While nothing happens, no process wakes up."""
    processes = [psutil.Process(relay.process.pid), *relay.family()]
    pass_time(1.5)  # progress of the last second is still reported
    before = switches(processes)
    pass_time(2.0)
    assert before == switches(processes)


@pytest.mark.usefixtures("many_files")
def test_500_idle_sessions_take_no_cpu():
    with echoing() as server, Relay(server.getsockname(), "--stats-interval", "0") as relay:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(relay.connect()) for _ in range(500)]
            for client in clients[::5]:
                client.sendall(b"once")
                assert receive(client, 4) == b"once"
            relay.wait("session.target_channel_active", 500)
            nobody_wakes(relay)
            for client in clients:
                client.shutdown(socket.SHUT_WR)
            for client in clients:
                assert receive(client) == b""
        relay.wait("session.closed", 500, reason="requester_read_closed")


@pytest.mark.posix("more than 512 sockets in one select(2)")
@pytest.mark.usefixtures("many_files")
def test_ten_thousand_sessions_at_once():
    """All of them relay, the next is refused, no process wakes up for them, and each has its record."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10_500:
        pytest.skip(f"needs 10 500 open files in one process; the hard limit is {hard} (ulimit -Hn)")
    options = ("--max-sessions", "10000", "--log-detail", "session", "--stats-interval", "0")
    with echoing_elsewhere() as target, Relay(target, *options) as relay:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(relay.connect()) for _ in range(10_000)]
            for client in clients:
                client.sendall(b"here")
            assert [receive(client, 4) for client in clients] == [b"here"] * 10_000
            with relay.connect(source="127.0.0.1"):
                assert relay.wait("connection.pool_exhausted")["active"] == 10_000
            nobody_wakes(relay)
        relay.wait("session.closed", 10_000, reason="requester_read_closed")
    assert relay.records[-1]["admitted"] == 10_000


@pytest.mark.posix("more than 512 sockets in one select(2)")
def test_a_worker_that_is_killed_in_the_middle_of_reporting(many_files):
    """The supervisor is stopped, so some of the worker's reports are in the channel, and others not yet sent."""
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
            relay.suspend()
            for sock in (*clients, *targets):
                sock.close()
        eventually(lambda: open_files(pid) <= at_rest + 2, "all sessions are over in the worker")
        relay.worker(1).kill()
        relay.resume()
        relay.wait("session.closed", count)
        heard = relay.all("session.closed", reason="worker_lost")
        assert 0 < len(heard) < count
        relay.wait("worker.exited", pid=pid, **KILLED_WORKER)
        relay.wait("worker.started", 2)
