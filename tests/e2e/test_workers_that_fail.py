"""Workers that cannot start, belong to another build, or do not answer. The relay goes on with the others."""

import importlib.util
import os
import re
import resource
import shutil
import sys
from pathlib import Path

import psutil
import pytest
from support.launching import PYTHON_EXE
from support.params import slow
from support.patches import (
    IN_A_WORKER,
    IN_CHILDREN,
    IN_SUPERVISOR,
    LATE_LIMIT,
    RELAY_RUN,
    START_LIMIT,
    UPGRADES,
    assigned,
    breakable,
    with_site,
)
from support.peers import accept, answering, echo, ends_with_reset, listening
from support.processes import limit, open_files, opened
from support.relay import Relay
from support.waiting import eventually, pass_time

import mprelay
from mprelay.channel.build import BUILD

DEPENDENCIES = ("orjson", "psutil", "structlog")


@pytest.fixture
def package(tmp_path):
    """A copy of the package that can be changed and moved, with its dependencies and nothing else beside it."""
    site = tmp_path / "site"
    site.mkdir()
    for name in () if PYTHON_EXE else DEPENDENCIES:  # Windows' Python has its own
        (site / name).symlink_to(Path(importlib.util.find_spec(name).origin).parent)
    copy = site / "mprelay"
    shutil.copytree(Path(mprelay.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def from_copy(server, package, *options, **given):
    """A relay that runs the copy, on a Python without another copy. Its workers may complain on stderr."""
    env = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    if not PYTHON_EXE:
        given["command"] = (sys._base_executable, "-m", "mprelay")
    return Relay(server.getsockname(), *options, env=env, cwd=package.parent, quiet=False, **given)


def one_session(relay, server):
    """One more client is served."""
    with relay.connect() as client, accept(server) as target:
        echo(client, target)


# -- that cannot be started ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.posix("a package in one place; the Python under Wine finds another copy")
def test_the_package_is_gone_for_a_while(package):
    """The other worker goes on, and the records report the failure.

    Once the package is back, the worker is too.
    """
    with (
        listening() as server,
        from_copy(server, package) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        busy = relay.wait("session.connected")["worker"]
        away = package.rename(package.with_name("away"))
        relay.worker(3 - busy).kill()
        failed = relay.wait("worker.start_failed", 3)
        assert (failed["worker"], failed["error"], failed["tries"]) == (3 - busy, None, 3)
        how = "ended before it was ready (exit code 1): ModuleNotFoundError: No module named 'mprelay'"
        assert failed["detail"] == how
        echo(client, target)
        one_session(relay, server)
        away.rename(package)
        assert relay.wait("worker.started", 3)["worker"] == 3 - busy
        one_session(relay, server)
        echo(client, target)
    assert relay.wait("relay.stopped")["reason"] == "drained"


@pytest.mark.slow
def test_starts_are_retried_for_ever_while_another_worker_is_ready(tmp_path):
    """There are more tries than at the relay's start.

    The relay ends when no worker is left and none can be started.
    """
    broken, env = breakable(tmp_path, "os._exit(9)")
    with listening() as server, Relay(server.getsockname(), expect_code=70, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            busy = relay.wait("session.connected")["worker"]
            broken.touch()
            relay.worker(3 - busy).kill()
            assert relay.wait("worker.start_failed", 7)["again_in_s"] == 6.4
            echo(client, target)
            relay.worker(busy).kill()
            assert ends_with_reset(client)
            relay.finish()
        failed = relay.all("pool.start_failed")[0]
        how = r"worker [12] ended before it was ready \(exit code 9\), \d+ times in a row"
        assert re.fullmatch(how, failed["detail"]), failed
        tried = {n: len(relay.all("worker.start_failed", worker=n)) for n in (busy, 3 - busy)}
        assert tried[3 - busy] >= 7
        assert tried[busy] >= 5
        assert relay.records[-1]["closed"] == {"worker_lost": 1}


@pytest.mark.posix("RLIMIT_NOFILE")
@pytest.mark.slow
def test_a_supervisor_without_descriptors_cannot_replace_a_worker():
    """The record has the errno, nothing leaks, and once descriptors are free the worker comes back."""
    with (
        listening() as server,
        Relay(server.getsockname()) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        busy = relay.wait("session.connected")["worker"]
        files = open_files(relay.process.pid)
        with limit(relay.process.pid, resource.RLIMIT_NOFILE, 3):
            relay.worker(3 - busy).kill()
            failed = relay.wait("worker.start_failed", 4)
            assert failed["error"] == "EMFILE"
            assert failed["detail"].startswith("could not be started: ")
            echo(client, target)
        relay.wait("worker.started", 3)
        assert open_files(relay.process.pid) == files
        one_session(relay, server)


@pytest.mark.slow
def test_no_start_is_tried_while_the_log_stands_still(tmp_path):
    """Each try makes records that are not read. No client is admitted either, so the worker is not needed."""
    tries = tmp_path / "tries"
    note = f"os.write(os.open({str(tries)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x'); os._exit(9)"
    broken, env = breakable(tmp_path, note)
    options = ("--stats-interval", "0", "--label", "padding=" + "x" * 1000)
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        one_session(relay, server)
        broken.touch()
        with answering(server):
            relay.stall()
        before = len(relay.family())
        relay.worker(1).kill()
        eventually(lambda: len(relay.family()) < before, "it is buried")
        pass_time(2.5)
        assert not tries.exists()
        relay.reading.set()
        relay.wait("worker.start_failed", 2)
        broken.unlink()
        relay.wait("worker.started", 3)


# -- of another build ----------------------------------------------------------------------------------------


SEEN = {
    "version": rf"is of another build: 9\..*, this relay is {BUILD}",
    "order of fields": rf"is of another build: {mprelay.__version__} .*, this relay is {BUILD}",
    "form of a ticket": rf"is of another build: .*, this relay is {BUILD}",
    "first report": "is perhaps of another build, its first report was none: NotEvents: .*",
    "name of an argument's class": r"ended before it was ready \(exit code 1\): AttributeError: .*'Settings'.*",
}
"""The detail of the record, by the change in the package."""


OTHER_UPGRADES = [name for name in UPGRADES if name not in {"version", "first report"}]


@pytest.mark.slow
@pytest.mark.parametrize("upgrade", ["version", "first report", *slow(*OTHER_UPGRADES)])
def test_a_worker_of_another_build_gets_no_session(package, upgrade):
    """It is never ready, the records name its build, and the others go on.

    With the old build it is ready again.
    """
    name, old, new = UPGRADES[upgrade]
    with (
        listening() as server,
        from_copy(server, package) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        busy = relay.wait("session.connected")["worker"]
        changed = (package / name).read_text()
        assert old in changed
        (package / name).write_text(changed.replace(old, new, 1))
        relay.worker(3 - busy).kill()
        relay.wait("worker.start_failed", 2)
        for failed in relay.all("worker.start_failed"):
            assert re.fullmatch(SEEN[upgrade], failed["detail"]), failed["detail"]
            assert failed["worker"] == 3 - busy
        echo(client, target)
        one_session(relay, server)
        assert {busy} == {record["worker"] for record in relay.all("session.allocated")}
        (package / name).write_text(changed)
        relay.wait("worker.started", 3)
        assert not relay.all("internal.error")


# -- that do not answer --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.wall_clock("the time after which a worker is late")
def test_a_worker_that_goes_on_in_time_loses_nothing():
    """A client that waits while every worker is late is served when they have caught up. Nothing is recorded."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--connect-timeout", "2", workers=1) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        pid = relay.workers()[1]
        relay.worker(1).suspend()
        with relay.connect() as early:
            relay.wait("session.allocated", 2)
            supervisor = psutil.Process(relay.process.pid)
            pass_time(2.5)
            with relay.connect() as late:
                used = sum(supervisor.cpu_times()[:2])
                pass_time(1.0)
                assert sum(supervisor.cpu_times()[:2]) - used < 0.1
                assert len(relay.all("connection.attempt")) == 2
                relay.worker(1).resume()
                with accept(server) as its_target, accept(server) as other:
                    echo(early, its_target)
                    echo(late, other)
                    echo(client, target)
        assert {1: pid} == relay.workers()
        assert not relay.all("worker.unresponsive")


@pytest.mark.slow
@pytest.mark.wall_clock("the time after which a worker is late")
def test_a_supervisor_that_stood_still_reads_its_workers_reports_first(tmp_path):
    """A replacement was ready long ago, and a session was reported, so neither is overdue."""
    code = f"{assigned(LATE_LIMIT, '1.0')}\n    {assigned(START_LIMIT, '2.0')}"
    env = with_site(tmp_path, IN_SUPERVISOR + code)
    with (
        listening() as server,
        Relay(server.getsockname(), "--idle-timeout", "2", env=env) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        busy = relay.wait("session.connected")["worker"]
        known = {process.pid for process in relay.family()}
        relay.worker(3 - busy).kill()
        eventually(lambda: {process.pid for process in relay.family()} - known, "a replacement")
        relay.suspend()
        for _ in range(20):
            pass_time(0.25)
            echo(client, target)
        relay.resume()
        (replacement,) = {process.pid for process in relay.family()} - known
        started = relay.wait("worker.started", 3)
        assert PYTHON_EXE or started["pid"] == replacement
        for _ in range(8):
            pass_time(0.25)
            echo(client, target)
        assert not relay.all("worker.unresponsive")
        assert len(relay.all("worker.exited")) == 1


# -- whose cause is known ------------------------------------------------------------------------------------

CAUSES = {
    "an interpreter that cannot begin": (
        "os.write(2, b'ld.so: no such library\\n\\n'); os._exit(127)",
        "exit code 127): ld.so: no such library",
    ),
    "a module that cannot be imported": (
        "sys.modules['orjson'] = None",
        "exit code 1): ModuleNotFoundError: import of orjson halted; None in sys.modules",
    ),
    "a call that the entry point makes": (
        "signal.signal = lambda *_: 1 / 0",
        "exit code 1): ZeroDivisionError: division by zero",
    ),
    "much to say": (
        "[os.write(2, b'x' * 1000) for _ in range(50)]; os.write(2, b'\\n' + b'y' * 500); os._exit(3)",
        "exit code 3): " + "y" * 120,
    ),
    "a signal, and nothing said": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL)"),
}


@pytest.mark.posix("descriptors 1 and 2 of a worker")
@pytest.mark.slow
@pytest.mark.alone("six starts of a worker within the ten seconds of the relay's start")
@pytest.mark.parametrize("cause", CAUSES)
def test_the_reason_that_no_worker_can_start_is_recorded(tmp_path, cause):
    """The workers' own messages also appear on stderr."""
    how, detail = CAUSES[cause]
    env = with_site(tmp_path, IN_CHILDREN + IN_A_WORKER.format(how))
    with Relay(("127.0.0.1", 9), workers=1, wait_active=False, expect_code=70, quiet=False, env=env) as relay:
        relay.finish()
        failed = relay.wait("pool.start_failed")["detail"]
        assert failed == f"worker 1 ended before it was ready ({detail}, 6 times in a row"
        said = detail.partition("): ")[2]
        assert relay.errors.count(said) >= 6 if said else relay.errors == ""


@pytest.mark.posix("descriptors 1 and 2 of a worker")
def test_a_warning_of_a_worker_that_becomes_ready(tmp_path):
    """The warning appears on stderr, and so do the worker's later messages. No record has either."""
    module, run = RELAY_RUN
    late = f"import {module} as module; run = module.{run}; "
    late += f"module.{run} = lambda self: (os.write(2, b'later\\n'), run(self))"
    env = with_site(tmp_path, IN_CHILDREN + IN_A_WORKER.format("os.write(2, b'a warning\\n'); " + late))
    with listening() as server, Relay(server.getsockname(), quiet=False, env=env, workers=1) as relay:
        one_session(relay, server)
        assert opened(relay.workers()[1], 0) == opened(relay.process.pid, 2)
        assert opened(relay.workers()[1], 2) == opened(relay.process.pid, 2)
    assert sorted(relay.errors.splitlines()) == ["a warning", "later"]
