"""What holds at the limits: the pool, dead and stopped workers, the absolute timeout, many and idle sessions."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from support.judge import moment
from support.peers import accept, echoing, ends_with_reset, listening, port_of, receive, reset, reset_arrives
from support.processes import open_files
from support.relay import Relay, open_sessions
from support.waiting import PATIENCE, eventually

MIB = 1 << 20


# -- the pool ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_files")
def test_exactly_500_of_520_get_in_and_then_exactly_as_many_as_leave():
    """The limit is global, over all workers; a slot that is given back is taken again, and no more than that."""
    with echoing() as server, Relay(server.getsockname(), workers=4) as relay, contextlib.ExitStack() as stack:
        clients = {}
        for _ in range(520):
            client = stack.enter_context(relay.connect(source="127.0.0.1"))
            clients[port_of(client)] = client
        relay.wait("connection.attempt", 520)
        relay.wait("session.target_channel_active", 500)
        refused = relay.all("connection.pool_exhausted")
        assert len(refused) == 20
        assert {500} == {record["active"] for record in refused}
        assert {21} == {record["msg_id"] for record in refused}
        assert Counter(record["worker"] for record in relay.all("session.connected")) == {
            1: 125,
            2: 125,
            3: 125,
            4: 125,
        }
        for record in refused:
            client = clients.pop(record["client_port"])
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        for number, (port, client) in enumerate(list(clients.items())[:100]):
            del clients[port]
            if number % 2:
                reset(client)
            else:
                client.shutdown(socket.SHUT_WR)
                assert receive(client) == b""
        relay.wait("session.closed", 100)
        for _ in range(150):
            client = stack.enter_context(relay.connect(source="127.0.0.1"))
            clients[port_of(client)] = client
        relay.wait("connection.attempt", 670)
        relay.wait("session.target_channel_active", 600)
        assert len(relay.all("connection.pool_exhausted")) == 70
        assert len(relay.all("connection.accepted")) == 600
        for record in relay.all("connection.pool_exhausted")[20:]:
            del clients[record["client_port"]]
        for client in clients.values():
            client.sendall(b"echo")
        assert [receive(client, 4) for client in clients.values()] == [b"echo"] * 500
        for client in clients.values():
            reset(client)
        relay.wait("session.closed", 600)
    assert tuple(relay.records[-1][name] for name in ("attempts", "exhausted", "admitted")) == (670, 70, 600)


def test_slots_that_were_given_back_are_free_for_those_who_came_later():
    """A supervisor that was busy (here: stopped) first hears which sessions ended, then judges who waits."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "40", workers=1) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 40)
        relay.process.send_signal(signal.SIGSTOP)
        try:
            for client, target in made:
                client.shutdown(socket.SHUT_WR)
                assert receive(target) == b""
                target.close()
                assert receive(client) == b""
            for _ in range(30):
                stack.enter_context(relay.connect(source="127.0.0.1"))
        finally:
            relay.process.send_signal(signal.SIGCONT)
        relay.wait("connection.attempt", 70)
        assert relay.all("connection.pool_exhausted") == []
        relay.wait("session.connected", 70)


# -- dead workers --------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_its_own_sessions_and_no_other():
    """Kill -9: worker_lost for its sessions, a reset for their peers, its slots and its place taken again."""
    options = ("--max-sessions", "12", "--stats-interval", "0.5")
    with listening() as server, Relay(server.getsockname(), *options, workers=3) as relay:
        with contextlib.ExitStack() as stack:
            made = open_sessions(stack, relay, server, 12)
            for number, (client, target) in enumerate(made):
                client.sendall(bytes(1000 + number))
                receive(target, 1000 + number)
                target.sendall(bytes(50 + number))
                receive(client, 50 + number)
            relay.ticks(6)  # the last known figures are at most seconds old
            victims = relay.held_by(2)
            assert len(victims) == 4
            pid = relay.workers()[2]
            os.kill(pid, signal.SIGKILL)
            relay.wait("session.closed", 4)
            exited = relay.wait("worker.exited")
            assert (2, pid, "SIGKILL", "error") == tuple(
                exited[name] for name in ("worker", "pid", "signal", "level")
            )
            for number, (client, target) in enumerate(made):
                if port_of(client) in victims:
                    assert ends_with_reset(client)
                    assert ends_with_reset(target)
                    closed = relay.wait("session.closed", client_port=port_of(client))
                    assert (closed["reason"], closed["worker"]) == ("worker_lost", 2)
                    assert (1000 + number, 50 + number) == (
                        closed["bytes_from_client"],
                        closed["bytes_from_target"],
                    )
                else:
                    client.sendall(b"unharmed")
                    assert receive(target, 8) == b"unharmed"
                    target.sendall(b"so am I")
                    assert receive(client, 7) == b"so am I"
            assert pid != relay.wait("worker.started", 2, worker=2)["pid"]
            of_worker = Counter()
            for _ in range(4):
                client = stack.enter_context(relay.connect())
                target = stack.enter_context(accept(server))
                client.sendall(b"new")
                assert receive(target, 3) == b"new"
                of_worker[relay.wait("session.connected", client_port=port_of(client))["worker"]] += 1
            assert len(of_worker) == 3, "a replacement gets its share, and not all because it is empty"
            stack.enter_context(relay.connect(source="127.0.0.1"))
            relay.wait("connection.pool_exhausted")
            assert len(relay.all("session.closed")) == 4
        relay.wait("session.closed", 16)


