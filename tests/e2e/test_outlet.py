"""Whatever the readers of stdout and stderr do, the listener closes and what the outlet has got is written."""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import psutil
import pytest
from support.judge import check_run, moment, parse
from support.launching import KILLED, PYTHON_EXE, TICKING
from support.patches import instead_of_the_outlet, with_site
from support.peers import (
    accept,
    answering,
    echo,
    ends_with_reset,
    fill,
    is_shut,
    listening,
    receive,
)
from support.processes import end_within, links, opened
from support.relay import NOWHERE, Relay
from support.waiting import PATIENCE, eventually, read_until


def one_session(relay):
    """One session from beginning to end, with a target that ends each session."""
    with relay.connect() as client:
        assert receive(client) == b""


def holders(what):
    """The processes that have this pipe open."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if what in links(process.pid).values():
                found.add(process.pid)
    return found


# -- a collector that forwards with splice(2) ----------------------------------------------------------------


class Splicer:
    """A collector that splices its input to a TCP connection within the kernel, and that connection's far end.

    While the far end stands still, splice(2) holds the pipe's mutex. A process that writes to the pipe then
    waits for the mutex in a way that no signal interrupts.
    """

    CODE = """
import os, socket, sys
with socket.socket() as far:
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    far.connect(("127.0.0.1", int(sys.argv[1])))
    while os.splice(0, far.fileno(), 65536):
        pass
"""

    def __init__(self):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(listening())
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader, self.stdout = os.pipe()
            stack.callback(os.close, reader)
            command = [sys.executable, "-c", self.CODE, str(server.getsockname()[1])]
            self.process = subprocess.Popen(command, stdin=reader)
            self.far = accept(server)

    def stand_still(self):
        """Send more than its connection takes. A process that writes to its pipe now may wait for ever."""
        os.write(self.stdout, b"." * 60_000 + b"\n")
        os.close(self.stdout)
        self.stdout = None
        eventually(lambda: self._arrived() > 0, "it has begun to move them")

    def _arrived(self):
        return struct.unpack("i", fcntl.ioctl(self.far, termios.FIONREAD, bytes(4)))[0]

    def go_on(self):
        """Read everything to the end; return the records."""
        lines = receive(self.far).splitlines(keepends=True)
        return parse(b"".join(line for line in lines if not line.startswith(b".")))

    def close(self):
        """Leave nothing behind."""
        self.far.close()  # ends its splice(2), and the outlet's wait
        self.process.kill()
        self.process.wait()
        if self.stdout is not None:
            os.close(self.stdout)


@pytest.fixture
def splicer():
    """A collector that splices its input to a TCP connection."""
    collector = Splicer()
    yield collector
    collector.close()


@contextlib.contextmanager
def stalled(splicer, *options, **given):
    """A relay with one session, whose collector stands still: (relay, its outlet, client)."""
    with (
        listening() as server,
        Relay(server.getsockname(), *options, stdout=splicer.stdout, quiet=False, **given) as relay,
    ):
        first = read_until(splicer.far.fileno(), b"relay.active")
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            outlet = relay.outlet()
            splicer.stand_still()
            with relay.connect() as late, accept(server) as other:
                echo(late, other)  # only the outlet waits for stdout
            echo(client, target)
            yield relay, outlet, client, first


@pytest.mark.posix("splice(2)")
@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_the_absolute_timeout_comes_while_a_collector_holds_the_pipe(splicer):
    """Listener and sessions end in time. A signal ends the process.

    The records are written once the collector reads again.
    """
    with stalled(splicer, "--absolute-timeout", "5", expect_code=74) as (relay, outlet, client, first):
        assert ends_with_reset(client)
        head = parse(first[: first.rfind(b"\n") + 1])
        active = next(record for record in head if record["event"] == "relay.active")
        assert time.time() - moment(active["expires_at"]) < 1
        assert is_shut(relay.port)
        for _ in range(2):
            relay.signal()
        assert relay.process.wait(PATIENCE) == 74
        assert outlet.is_running()
        records = head + splicer.go_on()
        check_run(records)
        assert records[-1]["reason"] == "expired"
        assert records[-1]["closed"]["relay_expired"] >= 1
        assert psutil.wait_procs([outlet], PATIENCE)[1] == []
        assert f"process {outlet.pid} still writes what it has" in relay_errors(relay)


def relay_errors(relay):
    """The lines on stderr, after the end."""
    relay._join()
    return relay.errors


@pytest.mark.posix("splice(2)")
@pytest.mark.slow
def test_a_kill_closes_the_listener_while_a_collector_holds_the_pipe(splicer):
    """Sessions end at once too, and no record that was sent before is lost."""
    with stalled(splicer, expect_code=KILLED) as (relay, outlet, client, first):
        family = [process for process in relay.family() if process != outlet]
        relay.kill()
        assert relay.process.wait(PATIENCE) == -9
        assert ends_with_reset(client)
        assert psutil.wait_procs(family, PATIENCE)[1] == []
        assert is_shut(relay.port)
        assert outlet.is_running()
        records = parse(first[: first.rfind(b"\n") + 1]) + splicer.go_on()
        check_run(records, ended=False)
        assert [record["event"] for record in records].count("session.connected") == 2
        assert psutil.wait_procs([outlet], PATIENCE)[1] == []


# -- one stalled reader for both -----------------------------------------------------------------------------


def pipes():
    """A pipe, as from ``2>&1 |``."""
    return os.pipe()


def sockets():
    """A socket, as systemd passes it."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    "way_out", [pipes, pytest.param(sockets, marks=pytest.mark.posix("a socket as a standard stream"))]
)
def test_stdout_and_stderr_on_one_stalled_reader(way_out):
    """Two signals end the relay. Not even its last complaint waits."""
    reader, writer = way_out()
    fill(writer)
    with Relay(NOWHERE, stdout=writer, stderr=writer, workers=1, expect_code=74) as relay:
        os.close(writer)
        eventually(relay.listens, "the door is open")
        family = relay.family()
        relay.signal()
        eventually(lambda: not relay.listens(), "the door is shut")
        relay.signal()
        assert relay.process.wait(PATIENCE) == 74
        os.close(reader)
        assert psutil.wait_procs(family, PATIENCE)[1] == []


