"""Workers that die and are replaced, and a supervisor that stands still."""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter

import pytest
from support.judge import moment
from support.launching import KILLED_WORKER
from support.patches import first_in_workers, with_site
from support.peers import accept, echo, ends_with_reset, listening, port_of, receive, reset, silent
from support.processes import connects_to
from support.relay import NOWHERE, Relay, open_sessions
from support.waiting import PATIENCE, eventually

# -- killed --------------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_its_own_sessions_and_no_other():
    """Kill -9: worker_lost for its sessions, a reset for their peers, its slots freed and its place taken."""
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
            relay.worker(2).kill()
            relay.wait("session.closed", 4)
            relay.wait("worker.exited", worker=2, pid=pid, level="error", **KILLED_WORKER)
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
            assert len(of_worker) == 3, "a replacement gets its share, not all sessions because it is empty"
            stack.enter_context(relay.connect(source="127.0.0.1"))
            relay.wait("connection.pool_exhausted")
            assert len(relay.all("session.closed")) == 4
        relay.wait("session.closed", 16)


@pytest.mark.slow
def test_all_workers_killed_at_once():
    """Every session is lost, each with one record. The relay goes on with new workers."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "8", workers=4) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 8)
        for number in relay.workers():
            relay.worker(number).kill()
        # Without a worker the client may wait or be refused, but it has its record.
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
            server.accept()[0].close()  # the early client's, if it came so far
        server.settimeout(PATIENCE)
        so_far = len(relay.all("session.connected"))
        for client, target in [
            (stack.enter_context(relay.connect()), stack.enter_context(accept(server))) for _ in range(8)
        ]:
            client.sendall(b"again")
            assert receive(target, 5) == b"again"
        relay.wait("session.connected", so_far + 8)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_again_and_again():
    """Each death costs a session. No slot is lost, and each replacement comes later than the one before."""
    with listening() as server, Relay(server.getsockname(), "--max-sessions", "1", workers=1) as relay:
        for turn in range(1, 5):
            relay.wait("worker.started", turn)
            with relay.connect() as client, accept(server) as target:
                relay.wait("session.target_channel_active", turn)
                relay.worker(1).kill()
                assert ends_with_reset(client)
                assert ends_with_reset(target)
            relay.wait("session.closed", turn, reason="worker_lost")
        died = [moment(record["timestamp"]) for record in relay.all("worker.exited")[:3]]
        started = [moment(record["timestamp"]) for record in relay.all("worker.started")[1:]]
        pauses = [later - earlier for earlier, later in zip(died, started, strict=True)]
        assert all(pause > least for pause, least in zip(pauses, (1, 2, 4), strict=True)), pauses


def die(relay: Relay, pid: int, number: int) -> None:
    """End a worker by a signal."""
    if number == signal.SIGKILL:
        relay.member(pid).kill()
    else:
        os.kill(pid, number)


def has_died(relay: Relay, pid: int, number: int) -> None:
    """A worker's death is recorded, and another worker takes its place."""
    how = KILLED_WORKER if number == signal.SIGKILL else {"signal": signal.Signals(number).name}
    relay.wait("worker.exited", pid=pid, level="error", **how)
    relay.wait("worker.started", len(relay.all("worker.exited")) + len(relay.workers()))


DEADLY = [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.posix("SIGSEGV"))]


@pytest.mark.parametrize("number", DEADLY)
def test_a_worker_that_dies_while_it_connects(number):
    """Its session is lost, and was never connected."""
    with silent() as (server, _filler), Relay(server.getsockname()) as relay, relay.connect() as client:
        worker = relay.wait("session.allocated")["worker"]
        pid = relay.workers()[worker]
        eventually(lambda: connects_to(server.getsockname()[1]), "the worker tries to connect")
        die(relay, pid, number)
        assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["worker"], closed["connect_ms"]) == ("worker_lost", worker, None)
        has_died(relay, pid, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", DEADLY)
def test_a_worker_that_dies_in_a_bulk_transfer(number):
    """Both peers see a reset. The recorded bytes do not exceed the actual ones."""
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
            die(relay, pid, number)
            assert ends_with_reset(target)
            flooding.join()
        closed = relay.wait("session.closed")
        assert closed["reason"] == "worker_lost"
        assert closed["bytes_from_client"] <= sent
        has_died(relay, pid, number)


# -- replaced ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_replacement_that_hangs_at_its_start_delays_nothing():
    """Its channels got the numbers of the dead worker's. An old event once made the supervisor wait for it."""
    with listening() as server, Relay(server.getsockname(), "--absolute-timeout", "8", workers=2) as relay:
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x")
            receive(target, 1)
            busy = relay.wait("session.allocated")["worker"]
            known = {process.pid for process in relay.family()}
            relay.worker(3 - busy).kill()
            eventually(lambda: {p.pid for p in relay.family()} - known, "another worker")
            for process in relay.family():
                if process.pid not in known:
                    process.suspend()
            client.sendall(b"y")
            assert receive(target, 1) == b"y"
            relay.wait("relay.expired")
            assert ends_with_reset(client)
        assert relay.finish() == 0


@pytest.mark.posix("removing a directory that is in use")
def test_the_working_directory_may_go_away():
    """The replacement of a worker still works, and the other workers are unaffected."""
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
        relay.worker(3 - busy).kill()
        relay.wait("worker.started", 3)
        client.sendall(b"y")
        assert receive(target, 1) == b"y"


def failed(code: int, *options: str, **given) -> list[dict]:
    """Run a relay that cannot start. Judge its end, and return its records without the last one."""
    with Relay(NOWHERE, *options, wait_active=False, expect_code=code, **given) as relay:
        relay.finish()
    *records, last = relay.records
    assert (last["event"], last["reason"]) == ("relay.stopped", "failed")
    assert not relay.all("relay.active")
    return records


@pytest.mark.slow
def test_workers_that_cannot_be_replaced_end_the_run(tmp_path):
    """Record 14 and exit 70, because the pool cannot be kept alive.

    Each session of the dead worker has its record.
    """
    broken = tmp_path / "broken"
    env = with_site(tmp_path, first_in_workers(f"os.path.exists({str(broken)!r}) and os._exit(9)"))
    with listening() as server, Relay(server.getsockname(), workers=1, expect_code=70, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            broken.touch()
            relay.worker(1).kill()
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.finish()
        assert relay.records[-1]["reason"] == "failed"
        assert [relay.process.returncode, relay.all("pool.start_failed")[0]["msg_id"]] == [70, 14]
        assert relay.records[-1]["closed"] == {"worker_lost": 1}


# -- a supervisor that stands still --------------------------------------------------------------------------


def test_sessions_go_on_while_the_supervisor_is_stopped():
    """Sessions need it only to begin, so new clients wait."""
    with (
        listening() as server,
        Relay(server.getsockname()) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        relay.suspend()
        with relay.connect() as late:
            for _ in range(3):
                echo(client, target)
            relay.resume()
            with accept(server) as other:
                late.sendall(b"late")
                assert receive(other, 4) == b"late"
