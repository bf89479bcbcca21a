"""The exit codes, and that after each of them nothing is left: no process, no door, no session."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.judge import check_run, moment, parse
from support.peers import accept, ends_with_reset, fill, free_port, is_shut, listening, receive
from support.processes import workers_of
from support.relay import NOWHERE, PROGRAM, Relay, run
from support.waiting import PATIENCE, eventually, read_until


def session_members(leader: int) -> list[int]:
    """Return the processes of the session that `leader` led."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


@contextmanager
def records_pipe(*, full: bool = False):
    """Make a pipe for stdout: (our end as a file, the program's end); both may be closed early."""
    reader, writer = os.pipe()
    if full:
        fill(writer)
    with os.fdopen(reader, "rb", buffering=0) as ours, os.fdopen(writer, "wb", buffering=0) as theirs:
        yield ours, theirs


# -- 69: the listener could not be made ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "0.0.0.0")],  # noqa: S104
)
def test_occupied_port(family, host):
    """Somebody listens on it, on one address or all: 12, and no worker was started for it."""
    with listening(family, host) as server:
        done = run(PROGRAM, str(server.getsockname()[1]), "127.0.0.1", "9", "ANY", "--label", "ticket=7")
    assert (done.returncode, done.stderr) == (69, b"")
    records = parse(done.stdout)
    check_run(records)
    assert [record["event"] for record in records] == ["listener.bind_failed", "relay.stopped"]
    assert (records[0]["msg_id"], records[0]["error"]) == (12, "EADDRINUSE")
    assert records[0]["message"] == "Error: Could not bind listener port to socket."
    assert records[1]["reason"] == "failed"
    assert [record["labels"] for record in records] == [{"ticket": "7"}] * 2


def test_second_relay_on_the_same_port():
    """The first one notices nothing."""
    with listening() as server, Relay(server.getsockname()) as relay:
        done = run(PROGRAM, *relay.args)
        assert done.returncode == 69
        with relay.connect(), accept(server):
            relay.wait("session.target_channel_active")


def test_address_that_is_not_ours():
    """192.0.2.1 is nobody's (RFC 5737)."""
    done = run(PROGRAM, str(free_port()), "127.0.0.1", "9", "ANY", "--bind", "192.0.2.1")
    assert done.returncode == 69
    assert (parse(done.stdout)[0]["msg_id"], parse(done.stdout)[0]["error"]) == (12, "EADDRNOTAVAIL")


def test_privileged_port_as_an_ordinary_user(tool):
    """EACCES is a port that could not be bound, too."""
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first_free <= 1:
        pytest.skip("net.ipv4.ip_unprivileged_port_start lets everybody bind every port")
    command = [PROGRAM]
    if (
        os.geteuid() == 0
    ):  # an ordinary user could perhaps not read the program: so the same root, without the right
        without = "-net_bind_service"
        command = [tool("setpriv"), "--inh-caps", without, "--bounding-set", without, PROGRAM]
    done = run(*command, str(first_free - 1), "127.0.0.1", "9", "ANY")
    assert (done.returncode, done.stderr) == (69, b"")
    records = parse(done.stdout)
    check_run(records)
    assert (records[0]["event"], records[0]["error"]) == ("listener.bind_failed", "EACCES")


# -- 70: the pool could not be started -----------------------------------------------------------------------


def test_too_few_open_files(tool):
    """The numbers are in the record, and the port is free again."""
    port = free_port()
    done = run(tool("prlimit"), "--nofile=200:200", PROGRAM, str(port), "127.0.0.1", "9", "ANY", "--workers", "2")
    assert (done.returncode, done.stderr) == (70, b"")
    records = parse(done.stdout)
    check_run(records)
    assert [record["event"] for record in records] == ["pool.start_failed", "relay.stopped"]
    assert records[0]["msg_id"] == 14
    assert records[0]["message"] == "Error: Unable to start the maintenance thread."


# -- 74: stdout is gone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_reader_that_has_seen_enough(tool, lines):
    """`mprelay … | head -1` ends by itself, while starting or when nothing more is to be written."""
    script = f'"$@" | head -{lines}; echo "${{PIPESTATUS[0]}}"'
    command = [tool("bash"), "-c", script, "bash", PROGRAM, str(free_port()), *NOWHERE[:1], "9", "ANY"]
    with subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as shell:
        try:
            output, _ = shell.communicate(timeout=PATIENCE)
            assert session_members(shell.pid) == []
        finally:
            for pid in session_members(shell.pid):
                os.kill(pid, signal.SIGKILL)
    *records, code = output.splitlines()
    assert int(code) == 74
    assert len(parse(b"".join(line + b"\n" for line in records))) == lines


