"""An unexpected exception is recorded with its place, and the process ends in a defined way."""

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest
from support.launching import KILLED_BY_RELAY, PYTHON_EXE
from support.params import slow
from support.patches import (
    QUEUE,
    RECORD_CLOSED,
    RECORD_LOST,
    RECORD_UNEXPECTED,
    REPORT,
    SESSION_BEGINS,
    SESSION_HEARS,
    replaced,
    with_site,
)
from support.peers import accept, echo, ends_with_reset, listening, receive
from support.relay import Relay
from support.waiting import PATIENCE, eventually


@pytest.mark.slow
def test_an_exception_in_a_worker_costs_only_that_worker(tmp_path):
    """Its sessions are lost. Another worker takes its place, and serves."""
    code = f"""
def broken(self, *what):
    if self.serial == 1:
        raise ZeroDivisionError("by a test")
    whole(self, *what)
open({str(tmp_path / "used")!r}, "w").close()
"""
    env = with_site(tmp_path, replaced(SESSION_HEARS, code))
    with listening() as server, Relay(server.getsockname(), env=env, workers=1) as relay:
        assert relay.knock().reset
        crash = relay.wait("internal.error")
        assert (crash["worker"], crash["error"]) == (1, "ZeroDivisionError: by a test")
        assert crash["place"].endswith(" broken")
        died = relay.wait("worker.exited")
        assert (died["exitcode"], died["level"]) == (70, "error")
        assert relay.wait("session.closed")["reason"] == "worker_lost"
        relay.wait("worker.started", 2)
        accept(server).close()
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x")
            assert receive(target, 1) == b"x"
    assert (tmp_path / "used").exists()


def test_a_worker_that_crashes_with_half_a_character(tmp_path):
    code = replaced(SESSION_BEGINS, 'def broken(*given):\n    raise RuntimeError("\\udcff")')
    with listening() as server, Relay(server.getsockname(), env=with_site(tmp_path, code), workers=1) as relay:
        assert relay.knock().reset or PYTHON_EXE  # Wine ends a connection that no worker has prepared yet
        assert relay.wait("internal.error")["error"] == "RuntimeError: \\udcff"


LIES = {
    "no frame": '"all is well"',
    "a session that never was": "[(3, 999, 1.0, 1.0, None, None, 0, 0)]",
    "an end, twice": "[(3, 1, 1.0, 1.0, 'idle_timeout', None, 0, 0)] * 2",
    "a connection of nobody": "[(1, 999, 1.0, 1.0)]",
    "a connection, twice": "[(1, 1, 1.0, 1.0)]",
    "bytes of nobody": "[(2, -5, 1, 1)]",
    "ready again": "[(0, 1.0, 'build')]",
    "a relay that is over long before its time": "[(3, 1, 1.0, 1.0, 'relay_expired', None, 0, 0)]",
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", [*list(LIES)[:3], *slow(*list(LIES)[3:])])
def test_a_worker_with_an_impossible_report_is_ended(tmp_path, lie):
    """The report is rejected and the worker's sessions end.

    Another takes its place, and the rest is unaffected.
    """
    code = f"""
def report(self, frame):
    whole(self, frame)
    if any(event[:2] == (1, 1) for event in frame):
        whole(self, {LIES[lie]})
"""
    env = with_site(tmp_path, replaced(REPORT, code, "report"))
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "600", env=env) as relay,
    ):
        assert relay.knock().reset
        accept(server).close()
        error = relay.wait("internal.error")
        worker = relay.wait("session.allocated")["worker"]
        assert error["worker"] == worker
        died = relay.wait("worker.exited")
        assert died["worker"] == worker
        assert died == died | KILLED_BY_RELAY
        relay.wait("worker.started", 3)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        relay.stop()
        assert len(relay.all("internal.error")) == len(relay.all("worker.exited", level="error")) == 1


