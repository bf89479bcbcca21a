"""The records: json and text, detail, labels, times, order, and statistics."""

import contextlib
import ctypes
import json
import os
import pty
import pwd
import re
import socket
import struct
import subprocess
import time
import tty
from collections import Counter
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from support.judge import check_run, moment, parse
from support.launching import KILLED_WORKER, PYTHON_EXE
from support.peers import accept, echoing, listening, receive, reset
from support.processes import open_files
from support.relay import PROGRAM, Relay, failing
from support.waiting import PATIENCE, pass_time, read_until

PLAIN = {**os.environ, "NO_COLOR": "1"}

OPENING = (
    "The relayer is now active.  Data received on TCP port {port} will be forwarded to {target} port {to}..."
)

LIFE = [
    "Connection attempt made from 127.0.0.1.",
    "Connection from 127.0.0.1 was accepted.  Allocating a session handler.",
    "Session handler serial number 1 was allocated for request from 127.0.0.1.  Connecting to target 127.0.0.1.",
    "Session handler serial number 1 made a successful connection to the target.  Starting the relay threads.",
    "Session handler serial number 1 successfully started both relay threads.",
    "Session handler serial number 1 requester-to-target channel is now active.",
    "Session handler serial number 1 target-to-requester channel is now active.",
    "Session handler serial number 1 terminated due to requester read closure.",
]


# -- json and text -------------------------------------------------------------------------------------------


@contextmanager
def terminal():
    """Make a pseudo-terminal that passes everything through unchanged: (our end, the program's end)."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        yield ours, theirs
    finally:
        os.close(ours)


@pytest.mark.posix("a pseudo-terminal")
def test_auto_is_text_on_a_terminal():
    """A record is one line: TIMESTAMP LEVEL and the manual's message."""
    with listening() as server, terminal() as (ours, theirs):
        with Relay(server.getsockname(), stdout=theirs, workers=1, env=PLAIN) as relay:
            os.close(theirs)
            output = read_until(ours, b"now active")
            with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as client, accept(server):
                port_of_client = client.getsockname()[1]
                client.shutdown(socket.SHUT_WR)
            output += read_until(ours, b"closure. (")
            relay.stop()
            output += read_until(ours, None)
        lines = output.decode().split("\n")
        assert lines.pop() == ""
        parts = [
            re.fullmatch(r"(\S+) (DEBUG|INFO|WARNING|ERROR|CRITICAL) (\S.*)", line).groups() for line in lines
        ]
        times = [moment(at) for at, _, _ in parts]
        assert all(time.time() - 60 < at <= time.time() for at in times)
        host, port = server.getsockname()
        words = [text for _, _, text in parts]
        first = words.index(OPENING.format(port=relay.port, target=host, to=port))
        *life, end = words[first + 1 : first + 9]
        assert life == LIFE[:-1]
        sides = "0 bytes from the client, 0 from the target"
        assert re.fullmatch(
            rf"{re.escape(LIFE[-1])} \(client port {port_of_client}, {sides}, \d+\.\d{{3}} s\)", end
        )
        assert words[-1] == "The relayer has stopped. (drained)"
        assert {level for _, level, _ in parts} == {"INFO"}


@pytest.mark.posix("a pseudo-terminal")
def test_a_terminal_shows_the_problem_with_an_argument():
    """The manual's sentence does not say which of its conditions failed. The text in brackets does."""
    with terminal() as (ours, theirs):
        arguments = ["8080", "127.0.0.1", "80", "10.0.0.1", "--workers", "0"]
        process = subprocess.Popen([PROGRAM, *arguments], stdout=theirs, stderr=subprocess.PIPE, env=PLAIN)
        os.close(theirs)
        with process:
            output = read_until(ours, None).decode()
            assert process.stderr.read() == b"", "reported twice"
        assert process.returncode == 2
    acl, workers = (line.split(" ", 1)[1] for line in output.splitlines())
    assert acl == (
        "ERROR Error: <ACL> needs to be keyword ANY, or dotted decimal IP/mask notation. "
        "(<ACL> '10.0.0.1' has no mask: 10.0.0.1/32 is this address alone.)"
    )
    assert workers == "ERROR Error: --workers '0' must be a whole number from 1 to 64."