def test_reader_goes_away_while_a_session_is_open():
    """The door shuts, the session may finish, then it is exit 74."""
    with (
        listening() as server,
        records_pipe() as (ours, theirs),
        Relay(server.getsockname(), stdout=theirs, expect_code=74, quiet=False) as relay,
    ):
        theirs.close()
        read_until(ours.fileno(), b"relay.active")
        with relay.connect_once_open() as client, accept(server) as target:
            read_until(ours.fileno(), b"session.target_channel_active")
            family = relay.family()
            ours.close()
            eventually(lambda: is_shut(relay.port), "the listener is closed")
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b"question"
            target.sendall(b"answer")
            target.close()
            assert receive(client) == b"answer"
        assert relay.finish() == 74
        assert psutil.wait_procs(family, PATIENCE)[1] == []


def test_reader_goes_away_and_a_session_does_not_finish():
    """For --drain-timeout, and no longer; its peers see a reset."""
    with (
        listening() as server,
        records_pipe() as (ours, theirs),
        Relay(server.getsockname(), "--drain-timeout", "1", stdout=theirs, expect_code=74, quiet=False) as relay,
    ):
        theirs.close()
        read_until(ours.fileno(), b"relay.active")
        with relay.connect_once_open() as client, accept(server) as target:
            read_until(ours.fileno(), b"session.target_channel_active")
            gone = time.monotonic()
            ours.close()
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            assert time.monotonic() - gone >= 1
        assert relay.finish() == 74


def test_no_stdout_from_the_start(tool):
    """Closed with >&-: said on stderr, and no relay without a record."""
    port = str(free_port())
    done = run(tool("bash"), "-c", '"$@" >&-', "bash", PROGRAM, port, "127.0.0.1", "9", "ANY")
    assert done.returncode == 74
    assert b"stdout" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("asked", ["--help", "--version", ""])
def test_help_that_nobody_gets(tool, asked, redirection):
    """What was asked for could not be written: neither a crash nor a success."""
    done = run(tool("bash"), "-c", f'"$@" {asked} {redirection}', "bash", PROGRAM)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 74


def test_wrong_parameters_and_no_stdout(tool):
    """Whichever code it is, it is one of ours, and there is no traceback."""
    done = run(tool("bash"), "-c", '"$@" >&-', "bash", PROGRAM, "0", "127.0.0.1", "9", "ANY")
    assert done.returncode in {2, 74}
    assert b"Traceback" not in done.stderr


def test_no_room_for_the_records():
    """/dev/full: said on stderr; sessions go on; a signal ends it, a second one ends the wait for room."""
    with (
        Path("/dev/full").open("wb") as full,
        listening() as server,
        Relay(server.getsockname(), stdout=full, expect_code=74, quiet=False) as relay,
    ):
        with relay.connect_once_open() as client, accept(server) as target:
            for _ in range(3):
                client.sendall(b"question")
                assert receive(target, 8) == b"question"
                target.sendall(b"answer")
                assert receive(client, 6) == b"answer"
        workers, outlet = workers_of(relay.process.pid), relay.outlet()
        relay.process.send_signal(signal.SIGTERM)
        assert psutil.wait_procs(workers, PATIENCE)[1] == []
        assert is_shut(relay.port)
        assert relay.process.poll() is None
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(PATIENCE) == 74
        assert outlet.is_running()  # it still tries to write what it has
        outlet.kill()
        relay.finish()
        assert "No space left on device" in relay.errors
        assert f"process {outlet.pid} still writes what it has" in relay.errors
        assert "Traceback" not in relay.errors


def test_wrong_parameters_and_no_room():
    """The records wait for room, as a relay's do; a signal ends that."""
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen([PROGRAM, "0", "127.0.0.1", "9", "ANY"], stdout=full, stderr=subprocess.PIPE) as process,
    ):
        try:
            said = read_until(process.stderr.fileno(), b"No space left on device")
            process.terminate()
            process.wait(PATIENCE)
        finally:
            process.kill()
        assert b"Traceback" not in said + process.stderr.read()


# -- 0: expired ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped_worker", [False, True])
def test_expiry_ends_everything_within_a_second(stopped_worker):
    """With sessions that talk and sessions that do not, and with a worker that stands still."""
    with listening() as server, Relay(server.getsockname(), "--absolute-timeout", "2") as relay:
        expires = moment(relay.wait("relay.active")["expires_at"])
        family = relay.family()
        with relay.connect() as client, accept(server) as target, relay.connect() as other, accept(server):
            relay.wait("session.target_channel_active", 2)
            if stopped_worker:
                os.kill(relay.workers()[1], signal.SIGSTOP)
            code = relay.process.wait(PATIENCE)
            late = time.time() - expires
            assert code == 0
            assert 0 <= late < 1
            assert psutil.wait_procs(family, PATIENCE)[1] == []
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            assert ends_with_reset(other)
        relay.finish()
        assert [record["reason"] for record in relay.all("session.closed")] == ["relay_expired"] * 2
        assert relay.records[-1]["reason"] == "expired"
        assert relay.records[-1]["closed"] == {"relay_expired": 2}
        assert len(relay.all("relay.expired")) == 1


