"""Workers that cannot be started, or are of another build: the relay goes on with the others."""

import contextlib
import importlib.util
import os
import re
import resource
import shutil
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest
from harness import (
    Relay,
    accept,
    answering,
    echo,
    ends_with_reset,
    eventually,
    limit,
    listening,
    open_files,
    receive,
    with_site,
)

import mprelay
from mprelay.worker import BUILD

IN_WORKERS = "import os, signal, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n    "
IN_SUPERVISORS = "import sys\nif '--multiprocessing-fork' not in sys.orig_argv:\n    "
DEPENDENCIES = ("orjson", "psutil", "structlog")


@pytest.fixture
def package(tmp_path):
    """A copy of the package that can be changed and moved, beside what it needs and nothing else."""
    site = tmp_path / "site"
    site.mkdir()
    for name in DEPENDENCIES:
        (site / name).symlink_to(Path(importlib.util.find_spec(name).origin).parent)
    copy = site / "mprelay"
    shutil.copytree(Path(mprelay.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def from_copy(server, package, *options, **given):
    """A relay that runs the copy, by a Python that has no other. Its workers may complain on stderr."""
    env = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (sys._base_executable, "-m", "mprelay")
    return Relay(
        server.getsockname(), *options, command=command, env=env, cwd=package.parent, quiet=False, **given
    )


def breakable(tmp_path, how):
    """A file, and an environment in which workers that start while it exists do `how`."""
    broken = tmp_path / "broken"
    return broken, with_site(tmp_path, IN_WORKERS + f"if os.path.exists({str(broken)!r}): {how}")


def one_session(relay, server):
    """One more client is served."""
    with relay.connect() as client, accept(server) as target:
        echo(client, target)


# -- that cannot be started ----------------------------------------------------------------------------------


def test_the_package_is_gone_for_a_while(package):
    """The other worker serves on, the records tell; when the package is back so is the worker."""
    with (
        listening() as server,
        from_copy(server, package) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        busy = relay.wait("session.connected")["worker"]
        away = package.rename(package.with_name("away"))
        os.kill(relay.workers()[3 - busy], signal.SIGKILL)
        failed = relay.wait("worker.start_failed", 3)
        assert (failed["worker"], failed["error"], failed["tries"]) == (3 - busy, None, 3)
        assert failed["detail"] == "ended before it was ready (exit code 1)"
        echo(client, target)
        one_session(relay, server)
        away.rename(package)
        assert relay.wait("worker.started", 3)["worker"] == 3 - busy
        one_session(relay, server)
        echo(client, target)
    assert relay.wait("relay.stopped")["reason"] == "drained"


def test_it_is_tried_for_ever_while_another_is_ready(tmp_path):
    """More often than the start of the relay would; then, as soon as no worker is left, the relay ends."""
    broken, env = breakable(tmp_path, "os._exit(9)")
    with listening() as server, Relay(server.getsockname(), expect_code=70, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            busy = relay.wait("session.connected")["worker"]
            broken.touch()
            os.kill(relay.workers()[3 - busy], signal.SIGKILL)
            assert relay.wait("worker.start_failed", 8)["again_in_s"] == 12.8
            echo(client, target)
            os.kill(relay.workers()[busy], signal.SIGKILL)
            assert ends_with_reset(client)
            relay.finish()
        failed = relay.all("pool.start_failed")[0]
        assert failed["detail"] == f"worker {3 - busy} ended before it was ready (exit code 9), 9 times in a row"
        assert relay.records[-1]["closed"] == {"worker_lost": 1}


def test_a_supervisor_without_descriptors_cannot_replace_a_worker():
    """The errno is in the record; nothing leaks; with descriptors the worker comes back."""
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
            os.kill(relay.workers()[3 - busy], signal.SIGKILL)
            failed = relay.wait("worker.start_failed", 4)
            assert failed["error"] == "EMFILE"
            assert failed["detail"].startswith("could not be started: ")
            echo(client, target)
        relay.wait("worker.started", 3)
        assert open_files(relay.process.pid) == files
        one_session(relay, server)


def test_nothing_is_tried_while_the_log_stands_still(tmp_path):
    """Each try makes records, and nobody takes them; nobody is admitted either, so the worker is not needed."""
    tries = tmp_path / "tries"
    note = f"os.write(os.open({str(tries)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x'); os._exit(9)"
    broken, env = breakable(tmp_path, note)
    options = ("--stats-interval", "0", "--label", "padding=" + "x" * 1000)
    with listening() as server, Relay(server.getsockname(), *options, env=env) as relay:
        one_session(relay, server)
        broken.touch()
        relay.reading.clear()
        with answering(server):
            while admitted(relay):
                pass
        victim = psutil.Process(relay.workers()[1])
        victim.kill()
        eventually(lambda: victim.pid not in [process.pid for process in relay.family()], "it is buried")
        threading.Event().wait(2.5)
        assert not tries.exists()
        relay.reading.set()
        relay.wait("worker.start_failed", 2)
        broken.unlink()
        relay.wait("worker.started", 3)


def admitted(relay):
    """Whether a client is served, and does not have to wait."""
    with relay.connect() as client:
        client.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            return receive(client) == b""
    return False


# -- of another build ----------------------------------------------------------------------------------------

UPGRADES = {
    "version": ("__init__.py", '"0.', '"9.', rf"is of another build: 9\..*, this relay is {BUILD}"),
    "order of fields": (
        "events.py",
        "    connect_timeout: float  # seconds, from admission\n    idle_timeout: float",
        "    idle_timeout: float  # seconds, from admission\n    connect_timeout: float",
        rf"is of another build: {mprelay.__version__} .*, this relay is {BUILD}",
    ),
    "form of a ticket": ("handoff.py", '"<Qd"', '"<dQ"', rf"is of another build: .*, this relay is {BUILD}"),
    "first report": (
        "worker.py",
        "Ready(time.time(), BUILD)",
        "Ready(BUILD, time.time())",
        "is perhaps of another build, its first report was none: NotEvents: .*",
    ),
    "name of an argument's class": (
        "events.py",
        "class Settings(NamedTuple)",
        "class Setup(NamedTuple)",
        r"ended before it was ready \(exit code 1\)",
    ),
}


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_a_worker_of_another_build_gets_no_session(package, upgrade):
    """It is never ready, the records say what it is, and the others serve on; the old build is ready again."""
    name, old, new, detail = UPGRADES[upgrade]
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
        os.kill(relay.workers()[3 - busy], signal.SIGKILL)
        relay.wait("worker.start_failed", 2)
        for failed in relay.all("worker.start_failed"):
            assert re.fullmatch(detail, failed["detail"]), failed["detail"]
            assert failed["worker"] == 3 - busy
        echo(client, target)
        one_session(relay, server)
        assert {busy} == {record["worker"] for record in relay.all("session.allocated")}
        (package / name).write_text(changed)
        relay.wait("worker.started", 3)
        assert not relay.all("internal.error")