@pytest.mark.posix("multiprocessing's resource tracker")
@pytest.mark.slow
def test_a_warning_of_the_library_does_not_block():
    """The library warns that its tracker died, to a terminal that stands still."""
    reader, writer = os.pipe()
    fill(writer)
    with listening() as server, Relay(server.getsockname(), stderr=writer) as relay:
        os.close(writer)
        (tracker,) = {p.pid for p in relay.family()} - {relay.outlet().pid, *relay.workers().values()}
        os.kill(tracker, signal.SIGKILL)
        relay.worker(1).kill()
        relay.wait("worker.started", 3)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
    os.close(reader)


@pytest.mark.posix("multiprocessing's resource tracker")
def test_a_warning_of_the_library_is_passed_on():
    with listening() as server, Relay(server.getsockname(), quiet=False) as relay:
        (tracker,) = {p.pid for p in relay.family()} - {relay.outlet().pid, *relay.workers().values()}
        os.kill(tracker, signal.SIGKILL)
        relay.worker(1).kill()
        relay.wait("worker.started", 3)
        assert relay.stop() == 0
        assert "resource_tracker: process died unexpectedly" in relay.errors


# -- killed --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_supervisor_loses_no_record_that_it_has_sent():
    """Their reader stands still, and they exceed what a pipe holds. The last line is whole."""
    sessions = 40
    with (
        listening() as server,
        answering(server),
        Relay(server.getsockname(), workers=1, expect_code=KILLED, quiet=False) as relay,
    ):
        relay.outlet()
        relay.reading.clear()
        for _ in range(sessions + 2):  # at the end the supervisor has read the reports of all but two
            one_session(relay)
        relay.kill()
        relay.process.wait(PATIENCE)
        relay.reading.set()
        relay.finish()
        closed = [record["session"] for record in relay.all("session.closed")]
        assert closed[:sessions] == list(range(1, sessions + 1))


@pytest.mark.wall_clock("the outlet's one second after its supervisor")
def test_a_killed_supervisor_while_a_worker_stands_still():
    """The kernel ends the worker, and the outlet ends within a second, when everything is written."""
    with listening() as server, Relay(server.getsockname(), expect_code=KILLED, quiet=False) as relay:
        family = relay.family()
        relay.worker(1).suspend()
        relay.kill()
        assert end_within(1, family)