def test_all_workers_killed_at_once():
    """Every session is lost, each with one record; the relay lives on with new workers."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "8", workers=4) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 8)
        for pid in relay.workers().values():
            os.kill(pid, signal.SIGKILL)
        # While nobody is there it may wait or be refused, but it has its record.
        with relay.connect(source="127.0.0.1") as early:
            early_port = port_of(early)
            for client, target in made:
                assert ends_with_reset(client)
                assert ends_with_reset(target)
            relay.wait("worker.started", 8)
            relay.wait("connection.attempt", client_port=early_port)
            reset(early)
        relay.wait("session.closed", 8, reason="worker_lost")
        eventually(
            lambda: len(relay.all("connection.accepted")) == len(relay.all("session.closed")),
            "the early one is closed too",
        )
        server.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            server.accept()[0].close()  # the early one's, if it came so far
        server.settimeout(PATIENCE)
        so_far = len(relay.all("session.connected"))
        for client, target in [
            (stack.enter_context(relay.connect()), stack.enter_context(accept(server))) for _ in range(8)
        ]:
            client.sendall(b"again")
            assert receive(target, 5) == b"again"
        relay.wait("session.connected", so_far + 8)


def test_a_killed_worker_is_replaced_again_and_again():
    """Death after death, with a session each: no slot is lost, and each replacement comes later than the last."""
    with listening() as server, Relay(server.getsockname(), "--max-sessions", "1", workers=1) as relay:
        for turn in range(1, 5):
            relay.wait("worker.started", turn)
            with relay.connect() as client, accept(server) as target:
                relay.wait("session.target_channel_active", turn)
                os.kill(relay.workers()[1], signal.SIGKILL)
                assert ends_with_reset(client)
                assert ends_with_reset(target)
            relay.wait("session.closed", turn, reason="worker_lost")
        died = [moment(record["timestamp"]) for record in relay.all("worker.exited")[:3]]
        started = [moment(record["timestamp"]) for record in relay.all("worker.started")[1:]]
        pauses = [later - earlier for earlier, later in zip(died, started, strict=True)]
        assert all(pause > least for pause, least in zip(pauses, (1, 2, 4), strict=True)), pauses


def test_a_killed_supervisor_leaves_no_session_and_no_worker():
    """No relay without a record: the peers see resets, the workers end."""
    with (
        listening() as server,
        Relay(server.getsockname(), expect_code=-signal.SIGKILL, workers=3) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 6)
        family = relay.family()
        workers = [psutil.Process(pid) for pid in relay.workers().values()]
        assert len(workers) == 3
        relay.killed = True
        relay.process.kill()
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        _gone, alive = psutil.wait_procs({*family, *workers}, timeout=PATIENCE)
        assert alive == []
        with pytest.raises(ConnectionRefusedError):
            relay.connect()


def test_a_killed_supervisor_takes_stopped_workers_with_it():
    """A worker that does not run cannot see that its supervisor is gone: the kernel ends it."""
    with (
        listening() as server,
        Relay(server.getsockname(), expect_code=-signal.SIGKILL) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 4)
        workers = [psutil.Process(pid) for pid in relay.workers().values()]
        for worker in workers:
            worker.suspend()
        relay.killed = True
        relay.process.kill()
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []


# -- the absolute timeout ------------------------------------------------------------------------------------


def judge_expiry(relay: Relay, reasons: dict[str, int] | None = None) -> None:
    """23 and the end came at the absolute timeout, and within the second that the contract allows."""
    assert relay.finish() == 0
    ended = time.time()
    expires_at = moment(relay.wait("relay.active")["expires_at"])
    (expired,) = relay.all("relay.expired")
    last = relay.records[-1]
    assert (last["event"], last["reason"]) == ("relay.stopped", "expired")
    assert reasons is None or reasons == last["closed"]
    assert expires_at <= moment(expired["timestamp"])
    assert moment(last["timestamp"]) - expires_at <= 1.0
    assert ended - expires_at <= 2.0  # and the interpreter's own end


def test_expiry_with_a_stopped_worker():
    """A worker that does not move (SIGSTOP) holds nothing up, be its sessions old or just handed over."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "3") as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 6)
        os.kill(relay.workers()[1], signal.SIGSTOP)
        late = [stack.enter_context(relay.connect()) for _ in range(4)]
        relay.wait("session.allocated", 10)
        judge_expiry(relay, {"relay_expired": 10})
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert [ends_with_reset(client) for client in late] == [True] * 4