@pytest.mark.slow
def test_a_worker_that_crashes_without_end(tmp_path):
    """Only its first report counts.

    It gets no further session, and is killed because it does not end by itself.
    """
    code = f"""
def broken(self, *given):
    while True:
        try:
            {QUEUE}.put([(4, 1.0, "place", "again and again")] * 24)
        except BlockingIOError:
            pass
"""
    options, env = ("--max-sessions", "1"), with_site(tmp_path, replaced(SESSION_BEGINS, code))
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        assert relay.knock().reset or PYTHON_EXE
        assert relay.wait("internal.error")["error"] == "again and again"
        relay.wait("worker.exited", **KILLED_BY_RELAY)
        relay.wait("worker.started", 3)
        assert len(relay.all("internal.error")) == 1


@pytest.mark.posix("SIGSTOP")
def test_a_crash_report_that_finds_no_room_waits_for_it(tmp_path):
    """The supervisor is stopped, and the channel up is full. Once it goes on, it reads why the worker ended."""
    code = f"""
import os, signal
def broken(self, ticket, client):
    os.kill(os.getppid(), signal.SIGSTOP)
    try:
        while True:
            {QUEUE}.put([(2, ticket.serial, 1, 1, 1, 1)])
    except BlockingIOError:
        open({str(tmp_path / "full")!r}, "w").close()
    raise ZeroDivisionError("by a test")
"""
    env = with_site(tmp_path, replaced(SESSION_BEGINS, code))
    with (
        listening() as server,
        Relay(server.getsockname(), env=env, workers=1) as relay,
        relay.connect() as client,
    ):
        worker = psutil.Process(relay.workers()[1])
        eventually((tmp_path / "full").exists, "the way up is full")
        resting = {psutil.STATUS_SLEEPING, psutil.STATUS_ZOMBIE}
        eventually(lambda: worker.status() in resting, "it waits, or is gone")
        relay.resume()
        assert ends_with_reset(client)
        assert relay.wait("internal.error")["error"] == "ZeroDivisionError: by a test"
        assert relay.wait("worker.exited")["exitcode"] == 70
        assert relay.wait("session.closed")["reason"] == "worker_lost"


@pytest.mark.posix("/proc")
@pytest.mark.slow
def test_a_worker_that_lives_on_without_its_sentinel(tmp_path):
    """No process waits for it: the absolute timeout comes."""
    code = """
import multiprocessing, os
def broken(*given):
    os.close(multiprocessing.parent_process().sentinel)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            if descriptor > 2 and os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe"):
                os.close(descriptor)
        except OSError:
            pass
"""
    options, env = ("--absolute-timeout", "5"), with_site(tmp_path, replaced(SESSION_BEGINS, code))
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        assert relay.knock().reset
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "expired"


CHILDREN = {
    "quiet": ("", "signal.pause()"),
    "talks without end": (
        "while select.select([], [self.writer], [], 0)[1]: pass",  # until there is no room in the queue
        "talk(self, [(2, 1, 1, 1)] * 400)",  # below PIPE_BUF, and longer to read than to write
    ),
}


@pytest.mark.posix("fork(2)")
@pytest.mark.slow
@pytest.mark.parametrize("does", CHILDREN)
def test_a_worker_that_leaves_a_child_behind(tmp_path, does):
    """The child holds the channel up open too, so its end of file never comes. The relay goes on without it."""
    before, without_end = CHILDREN[does]
    code = f"""
import os, select, signal
def talk(self, frame):
    try:
        whole(self, frame)
    except BlockingIOError:
        pass
def report(self, frame):
    whole(self, frame)
    if any(event[:2] == (1, 1) for event in frame):
        child = os.fork()
        if child:
            {before}
            os._exit(1)
        open({str(tmp_path / "child")!r}, "w").write(str(os.getpid()))
        os.closerange(0, self.writer.fileno())
        os.closerange(self.writer.fileno() + 1, 1000)
        while True:
            {without_end}
"""
    child = tmp_path / "child"
    env = with_site(tmp_path, replaced(REPORT, code, "report"))
    with listening() as server, Relay(server.getsockname(), env=env) as relay:
        relay.allow("internal.error")  # a child that talks may be taken for the worker
        try:
            assert relay.knock().reset
            accept(server).close()
            relay.wait("worker.started", 3)
            with relay.connect() as client, accept(server) as target:
                echo(client, target)
            assert relay.stop() == 0
        finally:
            eventually(lambda: child.exists() and child.read_text(), "the child has said who it is")
            with contextlib.suppress(ProcessLookupError):  # one that talks ends without a reader
                os.kill(int(child.read_text()), signal.SIGKILL)