def shown_on_a_terminal(*options: str, **environment: str) -> bytes:
    """What a terminal shows of a start that is refused, with a value that would clear the screen."""
    with terminal() as (ours, theirs):
        arguments = ["8080", "127.0.0.1", "80", "ANY", "--workers", "\x1b[2J", *options]
        others = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
        with subprocess.Popen([PROGRAM, *arguments], stdout=theirs, env=others | environment) as process:
            os.close(theirs)
            output = read_until(ours, None)
        assert process.returncode == 2
    return output


@pytest.mark.posix("a pseudo-terminal")
@pytest.mark.parametrize("environment", [{}, {"TERM": "xterm"}, {"TERM": "xterm", "NO_COLOR": ""}])
@pytest.mark.parametrize("log_format", ["auto", "text"])
def test_the_level_is_coloured_on_a_terminal(environment, log_format):
    """NO_COLOR counts if it is not empty (no-color.org). What was typed cannot reach the terminal as a code."""
    output = shown_on_a_terminal("--log-format", log_format, **environment)
    assert re.findall(rb"\x1b\S*", output) == [b"\x1b[31mERROR\x1b[0m"]
    assert b"--workers '\\x1b[2J' must be" in output


@pytest.mark.posix("a pseudo-terminal")
@pytest.mark.parametrize(
    ("log_format", "environment"),
    [("auto", {"NO_COLOR": "1", "TERM": "xterm"}), ("text", {"TERM": "dumb"}), ("json", {"TERM": "xterm"})],
)
def test_no_colour_where_it_is_not_wanted_or_not_shown(log_format, environment):
    """Nor is there any in JSON."""
    assert b"\x1b" not in shown_on_a_terminal("--log-format", log_format, **environment)


@pytest.mark.posix("a pseudo-terminal")
def test_json_on_a_terminal_where_json_is_asked_for():
    with listening() as server, terminal() as (ours, theirs):
        with Relay(server.getsockname(), "--log-format", "json", stdout=theirs) as relay:
            os.close(theirs)
            output = read_until(ours, b"now active")
            relay.stop()
            output += read_until(ours, None)
        records = parse(output)
        check_run(records)
        assert records[-1]["reason"] == "drained"


def test_text_through_a_pipe_where_text_is_asked_for():
    reader, writer = os.pipe()
    options = ["--log-format", "text"]
    with (
        os.fdopen(reader, "rb") as ours,
        Relay(("127.0.0.1", 9), *options, acl="192.0.2.0/24", stdout=writer, workers=1) as relay,
    ):
        os.close(writer)
        output = read_until(ours.fileno(), b"now active")
        with relay.connect():
            output += read_until(ours.fileno(), b"mismatch.")
        relay.stop()
        output += read_until(ours.fileno(), None)
    assert b"\x1b" not in output
    line = next(line for line in output.decode().splitlines() if "mismatch" in line)
    assert line.split(" ", 1)[1] == "WARNING Connection from 127.0.0.1 rejected due to ACL mismatch."


def test_auto_is_json_through_a_pipe_and_jq_reads_the_whole_run(tool):
    """A third-party collector parses each record."""
    command = [tool("jq"), "--unbuffered", "-c", "[.seq, .event, .msg_id, .level, .session]"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as jq,
        listening() as server,
        Relay(server.getsockname(), "--label", 'quote="\n😀', stdout=jq.stdin) as relay,
    ):
        jq.stdin.close()
        output = read_until(jq.stdout.fileno(), b"relay.active")
        with socket.create_connection(("127.0.0.1", relay.port), PATIENCE), accept(server):
            pass
        output += read_until(jq.stdout.fileno(), b"session.closed")
        relay.stop()
        output += read_until(jq.stdout.fileno(), None)
        assert jq.wait(PATIENCE) == 0
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert [row[2] for row in rows if row[2] is not None][:8] == [15, 16, 18, 26, 28, 31, 33, 37]
    assert rows[-1][1:] == ["relay.stopped", None, "info", None]


