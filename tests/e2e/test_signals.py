"""Signals, masks and timers from outside: inherited from the starting process, or sent to the relay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.judge import parse
from support.params import slow
from support.peers import accept, echo, free_port, listening
from support.relay import PROGRAM, Relay
from support.waiting import eventually

pytestmark = pytest.mark.posix("signals, masks and timers")

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)
OFTEN = [*STOP[:2], *slow(*STOP[2:])]
DEADLY = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    16,  # SIGSTKFLT, which has no name before Python 3.11
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""Signals that end a process by default, and do not indicate a fault of the program itself (signal(7))."""


def started_with(code: str) -> tuple[str, ...]:
    """A command that runs `code` in its own process and then becomes the relay."""
    become = "import os, signal, sys\n" + code + "\nos.execv(sys.argv[1], sys.argv[1:])"
    return (sys.executable, "-c", become, PROGRAM)


def masks(pid: int) -> dict[str, int]:
    """The signal masks of a process: proc_pid_status(5), by SigBlk, SigIgn and SigCgt."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: int(value, 16)
        for name, value in (line.split(":") for line in lines if line.startswith("Sig"))
        if name != "SigQ"
    }


def has(mask: int, number: int) -> bool:
    """Whether a signal is in a mask."""
    return bool(mask >> (number - 1) & 1)


def test_children_that_are_not_waited_for():
    """SIGCHLD was ignored, so the kernel would discard how a worker ended. The relay still reports it."""
    command = started_with("signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    with listening() as server, Relay(server.getsockname(), command=command) as relay:
        with relay.connect() as client, accept(server) as target:
            busy = relay.wait("session.allocated")["worker"]
            relay.worker(3 - busy).kill()
            assert relay.wait("worker.exited")["signal"] == "SIGKILL"
            relay.wait("worker.started", 3)
            echo(client, target)
        assert relay.stop() == 0
        assert relay.records[-1]["reason"] == "drained"


@pytest.mark.parametrize("number", OFTEN)
def test_every_signal_was_blocked(number):
    """The signal is still handled, and no process of the relay blocks signals that it did not choose to block."""
    command = started_with("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())")
    with listening() as server, Relay(server.getsockname(), command=command) as relay:
        for pid in (relay.process.pid, *relay.workers().values()):
            assert masks(pid)["SigBlk"] == 0
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            relay.signal(number)
            assert relay.wait("relay.draining")["signal"] == number.name
            echo(client, target)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "drained"


@pytest.mark.slow
def test_timers_that_are_running():
    """An alarm that was set before the start does not end the relay."""
    command = started_with("signal.setitimer(signal.ITIMER_REAL, 2)")
    with Relay(("127.0.0.1", 9), "--stats-interval", "0.5", command=command) as relay:
        relay.wait("relay.stats", 5)


def test_signals_that_mean_nothing():
    """They end neither the supervisor nor a worker nor multiprocessing's helper."""
    with (
        listening() as server,
        Relay(server.getsockname()) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        for number in DEADLY:
            for process in (relay.process, *relay.family()):
                os.kill(process.pid, number)
        for pid in relay.workers().values():
            for number in STOP:
                os.kill(pid, number)
        echo(client, target)
        with relay.connect() as other, accept(server) as its_target:
            echo(other, its_target)
        assert len(relay.family()) == 4  # two workers, the outlet, and multiprocessing's helper
        assert relay.all("worker.exited") == []


@pytest.mark.parametrize("number", OFTEN)
def test_the_whole_process_group(number):
    """Workers, outlet and multiprocessing's helper ignore the signals that a terminal sends to the group."""
    with listening() as server, Relay(server.getsockname(), start_new_session=True) as relay:
        family = relay.family()
        assert len(family) == 4
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            for process in family:
                now = masks(process.pid)
                assert has(now["SigIgn"] | now["SigBlk"], number), process.cmdline()
            os.killpg(relay.process.pid, number)
            relay.wait("relay.draining")
            echo(client, target)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "drained"
        assert {record["level"] for record in relay.all("worker.exited")} == {"info"}


def test_a_hang_up_that_is_ignored_stays_ignored():
    """nohup(1) relies on that."""
    command = started_with("signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    with listening() as server, Relay(server.getsockname(), command=command) as relay:
        relay.signal(signal.SIGHUP)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert relay.stop() == 0
        assert relay.wait("relay.draining")["signal"] == "SIGTERM"


def blocks(pid: int) -> bool:
    """The first line of the program has run."""
    now = masks(pid)
    return has(now["SigBlk"] | now["SigCgt"], signal.SIGTERM)


def imports(pid: int) -> bool:
    """The process is still importing modules."""
    return "orjson" in Path(f"/proc/{pid}/maps").read_text()


def hears(pid: int) -> bool:
    """The process has signal handlers."""
    return has(masks(pid)["SigCgt"], signal.SIGQUIT)


def has_a_child(pid: int) -> bool:
    """The process has begun to start others."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.parametrize("number", OFTEN)
@pytest.mark.parametrize("moment", [blocks, imports, hears, has_a_child])
def test_a_signal_in_the_first_moments(number, moment):
    """The signal is recorded, and there is no traceback."""
    args = [PROGRAM, str(free_port()), "127.0.0.1", "9", "ANY", "--workers", "2"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: moment(process.pid), moment.__doc__)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, b"")
    records = parse(out)
    assert [r["signal"] for r in records if r["event"] == "relay.draining"] == [number.name]
    assert (records[-1]["event"], records[-1]["reason"]) == ("relay.stopped", "drained")