@pytest.mark.posix("/proc")
def test_without_ctypes_it_works(tmp_path):
    """A stopped worker may then outlive a killed supervisor. Nothing else is different."""
    code = f"""
import os, sys
sys.modules["_ctypes"] = None
open({str(tmp_path)!r} + f"/without.{{os.getpid()}}", "w").close()
"""
    with (
        listening() as server,
        Relay(server.getsockname(), env=with_site(tmp_path, code)) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        for pid in (relay.process.pid, relay.outlet().pid, *relay.workers().values()):
            assert (tmp_path / f"without.{pid}").exists()
            assert "_ctypes" not in Path(f"/proc/{pid}/maps").read_text()


def broken_supervisor(tmp_path, place):
    """An environment in which the supervisor fails once, where it writes a record."""
    code = f"""
def broken(*given):
    {".".join(place)} = whole
    raise ZeroDivisionError("by a test")
"""
    return with_site(tmp_path, replaced(place, code))


def ends_with_70(relay, server):
    """One of two sessions ends, and the supervisor fails while recording that.

    The other session ends by a reset.
    """
    with relay.connect() as one, accept(server) as target, relay.connect() as other, accept(server):
        relay.wait("session.target_channel_active", 2)
        target.close()
        one.close()
        assert relay.finish() == 70
        assert ends_with_reset(other)


def nothing_lives_on(relay, server):
    """The same if the records are incomplete: each process that the relay started is gone."""
    relay.killed = True
    family = relay.family()
    ends_with_70(relay, server)
    assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []


def test_an_exception_in_the_supervisor_ends_the_relay_with_70(tmp_path):
    """Every session is closed in the records, every worker has ended, and relay.stopped is the last record."""
    env = broken_supervisor(tmp_path, RECORD_CLOSED)
    with listening() as server, Relay(server.getsockname(), env=env, expect_code=70) as relay:
        ends_with_70(relay, server)
        (error,) = relay.all("internal.error")
        assert (error["error"], error["worker"]) == ("ZeroDivisionError: by a test", None)
        assert relay.records[-1]["reason"] == "failed"
        assert relay.records[-1]["closed"] == {"worker_lost": 2}


def test_an_exception_during_the_burial_of_a_worker_ends_the_relay_with_70(tmp_path):
    """In that moment the worker is neither alive nor forgotten."""
    env = broken_supervisor(tmp_path, RECORD_LOST)
    with (
        listening() as server,
        Relay(server.getsockname(), env=env, expect_code=70, workers=1) as relay,
        relay.connect(),
        accept(server),
    ):
        relay.wait("session.target_channel_active")
        relay.worker(1).kill()
        assert relay.finish() == 70
        assert relay.all("internal.error")[0]["error"] == "ZeroDivisionError: by a test"
        assert relay.records[-1]["closed"] == {"worker_lost": 1}


@pytest.mark.slow
def test_an_exception_that_cannot_be_recorded_is_reported_on_stderr(tmp_path):
    """The relay must not go on without records. It reports the exception on stderr, and no process is left."""
    broken = 'def broken(*given):\n    raise MemoryError("by a test")'
    env = with_site(tmp_path, replaced(RECORD_CLOSED, broken) + replaced(RECORD_UNEXPECTED, broken))
    with listening() as server, Relay(server.getsockname(), env=env, expect_code=None, quiet=False) as relay:
        nothing_lives_on(relay, server)
        assert relay.errors.startswith("mprelay: MemoryError: by a test at ")


@pytest.mark.slow
def test_an_exception_that_cannot_be_described_ends_the_relay(tmp_path):
    """An exception whose text raises another one still ends everything."""
    code = """
class Unspeakable(Exception):
    def __str__(self):
        raise Unspeakable
def broken(*given):
    raise Unspeakable
"""
    env = with_site(tmp_path, replaced(RECORD_CLOSED, code))
    with listening() as server, Relay(server.getsockname(), env=env, expect_code=None, quiet=False) as relay:
        nothing_lives_on(relay, server)
