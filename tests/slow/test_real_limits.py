"""Limits of ten seconds and more, in real time: a start that hangs, a worker that does not answer."""

import contextlib

import pytest
from support.judge import moment
from support.launching import KILLED_WORKER
from support.patches import (
    IN_SUPERVISOR,
    START_LIMIT,
    assigned,
    breakable,
    first_in_workers,
    instead_of_the_outlet,
    with_site,
)
from support.peers import accept, echo, ends_with_reset, listening
from support.relay import NOWHERE, Relay, failed_start
from support.waiting import PATIENCE, pass_time

pytestmark = pytest.mark.slow


def test_a_worker_that_hangs_at_its_start_ends_the_run(tmp_path):
    """Record 14 after the start limit, and the worker is killed."""
    env = with_site(tmp_path, first_in_workers("__import__('time').sleep(600)"))
    records = failed_start(70, workers=1, env=env)
    assert [record["msg_id"] for record in records].count(14) == 1


@pytest.mark.wall_clock("six seconds for each worker")
def test_workers_that_start_slowly_have_their_time_each(tmp_path):
    """On a slow machine they come one after the other. Together they may take longer than one may."""
    turn = tmp_path / "turn"
    turn.touch()
    wait = "fcntl.flock(file, fcntl.LOCK_EX); time.sleep(2); file.close()"
    slow = f"import fcntl, time; file = open({str(turn)!r}); {wait}"
    limits = IN_SUPERVISOR + assigned(START_LIMIT, "6.0")
    env = with_site(tmp_path, first_in_workers(slow) + limits)
    with Relay(NOWHERE, workers=5, env=env) as relay:
        first, last = (moment(relay.wait("worker.started", count)["timestamp"]) for count in (1, 5))
        assert last - first > 6


ONE_HANGS = """
import os, threading
def begin(place):
    try:
        os.mkdir(place)
    except FileExistsError:
        threading.Timer(5.2, os._exit, [1]).start()  # a crash after five seconds is not put off
    else:
        threading.Event().wait()
"""


@pytest.mark.wall_clock("six seconds without another one that is ready")
def test_a_worker_that_is_replaced_again_and_again_is_no_progress(tmp_path):
    """Another one hangs in its start."""
    begin = first_in_workers(f"begin({str(tmp_path / 'hangs')!r})")
    env = with_site(tmp_path, ONE_HANGS + begin + IN_SUPERVISOR + assigned(START_LIMIT, "6.0"))
    with Relay(NOWHERE, wait_active=False, expect_code=70, env=env) as relay:
        relay.allow("worker.exited")
        detail = "not every worker was ready, and nothing had become ready for 6 seconds"
        assert failures(relay) == [("pool.start_failed", "ETIMEDOUT", detail)]
        assert relay.all("worker.exited", signal=None)


def failures(relay):
    """The records of a run that failed to start, without the last one."""
    relay.finish()
    *records, last = relay.records
    assert (last["event"], last["reason"]) == ("relay.stopped", "failed")
    return [(record["event"], record["error"], record["detail"]) for record in records if "detail" in record]


def test_an_outlet_that_hangs_at_its_start(tmp_path):
    """Record 14 after the start limit, and the outlet is killed."""
    env = with_site(tmp_path, instead_of_the_outlet("__import__('time').sleep(600)"))
    with Relay(NOWHERE, wait_active=False, expect_code=70, env=env) as relay:
        detail = "the outlet was not ready, and nothing had become ready for 10 seconds"
        assert failures(relay) == [("pool.start_failed", "ETIMEDOUT", detail)]


@pytest.mark.wall_clock("the ten seconds after which a worker is killed")
def test_a_stopped_worker_gets_no_new_sessions_and_is_then_replaced():
    """New sessions stop once a report is overdue. Ten seconds later the worker is killed.

    The other one is unaffected.
    """
    with (
        listening() as server,
        Relay(server.getsockname(), "--connect-timeout", "1") as relay,
        relay.connect() as client,
        accept(server) as target,
        contextlib.ExitStack() as stack,
    ):
        echo(client, target)
        busy = relay.wait("session.connected")["worker"]
        pid = relay.workers()[3 - busy]
        relay.worker(3 - busy).suspend()
        count = 1
        while not relay.all("worker.unresponsive"):
            count += 1
            fresh = stack.enter_context(relay.connect())
            if relay.wait("session.allocated", count)["worker"] == busy:
                echo(fresh, stack.enter_context(accept(server)))
            pass_time(0.05)  # all of these sessions stay open, and there are 500 slots
        said = relay.wait("worker.unresponsive")
        assert (said["worker"], said["pid"], said["level"]) == (3 - busy, pid, "error")
        assert 11.25 <= said["silent_s"] < 12
        allocated = [record for record in relay.all("session.allocated") if record["worker"] != busy]
        first, last = (moment(allocated[index]["timestamp"]) for index in (0, -1))
        assert len(allocated) > 5
        assert last - first <= 1.5, "a worker with an overdue report gets no more sessions"
        died = relay.wait("worker.exited")
        assert died == died | KILLED_WORKER | {"pid": pid}
        relay.wait("worker.started", 3)
        relay.wait("session.closed", len(allocated), reason="worker_lost", worker=3 - busy)
        echo(client, target)


@pytest.mark.wall_clock("the ten seconds after which a worker is killed")
def test_a_stopped_worker_with_an_idle_session_is_detected_while_draining():
    """The idle timeout detects it. The session is lost, so the drain need not wait for its end."""
    options = ("--idle-timeout", "1", "--drain-timeout", "3600")
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            worker = relay.wait("session.connected")["worker"]
            pid = relay.workers()[worker]
            relay.worker(worker).suspend()
            relay.signal()
            relay.wait("relay.draining")
            said = relay.wait("worker.unresponsive")
            assert (said["worker"], said["pid"]) == (worker, pid)
            assert 12.25 <= said["silent_s"] < 14
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert (relay.records[-1]["reason"], relay.records[-1]["closed"]) == ("drained", {"worker_lost": 1})


def one_session(relay, server):
    """One more client is served."""
    with relay.connect() as client, accept(server) as target:
        echo(client, target)


@pytest.mark.wall_clock("the ten seconds of a start")
def test_a_replacement_that_hangs_before_it_is_ready(tmp_path):
    """It is killed, and another one is started. Until that is ready the statistics show no worker."""
    broken, env = breakable(tmp_path, "__import__('time').sleep(600)")
    with listening() as server, Relay(server.getsockname(), "--stats-interval", "1", env=env, workers=1) as relay:
        broken.touch()
        relay.worker(1).kill()
        relay.wait("worker.exited")
        relay.wait("relay.stats", len(relay.all("relay.stats")) + 3)
        assert relay.all("relay.stats")[-1]["worker_stats"] == []
        assert 20 <= relay.wait("worker.unresponsive", patience=20 + PATIENCE)["silent_s"] < 21
        broken.unlink()
        assert relay.wait("worker.start_failed")["detail"] == "was not ready after 10 seconds"
        relay.wait("worker.started", 2)
        one_session(relay, server)