# -- what a record holds -------------------------------------------------------------------------------------


def opened_by(sudo_user: str | None = None) -> str:
    """The user that started this test, as docs/records.md defines `opened_by`."""
    if PYTHON_EXE:
        return pwd.getpwuid(os.getuid()).pw_name  # Wine's user has the same name
    with suppress(FileNotFoundError):
        login_uid = int(Path("/proc/self/loginuid").read_text())
        if login_uid != 2**32 - 1:
            return pwd.getpwuid(login_uid).pw_name
    return (sudo_user if os.getuid() == 0 else None) or pwd.getpwuid(os.getuid()).pw_name


def clock_synchronised() -> bool | None:
    """The value that adjtimex(8) would print: whether the estimated error is below its maximum."""
    if PYTHON_EXE:
        return None
    timex = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    return struct.unpack_from("@Illlli", timex)[3] < 16_000_000


def test_relay_active_describes_the_relay():
    """Each field of docs/records.md has its value."""
    before = time.time()
    with Relay(("127.0.0.1", 9), "--max-sessions", "7", "--absolute-timeout", "1000", acl="127.0.0.9/8") as relay:
        active = dict(relay.wait("relay.active"))
        after = time.time()
        expires = moment(active.pop("expires_at"))
        options = active.pop("options")
        assert set(options.values()) <= {"3", "300", "1000", "auto", "0", "false", "10", "60", "json"}
        assert (options["absolute_timeout"], options["connect_timeout"]) == ("1000", "3")
        assert "max_rate" not in options  # not given, and there is no default
        assert before <= expires - 1000 <= after
        assert before <= moment(active["timestamp"]) <= after
        own = {name: active[name] for name in active if name not in {"timestamp", "seq", "relay_id", "listen_ip"}}
        assert own == {
            "level": "info",
            "event": "relay.active",
            "message": OPENING.format(port=relay.port, target="127.0.0.1", to=9),
            "msg_id": 15,
            "listen_port": relay.port,
            "target_host": "127.0.0.1",
            "target_ip": "127.0.0.1",
            "target_port": 9,
            "acl": "127.0.0.9/8",
            "workers": 2,
            "max_sessions": 7,
            "pid": relay.pid,
            "log_detail": "full",
            "version": version("mprelay"),
            "host": socket.gethostname(),
            "opened_by": opened_by(),
            "clock_synchronised": clock_synchronised(),
        }
        assert active["listen_ip"] in {"::", "0.0.0.0"}  # noqa: S104 - all interfaces


@pytest.mark.posix("Wine, which takes the account's name from USER")
def test_relay_active_names_its_opener_whatever_the_environment_says():
    """Anybody can set LOGNAME and USER.

    SUDO_USER counts for root only, and only if the kernel knows no login uid.
    """
    forged = {**os.environ, "LOGNAME": "mallory", "USER": "mallory", "USERNAME": "mallory", "SUDO_USER": "bob"}
    with Relay(("127.0.0.1", 9), env=forged) as relay:
        assert relay.wait("relay.active")["opened_by"] == opened_by("bob")


def test_relay_active_fits_with_the_longest_acl_and_labels():
    """The ACL is recorded as typed, up to its first 1024 bytes."""
    acl = ",".join(["10.0.0.0/8"] * 200)
    name = "ticket=" + "x" * 1000
    with Relay(("127.0.0.1", 9), "--label", name, acl=acl) as relay:
        assert relay.wait("relay.active")["acl"] == acl[:1024]


@pytest.mark.posix("seccomp(2)")
def test_a_field_that_the_system_does_not_answer_is_null():
    """A sandbox refuses adjtimex(2), which the relay does not need."""
    rules = ("adjtimex:EPERM", "clock_adjtime:EPERM")
    with Relay(("127.0.0.1", 9), command=failing(*rules)) as relay:
        assert relay.wait("relay.active")["clock_synchronised"] is None