def test_a_killed_outlet_is_the_end_of_stdout():
    """No client is admitted any more, open sessions may finish, and the exit code is 74."""
    with listening() as server, Relay(server.getsockname(), expect_code=74) as relay:
        relay.killed = True
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            relay.outlet().kill()
            eventually(lambda: not relay.listens(), "the door is shut")
            echo(client, target)
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
        assert relay.finish() == 74
        assert relay.all("relay.draining") == []


# -- what holds the streams ----------------------------------------------------------------------------------


@pytest.mark.posix("/proc")
def test_only_the_outlet_has_stdout_or_stderr_open():
    """Supervisor, workers, a later worker and multiprocessing's tracker do not.

    The outlet has nothing else open.
    """
    with listening() as server, Relay(server.getsockname()) as relay:
        streams = [opened("self", s.fileno()) for s in (relay.process.stdout, relay.process.stderr)]
        outlet = relay.outlet()
        relay.worker(1).kill()
        relay.wait("worker.started", 3)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            for stream in streams:
                assert holders(stream) - {os.getpid()} == {outlet.pid}
            has = links(outlet.pid).values()
        assert sorted(what.partition(":")[0] for what in has) == ["pipe", "pipe", "socket", "socket", "socket"]


@pytest.mark.parametrize(
    ("code", "options", "environment"),
    [(0, ["--absolute-timeout", "1"], ""), (70, [], "raise SystemExit(1)"), (74, [], "os._exit(0)")],
)
def test_the_end_of_the_relay_is_the_end_for_its_reader(tmp_path, code, options, environment):
    """`mprelay … | cat`: cat ends when the relay does."""
    env = os.environ
    if code == 70:
        env = with_site(tmp_path, instead_of_the_outlet(environment))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        relay = Relay(NOWHERE, *options, stdout=cat.stdin, env=env, expect_code=code, quiet=False)
        with relay:
            cat.stdin.close()
            if code == 74:
                read_until(cat.stdout.fileno(), b"relay.active")
                relay.outlet().kill()
            assert relay.process.wait(PATIENCE) == code
            output = read_until(cat.stdout.fileno(), None)
            assert cat.wait(1) == 0
        if code != 74:
            check_run(parse(output))


@pytest.mark.parametrize("busy", [False, True])
def test_the_readers_of_both_streams_are_gone(busy):
    """The exit code is 74 after the drain. A failed complaint causes no further complaint."""
    (records, stdout), (complaints, stderr) = os.pipe(), os.pipe()
    with Relay(NOWHERE, *TICKING, stdout=stdout, stderr=stderr, acl="ANY", expect_code=74) as relay:
        os.close(stdout)
        os.close(stderr)
        read_until(records, b"relay.active")
        # wait4(2) also counts the children that the supervisor has waited for. Wine has none.
        everybody = [psutil.Process(relay.process.pid), *([] if PYTHON_EXE else relay.family())]
        before = sum(sum(member.cpu_times()[:2]) for member in everybody)
        os.close(records)
        os.close(complaints)
        if busy:
            with contextlib.suppress(ConnectionRefusedError):
                while True:
                    relay.connect().close()
        _pid, status, usage = os.wait4(relay.process.pid, 0)
        relay.process.returncode = os.waitstatus_to_exitcode(status)
        assert usage.ru_utime + usage.ru_stime - before < 1


# -- an outlet that cannot begin -----------------------------------------------------------------------------


def failures(relay):
    """The records of a run that failed to start, without the last one."""
    relay.finish()
    *records, last = relay.records
    assert (last["event"], last["reason"]) == ("relay.stopped", "failed")
    return [(record["event"], record["error"], record["detail"]) for record in records if "detail" in record]


def test_an_outlet_that_ends_before_it_is_ready(tmp_path):
    """Record 14, and all records are there, written without the outlet. Its own error is on stderr."""
    env = with_site(tmp_path, instead_of_the_outlet("1 / 0"))
    with Relay(NOWHERE, wait_active=False, expect_code=70, env=env, quiet=False) as relay:
        how = "ended before it was ready (exit code 1): ZeroDivisionError: division by zero"
        assert failures(relay) == [("pool.start_failed", None, f"the outlet {how}")]
        assert "ZeroDivisionError" in relay.errors