def test_expiry_with_every_worker_stopped():
    """Not one of them has to help."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "3") as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 4)
        for pid in relay.workers().values():
            os.kill(pid, signal.SIGSTOP)
        judge_expiry(relay, {"relay_expired": 4})
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)


def test_expiry_with_peers_that_do_not_read_and_with_quiet_ones():
    """Data stuck behind a peer does not hold it up either; a target that never answered does not."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "3") as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 4)
        half_closed = made[3][0]
        half_closed.shutdown(socket.SHUT_WR)
        for sender in (made[0][0], made[1][1]):
            sender.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    sender.send(bytes(MIB))
            sender.settimeout(PATIENCE)
        judge_expiry(relay, {"relay_expired": 4})
        assert reset_arrives(made[0][1])
        assert reset_arrives(made[1][0])
        for client, target in made[2:]:
            assert reset_arrives(client)
            assert reset_arrives(target)


def test_expiry_under_load():
    """New connections and data all the time, up to the end and over it."""
    over = threading.Event()

    def load(relay: Relay) -> None:
        held: list[socket.socket] = []
        with contextlib.ExitStack() as stack, contextlib.suppress(ConnectionRefusedError):
            while not over.is_set():
                held.append(stack.enter_context(relay.connect(source="127.0.0.1")))
                with contextlib.suppress(OSError):  # one that was not let in, or whose relay has expired
                    held[-1].sendall(b"x" * 1000)
                if len(held) > 50:
                    with held.pop(0) as oldest, contextlib.suppress(OSError):
                        oldest.recv(1000)

    with echoing() as server, Relay(server.getsockname(), "--absolute-timeout", "3") as relay:
        threads = [threading.Thread(target=load, args=(relay,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            judge_expiry(relay)
        finally:
            over.set()
            for thread in threads:
                thread.join(PATIENCE)
        last = relay.records[-1]
        assert last["closed"]["relay_expired"] > 0
        order = [record["event"] for record in relay.records]
        expired = order.index("relay.expired")
        reasons = {r["reason"] for r in relay.records[:expired] if r["event"] == "session.closed"}
        assert "relay_expired" not in reasons


# -- the drain -----------------------------------------------------------------------------------------------


def test_drain_with_a_stopped_worker():
    """Its sessions end with the drain time; those of the other worker may still finish."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", "1") as relay:
        with contextlib.ExitStack() as stack:
            made = open_sessions(stack, relay, server, 4)
            os.kill(relay.workers()[1], signal.SIGSTOP)
            stopped = relay.held_by(1)
            assert len(stopped) == 2
            relay.process.send_signal(signal.SIGTERM)
            assert relay.wait("relay.draining")["active"] == 4
            for client, target in made:
                if port_of(client) not in stopped:
                    client.sendall(b"the last words")
                    client.shutdown(socket.SHUT_WR)
                    assert receive(target) == b"the last words"
                    target.close()
                    assert receive(client) == b""
            assert relay.finish() == 0
            for client, target in made:
                if port_of(client) in stopped:
                    assert ends_with_reset(client)
                    assert ends_with_reset(target)
        last = relay.records[-1]
        assert last["closed"] == {"requester_read_closed": 2, "drained": 2}
        assert last["reason"] == "signal"
        assert moment(last["timestamp"]) - moment(relay.wait("relay.draining")["timestamp"]) >= 1.0


def test_drain_with_a_stopped_worker_that_has_no_session():
    """Nothing is left to finish: the relay is drained, although that worker cannot answer."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", "60") as relay:
        os.kill(relay.workers()[2], signal.SIGSTOP)
        assert relay.stop() == 0
        assert (relay.records[-1]["reason"], relay.records[-1]["closed"]) == ("drained", {})


# -- many, and idle ------------------------------------------------------------------------------------------


def test_ten_thousand_short_connections_leave_nothing_behind():
    """Descriptors of every process end where they began; memory too, but for noise."""
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
    """How often each process went to sleep so far, all its threads together (proc_pid_status)."""
    found = {}
    for process in processes:
        count = 0
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
        found[process.pid] = count
    return found


def nobody_wakes(relay: Relay) -> None:
    """While nothing happens no process goes to sleep a second time."""
    processes = [psutil.Process(relay.process.pid), *relay.family()]
    pause = threading.Event()
    pause.wait(1.5)  # what was counted in the last second is still reported
    before = switches(processes)
    pause.wait(2.0)
    assert before == switches(processes)


@pytest.mark.usefixtures("many_files")
def test_500_idle_sessions_take_no_cpu():
    """Nobody wakes up for them."""
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


@contextlib.contextmanager
def echoing_elsewhere():
    """The address of a target that sends back what it gets, in another process: its descriptors are its own."""
    code = """if True:
        import asyncio, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.data_received = transport.write
        async def serve():
            server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=4096)
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()
        asyncio.run(serve())
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.usefixtures("many_files")
def test_ten_thousand_sessions_at_once():
    """All of them relay, the next is refused, nobody wakes up for them, and each has its record."""
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


# -- relay.stats ---------------------------------------------------------------------------------------------


def test_stats_match_reality():
    """Counts, and for the supervisor and each worker pid, CPU, memory, descriptors and sessions."""
    options = ("--stats-interval", "0.3", "--max-sessions", "5")
    with (
        echoing() as server,
        Relay(server.getsockname(), *options, workers=3) as relay,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(relay.connect()) for _ in range(5)]
        relay.wait("session.target_channel_active", 5)
        stack.enter_context(relay.connect(source="127.0.0.1"))
        relay.wait("connection.pool_exhausted")
        relay.ticks(2)
        stats = relay.all("relay.stats")[-1]
        assert (stats["active"], stats["max_sessions"]) == (5, 5)
        assert tuple(stats[n] for n in ("attempts", "rejected", "exhausted", "admitted")) == (6, 0, 1, 5)
        assert relay.process.pid == stats["supervisor"]["pid"]
        assert relay.workers() == {figures["worker"]: figures["pid"] for figures in stats["worker_stats"]}
        load = Counter(record["worker"] for record in relay.all("session.allocated"))
        assert load == {figures["worker"]: figures["sessions"] for figures in stats["worker_stats"]}
        for figures in (stats["supervisor"], *stats["worker_stats"]):
            real = psutil.Process(figures["pid"])
            assert figures["cpu_percent"] >= 0
            assert figures["rss"] == pytest.approx(real.memory_info().rss, rel=0.2)
            assert abs(figures["fds"] - open_files(figures["pid"])) <= 1
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert receive(client) == b""
        relay.wait("session.closed", 5)
        relay.wait("relay.stats", active=0)
        empty = relay.all("relay.stats", active=0)[-1]
        assert [figures["sessions"] for figures in empty["worker_stats"]] == [0, 0, 0]
        files = [sum(f["fds"] for f in record["worker_stats"]) for record in (stats, empty)]
        assert files[0] - files[1] == 10, "two descriptors for each session"


def test_stats_count_the_bytes_of_open_sessions_too():
    """A transfer that takes hours is seen before its end."""
    with echoing() as server, Relay(server.getsockname(), "--stats-interval", "0.1") as relay:
        with relay.connect() as client:
            client.sendall(b"first")
            assert receive(client, 5) == b"first"
            assert relay.wait("relay.stats", bytes_from_client=5, bytes_from_target=5)["active"] == 1
            client.sendall(b"more")
            assert receive(client, 4) == b"more"
            client.shutdown(socket.SHUT_WR)
            assert receive(client) == b""
        assert relay.wait("relay.stats", bytes_from_client=9, bytes_from_target=9)["active"] == 0


def test_stats_show_the_work_of_a_busy_worker():
    """The worker that moves bytes has a CPU share; its record tells which one it is."""
    with echoing() as server, Relay(server.getsockname(), "--stats-interval", "0.3") as relay:
        with relay.connect() as client:
            worker = relay.wait("session.connected")["worker"]
            client.settimeout(PATIENCE)
            busy = None
            block = bytes(65536)
            deadline = time.monotonic() + PATIENCE
            while busy is None:
                assert time.monotonic() < deadline
                for _ in range(50):
                    client.sendall(block)
                    receive(client, len(block))
                for stats in relay.all("relay.stats"):
                    (figures,) = (f for f in stats["worker_stats"] if f["worker"] == worker)
                    busy = figures if figures["cpu_percent"] > 1 else busy
            assert busy["sessions"] == 1
            client.shutdown(socket.SHUT_WR)
            assert receive(client) == b""
        relay.wait("session.closed")