def test_relay_active_comes_when_every_worker_is_ready():
    """No worker is started afterwards."""
    with Relay(("127.0.0.1", 9), workers=4) as relay:
        relay.wait("relay.active")
        relay.stop()
        events = [record["event"] for record in relay.records]
        assert events[:5] == ["worker.started"] * 4 + ["relay.active"]
        assert set(relay.workers()) == {1, 2, 3, 4}


def test_each_run_has_its_own_relay_id():
    with Relay(("127.0.0.1", 9), workers=1) as one, Relay(("127.0.0.1", 9), workers=1) as other:
        assert one.records[0]["relay_id"] != other.records[0]["relay_id"]


def short_session(relay: Relay, server: socket.socket, count: int = 1) -> None:
    """Run `count` sessions that the client ends, and wait for the last record."""
    with relay.connect() as client, accept(server) as target:
        client.sendall(b"question")
        assert receive(target, 8) == b"question"
        client.shutdown(socket.SHUT_WR)
        assert receive(target) == b""
        target.sendall(b"answer")
        target.close()
        assert receive(client) == b"answer"
    relay.wait("session.closed", count)


def refused_client(relay: Relay) -> socket.socket:
    """Connect as a client from 127.0.0.2."""
    return relay.connect(source="127.0.0.2")


@pytest.mark.slow
def test_labels_are_on_every_record_of_every_kind():
    """This covers refusals, sessions, workers and the relay. Without labels no record has any."""
    labels = {"ticket": "CHG-7", "owner": "net ops"}
    options = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
    with listening() as server, Relay(server.getsockname(), *options, acl="127.0.0.1/32") as relay:
        short_session(relay, server)
        refused_client(relay).close()
        relay.wait("connection.rejected")
        relay.stop()
        assert [record["labels"] for record in relay.records] == [labels] * len(relay.records)
    with Relay(("127.0.0.1", 9)) as relay:
        relay.stop()
        assert [record for record in relay.records if "labels" in record] == []


@pytest.mark.parametrize("detail", ["full", "session"])
def test_client_refused_by_the_acl(detail):
    """Records 16 and 17 and nothing more: no serial number is used, and the target sees nothing."""
    options = ["--log-detail", detail]
    with listening() as server, Relay(server.getsockname(), *options, acl="127.0.0.1/32") as relay:
        with refused_client(relay) as client:
            port = client.getsockname()[1]
            rejected = relay.wait("connection.rejected", client_port=port)
            with suppress(ConnectionResetError):  # the client may see either
                assert client.recv(1) == b""
        assert (rejected["msg_id"], rejected["level"]) == (17, "warning")
        assert (rejected["client_ip"], rejected["acl"]) == ("127.0.0.2", "no entry")
        assert rejected["message"] == "Connection from 127.0.0.2 rejected due to ACL mismatch."
        short_session(relay, server)
        relay.stop()
        ids = [record["msg_id"] for record in relay.records if record.get("client_port") == port]
        assert ids == ([16, 17] if detail == "full" else [17])
        assert relay.wait("session.closed")["session"] == 1
        last = relay.records[-1]
        assert (last["attempts"], last["rejected"], last["admitted"]) == (2, 1, 1)


def test_full_detail_writes_each_message_of_a_session_in_order():
    """One session has 16, 18, 26, 28, 31, 33, 37, then its end, and nothing else."""
    with listening() as server, Relay(server.getsockname()) as relay:
        short_session(relay, server)
        relay.stop()
        life = [record for record in relay.records if "client_port" in record]
        assert [record["msg_id"] for record in life] == [16, 18, 26, 28, 31, 33, 37, 34]
        assert [record["message"] for record in life] == LIFE
        assert [record.get("session") for record in life] == [None, *[1] * 7]
        assert {record["worker"] for record in life[2:]} in ({1}, {2})
        assert life[3]["connect_ms"] == life[7]["connect_ms"]
        times = [moment(record["timestamp"]) for record in life]
        assert times == sorted(times)
        closed = life[-1]
        assert (closed["bytes_from_client"], closed["bytes_from_target"], closed["error"]) == (8, 6, None)


