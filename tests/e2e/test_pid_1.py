"""As PID 1 of a container the relay is the parent of every orphan, and reaps them as well as its own children."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from support.peers import accept, echo, listening
from support.relay import PROGRAM, Relay
from support.waiting import eventually

pytestmark = pytest.mark.posix("PID 1")


def pid_inside(process):
    """A process's number in the innermost namespace that it belongs to."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


class Container(Relay):
    """A relay in a PID namespace of its own, as PID 1. Skips the test if this user may not create one."""

    def __init__(self, tool, server, *options, **given):
        unshare = (tool("unshare"), "--fork", "--kill-child", "--pid", "--mount-proc")
        if os.geteuid():
            unshare += ("--map-root-user",)
        probe = subprocess.run([*unshare, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip(f"no PID namespace to be had: {probe.stderr.decode().strip()}")
        super().__init__(server.getsockname(), *options, command=(*unshare, PROGRAM), **given)

    def __enter__(self):
        super().__enter__()
        (self.init,) = psutil.Process(self.process.pid).children()
        return self

    def stop(self, number=signal.SIGTERM):
        """Signal the relay itself. unshare passes its exit code on."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.init.send_signal(number)
        return self.finish()

    def worker(self, number):
        """The process of a worker, which the records name by its number inside."""
        (found,) = [child for child in self.init.children() if pid_inside(child) == self.workers()[number]]
        return found

    def run(self, tool, script):
        """Run a script inside."""
        enter = (tool("nsenter"), "--target", str(self.init.pid), "--pid", "--mount")
        subprocess.run([*enter, tool("sh"), "-c", script], check=True)

    def zombies(self):
        """The processes that have ended and were not reaped."""
        return [child for child in self.init.children() if child.status() == psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_orphans_are_reaped_and_the_exits_of_workers_are_not_stolen(tool):
    """500 orphans end while workers are killed. No zombie stays, and each worker.exited has the true signal."""
    with listening() as server, Container(tool, server, workers=3) as relay:
        assert relay.wait("relay.active")["pid"] == 1
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        killed = []
        for turn, number in enumerate((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)):
            relay.run(tool, "for i in $(seq 84); do (sleep 0.1 & exit 0); (true & exit 0); done")
            victim, pid = relay.worker(turn + 1), relay.workers()[turn + 1]
            victim.send_signal(number)
            killed.append((pid, number.name))
            relay.wait("worker.exited", turn + 1)
        relay.wait("worker.started", 6)
        eventually(lambda: len(relay.init.children()) == 5, "three workers, an outlet, a tracker")
        assert relay.zombies() == []
        assert [(record["pid"], record["signal"]) for record in relay.all("worker.exited")] == killed
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
    assert not relay.all("internal.error")
    assert {record["exitcode"] for record in relay.all("worker.exited")[3:]} == {0}


def test_the_resource_tracker_may_be_killed(tool):
    """It is reaped as well, and the next worker brings a new one."""
    with listening() as server, Container(tool, server, quiet=False) as relay:
        (tracker,) = [child for child in relay.init.children() if "resource_tracker" in " ".join(child.cmdline())]
        tracker.kill()
        eventually(lambda: len(relay.init.children()) == 3, "it is waited for")
        relay.worker(1).kill()
        relay.wait("worker.started", 3)
        assert relay.zombies() == []
    assert relay.errors == ""


def test_orphans_of_a_relay_whose_log_stands_still(tool):
    """They are reaped even at its very end, when it only waits for the reader of its records."""
    with listening() as server, Container(tool, server, "--label", "padding=" + "x" * 1000) as relay:
        relay.reading.clear()
        for _ in range(30):
            with relay.connect() as client, accept(server) as target:
                echo(client, target)
        relay.init.terminate()
        eventually(lambda: len(relay.init.children()) == 2, "an outlet and a tracker are left")
        relay.run(tool, "for i in $(seq 10); do (true & exit 0); done")
        eventually(lambda: len(relay.init.children()) == 2, "all are waited for")
        assert relay.zombies() == []
        relay.reading.set()
        assert relay.finish() == 0