def test_expiry_while_the_reader_of_the_records_stands_still():
    """Sessions and door end in time; the records wait for their reader, and none is lost."""
    with (
        listening() as server,
        records_pipe(full=True) as (ours, theirs),
        Relay(server.getsockname(), "--absolute-timeout", "2", stdout=theirs) as relay,
    ):
        started = time.monotonic()
        theirs.close()
        with relay.connect_once_open() as client, accept(server):
            assert ends_with_reset(client)
            assert time.monotonic() - started < 4  # 2, a second more, and the start of the interpreter
            eventually(lambda: is_shut(relay.port), "the listener is closed")
        output = read_until(ours.fileno(), b"relay.stopped")
        output += read_until(ours.fileno(), None)
        assert relay.finish() == 0
    records = parse(output.lstrip(b"."))
    check_run(records)
    assert records[-1]["reason"] == "expired"


# -- 0: a signal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_drains(number):
    """The door shuts, who is inside may finish, exit 0."""
    with listening() as server, Relay(server.getsockname()) as relay:
        family = relay.family()
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.process.send_signal(number)
            assert relay.wait("relay.draining")["active"] == 1
            assert is_shut(relay.port)
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b"question"
            target.sendall(b"answer")
            target.close()
            assert receive(client) == b"answer"
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "drained"
        assert relay.records[-1]["closed"] == {"requester_read_closed": 1}
        assert psutil.wait_procs(family, PATIENCE)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_with_nobody_inside(number):
    """At once."""
    with Relay(NOWHERE, "--drain-timeout", "3600") as relay:
        assert relay.stop(number) == 0
        assert relay.records[-1]["reason"] == "drained"


def test_a_helper_that_is_stopped_holds_nobody_up():
    """Multiprocessing keeps one, and waits for its end."""
    with Relay(NOWHERE) as relay:
        (helper,) = [process for process in relay.family() if "resource_tracker" in " ".join(process.cmdline())]
        helper.suspend()
        assert relay.stop() == 0
        assert psutil.wait_procs([helper], PATIENCE)[1] == []


def test_signal_while_starting():
    """Before the door ever opened."""
    with Relay(NOWHERE, workers=6, wait_active=False) as relay:
        relay.wait("worker.started")
        assert relay.stop() == 0
        assert relay.records[-1]["reason"] == "drained"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_cuts_the_drain_short(second):
    """The sessions are closed as drained, and both peers see that they were cut."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", "3600") as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.process.send_signal(signal.SIGTERM)
            relay.wait("relay.draining")
            assert relay.all("session.closed") == []
            relay.process.send_signal(second)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "signal"
        assert relay.records[-1]["closed"] == {"drained": 1}


@pytest.mark.parametrize("seconds", [0, 1])
def test_drain_has_a_cap(seconds):
    """After --drain-timeout what is left is closed as drained."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", str(seconds)) as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.process.send_signal(signal.SIGTERM)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "signal"
        assert relay.records[-1]["closed"] == {"drained": 1}
        drained = moment(relay.wait("session.closed")["timestamp"]) - moment(
            relay.wait("relay.draining")["timestamp"]
        )
        assert drained > seconds - 0.01


def test_expiry_does_not_wait_for_a_drain():
    """The absolute timeout is absolute."""
    with listening() as server:
        options = ["--drain-timeout", "3600", "--absolute-timeout", "2"]
        with Relay(server.getsockname(), *options) as relay, relay.connect() as client, accept(server):
            relay.wait("session.target_channel_active")
            relay.process.send_signal(signal.SIGTERM)
            relay.wait("relay.draining")
            assert ends_with_reset(client)
            assert relay.finish() == 0
            assert relay.records[-1]["reason"] == "expired"
            assert relay.records[-1]["closed"] == {"relay_expired": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_process_group(number):
    """Ctrl-C reaches workers and outlet too. They ignore it: sessions finish, and every record comes out."""
    with listening() as server, Relay(server.getsockname(), start_new_session=True) as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            os.killpg(relay.process.pid, number)
            relay.wait("relay.draining")
            for pid in relay.workers().values():
                os.kill(pid, signal.SIGTERM)
            client.sendall(b"still")
            assert receive(target, 5) == b"still"
            client.shutdown(socket.SHUT_WR)
            target.close()
            assert receive(client) == b""
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "drained"


# -- killed --------------------------------------------------------------------------------------------------


def test_killed_supervisor_leaves_nothing_running():
    """Workers, outlet and resource tracker are gone, the sessions are reset: no relay without a record."""
    with listening() as server, Relay(server.getsockname(), expect_code=-9, quiet=False) as relay:
        relay.killed = True
        family = relay.family()
        assert len(family) == 4
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.process.kill()
            assert psutil.wait_procs(family, 2)[1] == []
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert is_shut(relay.port)