def test_session_detail_writes_only_how_each_session_ended():
    """Records 16 and 18 are left out too. Refusals and the records of relay and workers stay."""
    options = ["--log-detail", "session", "--max-sessions", "1"]
    with listening() as server, Relay(server.getsockname(), *options, acl="127.0.0.1/32") as relay:
        with relay.connect(), accept(server), relay.connect():
            relay.wait("connection.pool_exhausted")
            refused_client(relay).close()
            relay.wait("connection.rejected")
        relay.wait("session.closed")
        relay.stop()
        events = [record["event"] for record in relay.records]
        assert events[3:6] == ["connection.pool_exhausted", "connection.rejected", "session.closed"]
        assert set(events[:3]) == {"worker.started", "relay.active"}
        assert set(events[6:]) == {"relay.draining", "worker.exited", "relay.stopped"}
        assert relay.records[-1]["attempts"] == 3


# -- times ---------------------------------------------------------------------------------------------------


def test_timestamps_are_true_and_in_utc():
    """In any time zone, each moment lies between the test's own actions before and after it."""
    with listening() as server:
        environment = {**os.environ, "TZ": "Asia/Kathmandu"}
        with Relay(server.getsockname(), env=environment) as relay:
            marks = [time.time()]
            with relay.connect() as client, accept(server) as target:
                connected = relay.wait("session.target_channel_active")
                marks.append(time.time())
                client.sendall(b"x")
                receive(target, 1)
                marks.append(time.time())
            closed = relay.wait("session.closed")
            marks.append(time.time())
            slack = 0.001  # of a record's moment, which was rounded down
            assert marks[0] - slack <= moment(relay.wait("connection.attempt")["timestamp"]) <= marks[1]
            assert marks[0] - slack <= moment(connected["timestamp"]) <= marks[1]
            assert marks[2] - slack <= moment(closed["timestamp"]) <= marks[3]
            assert (marks[2] - marks[1]) * 1000 <= closed["duration_ms"] <= (marks[3] - marks[0]) * 1000 + 1


def test_a_timestamp_is_the_moment_of_the_event_and_not_of_the_writing():
    """A stopped supervisor writes late, but still records when the session ended."""
    with listening() as server, Relay(server.getsockname()) as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.suspend()
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
            target.close()
            assert receive(client) == b""
            pass_time(0.1)  # the worker sees the end a moment after its client
            over = time.time()
        assert relay.all("session.closed") == []
        relay.resume()
        assert moment(relay.wait("session.closed")["timestamp"]) <= over


# -- size ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.posix("64 Pythons of Wine take too long to start")
@pytest.mark.alone("64 workers take the whole machine for seconds")
def test_stats_of_64_workers_fit_with_long_labels():
    """Every worker is in them, and each record stays below 4096 bytes, which the judge checks."""
    options = ["--workers", "64", "--stats-interval", "0.5", "--label", "ticket=" + "x" * 1000]
    with Relay(("127.0.0.1", 9), *options, wait_active=False) as relay:
        for worker in range(1, 65):
            relay.wait("worker.started", worker=worker)
        relay.wait("relay.active")
        relay.wait("relay.stats", 8)
        stats = relay.all("relay.stats")
        seen = {figures["worker"]: figures for record in stats for figures in record["worker_stats"]}
        assert set(seen) == set(range(1, 65))
        assert {number: figures["pid"] for number, figures in seen.items()} == relay.workers()
        assert all(figures["sessions"] == 0 and figures["rss"] > 0 for figures in seen.values())
        assert {record["message"] for record in stats} == {"0 of 500 sessions are in use."}


@pytest.mark.slow
def test_no_stats_if_none_are_asked_for():
    """An interval of 0 gives none, and a small interval gives many."""
    with Relay(("127.0.0.1", 9), "--stats-interval", "0", workers=1) as without:
        with Relay(("127.0.0.1", 9), "--stats-interval", "0.05", workers=1) as with_many:
            with_many.wait("relay.stats", 5)
        assert without.all("relay.stats") == []


# -- the manual's sentences that are not above ---------------------------------------------------------------


def message_of(relay: Relay, msg_id: int) -> str:
    """Return the one sentence that this run has with that number."""
    (record,) = [record for record in relay.records if record["msg_id"] == msg_id]
    return record["message"]


def test_a_full_pool_and_a_target_that_ends_in_the_manuals_words():
    """The pool is exhausted, and the target ends."""
    with listening() as server, Relay(server.getsockname(), "--max-sessions", "1") as relay:
        with relay.connect() as client, accept(server) as target, relay.connect():
            relay.wait("connection.pool_exhausted")
            target.close()
            assert receive(client) == b""
        relay.wait("session.closed")
        assert message_of(relay, 21) == "Session pool exhausted.  Connection from 127.0.0.1 was dropped."
        assert message_of(relay, 38) == "Session handler serial number 1 terminated due to target read closure."


@pytest.mark.slow
def test_an_expiry_in_the_manuals_words():
    with Relay(("127.0.0.1", 9), "--absolute-timeout", "4") as relay:
        relay.finish()
        assert message_of(relay, 23) == "Absolute timeout expired.  This process will now terminate."


def test_sentences_of_our_own_are_filled_in_and_one_line():
    """A reset, a lost worker and a stop: no sentence still has a placeholder, and none is empty."""
    with listening() as server, Relay(server.getsockname()) as relay:
        client = relay.connect()
        with accept(server):
            relay.wait("session.target_channel_active")
            reset(client)
            assert relay.wait("session.closed")["error"] == "ECONNRESET"
        with closing(relay.connect()), accept(server):
            relay.wait("session.target_channel_active", 2)
            worker = relay.all("session.target_channel_active")[1]["worker"]
            relay.worker(worker).kill()
            assert relay.wait("session.closed", 2)["reason"] == "worker_lost"
            relay.wait("worker.exited", **KILLED_WORKER)
        relay.wait("worker.started", 3)
        relay.stop()
        for record in relay.records:
            assert record["message"].isprintable()
            assert not re.search(r"[{}<>]", record["message"])


# -- statistics ----------------------------------------------------------------------------------------------


def test_stats_match_reality():
    """They have counts, and for the supervisor and each worker pid, CPU, memory, descriptors and sessions."""
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
        assert relay.pid == stats["supervisor"]["pid"]
        assert relay.workers() == {figures["worker"]: figures["pid"] for figures in stats["worker_stats"]}
        load = Counter(record["worker"] for record in relay.all("session.allocated"))
        assert load == {figures["worker"]: figures["sessions"] for figures in stats["worker_stats"]}
        for figures in (stats["supervisor"], *stats["worker_stats"]):
            real = relay.member(figures["pid"])
            assert figures["cpu_percent"] >= 0
            assert figures["rss"] == pytest.approx(real.memory_info().rss, rel=0.2)
            if not PYTHON_EXE:
                assert abs(figures["fds"] - open_files(figures["pid"])) <= 1
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert receive(client) == b""
        relay.wait("session.closed", 5)
        relay.wait("relay.stats", active=0)
        empty = relay.all("relay.stats", active=0)[-1]
        assert [figures["sessions"] for figures in empty["worker_stats"]] == [0, 0, 0]
        if not PYTHON_EXE:
            files = [sum(f["fds"] for f in record["worker_stats"]) for record in (stats, empty)]
            assert files[0] - files[1] == 10, "two descriptors for each session"


def test_stats_count_the_bytes_of_open_sessions_too():
    """A transfer that takes hours shows up before its end."""
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
    """The worker that moves bytes has a CPU share, and its record names the worker."""
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
