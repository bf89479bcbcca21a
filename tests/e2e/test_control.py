"""The control socket: who is connected, commands and their records, and clients that mean no good."""

import contextlib
import json
import os
import select
import socket
import stat
import subprocess
import time
from collections import deque
from itertools import islice
from pathlib import Path

import psutil
import pytest
from support.control import CTL, Operator, ask, ctl
from support.launching import KILLED_WORKER, PROGRAM
from support.peers import accept, answering, echo, ends_with_reset, listening, receive
from support.processes import open_files
from support.relay import NOWHERE, Relay, open_sessions, run
from support.waiting import PATIENCE, eventually, pass_time

pytestmark = pytest.mark.posix("the control socket")


@pytest.fixture
def path(tmp_path):
    """Where the socket is."""
    return tmp_path / "control"


# -- what is there -------------------------------------------------------------------------------------------


def test_it_shows_who_is_connected(path):
    """With the names of the records, and bytes as last reported."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path), "--label", "ticket=CHG-1") as relay,
        contextlib.ExitStack() as stack,
        Operator(path) as operator,
    ):
        status = operator.ask("status")
        active = relay.wait("relay.active")
        for name in (
            "relay_id",
            "pid",
            "version",
            "listen_port",
            "target_host",
            "target_ip",
            "acl",
            "max_sessions",
        ):
            assert status[name] == active[name], name
        assert (status["phase"], status["paused_by"], status["labels"]) == ("active", None, {"ticket": "CHG-1"})
        assert (status["expires_at"], status["expires_in_s"]) == (None, None)
        assert {each["worker"]: each["pid"] for each in status["workers"]} == relay.workers()
        assert operator.all("sessions") == [{"ok": True, "count": 0}]
        (first, _), (second, _) = open_sessions(stack, relay, server, 2)
        first.sendall(b"12345")

        def reported():
            *sessions, end = operator.all("sessions")
            assert end == {"ok": True, "count": 2}
            assert [one["session"] for one in sessions] == [1, 2]
            for one, client in zip(sessions, (first, second), strict=True):
                shown = (one["client_ip"], one["client_port"], one["target_ip"], one["target_port"])
                assert shown == (*client.getsockname(), *server.getsockname())
                assert one["worker"] in relay.workers()
                assert 0 <= one["idle_s"] <= one["age_s"]
                assert one["bytes_from_target"] == 0
            return sessions[0]["bytes_from_client"] == 5

        eventually(reported, "the bytes are known")
        assert operator.ask("status")["active"] == 2


def test_it_is_for_this_user_alone_and_goes_with_the_relay(path):
    """Nobody else can connect, and no other process of the relay has it."""
    with Relay(NOWHERE, "--control", str(path)) as relay:
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        relay.stop()
        assert not path.exists()
    with Relay(NOWHERE, "--control", path.name, cwd=path.parent) as relay:
        relay.kill()
        relay.finish()
        with pytest.raises(ConnectionRefusedError):
            ask(path, "status")
    with Relay(NOWHERE, "--control", str(path)):  # what was left is replaced
        assert ask(path, "status")["ok"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("precious"), "is a file, which stays as it is"),
        (lambda path: path.symlink_to("nowhere"), "is a link, which stays as it is"),
        (lambda path: path.rmdir() if path.exists() else path.parent.rmdir(), "cannot be made: No such file"),
    ],
)
def test_a_path_that_cannot_be_had_is_refused(tmp_path, make, words):
    """Before anything is started."""
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "s"
    make(path)
    with Relay(NOWHERE, "--control", str(path), wait_active=False, expect_code=2, quiet=False, cwd="/") as relay:
        relay.finish()
    (record,) = relay.records
    assert (record["event"], record["parameter"], record["value"]) == ("config.invalid", "control", str(path))
    assert words in record["problem"]


def test_the_socket_of_a_running_relay_is_refused(path):
    """That relay notices nothing."""
    with Relay(NOWHERE, "--control", str(path)):
        with Relay(NOWHERE, "--control", str(path), wait_active=False, expect_code=2, quiet=False) as other:
            other.finish()
        assert "belongs to a relay that is running" in other.records[0]["problem"]
        assert ask(path, "status")["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("is_left", [False, True])
def test_of_three_relays_at_once_one_has_the_path(path, is_left):
    """The others say so. The path leads to the one."""
    for _ in range(3):
        if is_left:
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(path))
        with contextlib.ExitStack() as stack:
            options = {"wait_active": False, "quiet": False, "expect_code": 2}
            relays = [stack.enter_context(Relay(NOWHERE, "--control", str(path), **options)) for _ in range(3)]

            def running(relays=relays):
                return [relay for relay in relays if relay.process.poll() is None]

            eventually(lambda running=running: len(running()) == 1, "one has it")
            (winner,) = running()
            winner.expect_code = 0
            winner.wait("relay.active")
            assert ask(path, "status")["pid"] == winner.pid
            for relay in relays:
                if relay is not winner:
                    relay.finish()
                    (record,) = relay.records
                    assert (record["event"], record["parameter"]) == ("config.invalid", "control")
                    assert "belongs to a relay that is running" in record["problem"]
            assert [*path.parent.iterdir()] == [path]
        assert [*path.parent.iterdir()] == []


# -- commands ------------------------------------------------------------------------------------------------


def test_a_session_is_killed_by_its_number(path):
    """Both sides get a reset, the others nothing, and the record says whose command it was."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path)) as relay,
        contextlib.ExitStack() as stack,
        Operator(path) as operator,
    ):
        (client, target), other = open_sessions(stack, relay, server, 2)
        assert operator.ask("kill", session=1) == {"ok": True, "killed": 1}
        assert ends_with_reset(client)
        assert ends_with_reset(target)
        assert relay.wait("session.closed", session=1)["reason"] == "killed"
        command = relay.wait("control.command", command="kill")
        assert command["arguments"] == {"session": 1}
        assert (command["peer_uid"], command["peer_pid"]) == (os.getuid(), os.getpid())
        assert (command["ok"], command["problem"]) == (True, None)
        assert command["seq"] < relay.wait("session.closed", session=1)["seq"]
        refused = operator.ask("kill", session=1)
        assert refused == {"ok": False, "error": "there is no session 1"}
        assert relay.wait("control.command", ok=False)["problem"] == "there is no session 1"
        echo(*other)


def test_sessions_are_killed_by_their_clients(path):
    """An address, or a network."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path)) as relay,
        contextlib.ExitStack() as stack,
        Operator(path) as operator,
    ):
        pairs = []
        for host in ("127.0.0.2", "127.0.0.2", "127.0.1.1", "127.0.0.3"):
            client = stack.enter_context(relay.connect(source=host))
            pairs.append((client, stack.enter_context(accept(server))))
        relay.wait("session.target_channel_active", 4)
        assert operator.ask("kill", client="127.0.0.2") == {"ok": True, "killed": 2}
        relay.wait("session.closed", 2, reason="killed", client_ip="127.0.0.2")
        assert operator.ask("kill", client="127.0.1.99/24") == {"ok": True, "killed": 1}
        relay.wait("session.closed", reason="killed", client_ip="127.0.1.1")
        assert operator.ask("kill", client="192.0.2.0/24") == {
            "ok": False,
            "error": "there is no session of 192.0.2.0/24",
        }
        echo(*pairs[3])


def test_a_session_of_a_stopped_worker_is_killed_when_it_goes_on(path):
    """The order waits for it, and the relay for nothing."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path)) as relay,
        contextlib.ExitStack() as stack,
    ):
        ((client, _),) = open_sessions(stack, relay, server, 1)
        worker = relay.worker(relay.all("session.allocated")[0]["worker"])
        worker.suspend()
        assert ask(path, "kill", session=1)["ok"]
        assert ask(path, "sessions")["count"] == 1
        worker.resume()
        assert ends_with_reset(client)
        assert relay.wait("session.closed")["reason"] == "killed"


def test_a_paused_relay_admits_nobody_and_refuses_nobody(path):
    """Who connects meanwhile waits in the backlog. Sessions go on. Both commands can be repeated."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path)) as relay,
        contextlib.ExitStack() as stack,
        Operator(path) as operator,
    ):
        (pair,) = open_sessions(stack, relay, server, 1)
        for _ in range(2):
            assert operator.ask("pause") == {"ok": True}
        assert operator.ask("status")["paused_by"] == "operator"
        waiting = stack.enter_context(relay.connect())
        waiting.sendall(b"early")
        echo(*pair)
        assert operator.ask("status")["attempts"] == 1
        for _ in range(2):
            assert operator.ask("resume") == {"ok": True}
        with accept(server) as target:
            assert receive(target, 5) == b"early"
        assert operator.ask("status")["paused_by"] is None
        relay.wait("control.command", 4)
        assert [record["command"] for record in relay.all("control.command")] == ["pause"] * 2 + ["resume"] * 2


def test_drain_is_what_a_signal_does(path):
    """The door is shut, sessions may finish, and the operator sees that."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path)) as relay,
        contextlib.ExitStack() as stack,
        Operator(path) as operator,
    ):
        ((client, target),) = open_sessions(stack, relay, server, 1)
        where = [operator.ask("status")[name] for name in ("listen_ip", "listen_port")]
        assert operator.ask("drain") == {"ok": True, "active": 1}
        draining = relay.wait("relay.draining")
        assert (draining["signal"], draining["active"]) == (None, 1)
        assert not relay.listens()
        status = operator.ask("status")
        assert status["phase"] == "draining"
        assert [status["listen_ip"], status["listen_port"]] == where
        assert operator.ask("drain")["ok"]  # once more changes nothing
        assert not operator.ask("pause")["ok"]
        echo(client, target)
        client.close()
        target.close()
        assert relay.finish() == 0
        assert operator.hear() is None
    assert relay.records[-1]["reason"] == "drained"


def test_reload_is_answered_when_the_rules_were_read(path, tmp_path):
    """With what came of it."""
    rules = tmp_path / "rules"
    rules.write_text("127.0.0.1/32\n")
    with Relay(NOWHERE, "--control", str(path), acl=f"@{rules}") as relay, Operator(path) as operator:
        rules.write_text("127.0.0.0/8\n10.0.0.0/8\n")
        assert operator.ask("reload") == {"ok": True, "entries": 2, "added": 2, "removed": 1, "ended": 0}
        assert relay.wait("control.command", ok=True)["seq"] > relay.wait("acl.reloaded")["seq"]
        rules.write_text("nonsense\n")
        answer = operator.ask("reload")
        assert not answer["ok"]
        assert "line 1" in answer["error"]
        relay.wait("acl.reload_failed")
        assert relay.wait("control.command", ok=False)["problem"] == answer["error"]
        rules.unlink()
        operator.say({"command": "reload"}, {"command": "reload"}, {"command": "status"})
        assert [operator.hear()["ok"] for _ in range(3)] == [False, False, True]


def test_reload_without_a_file_is_refused(path):
    """There is nothing to be read."""
    with Relay(NOWHERE, "--control", str(path)) as relay:
        assert ask(path, "reload") == {"ok": False, "error": "the ACL has no file to be read again"}
        relay.wait("control.command", command="reload", ok=False)


# -- the expiry ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("wall", [False, True])
def test_the_expiry_is_put_off(path, wall):
    """As far as was allowed, for sessions, for the relay, and for workers that start later."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
    options = ("--expires-at", at) if wall else ("--absolute-timeout", "4")
    with (
        listening() as server,
        Relay(server.getsockname(), *options, "--control", str(path), "--max-extend", "4") as relay,
        contextlib.ExitStack() as stack,
        Operator(path) as operator,
    ):
        (pair,) = open_sessions(stack, relay, server, 1)
        first = relay.wait("relay.active")["expires_at"]
        assert operator.ask("status")["extensible_s"] == 4
        assert operator.ask("extend", seconds=3)["ok"]
        extended = relay.wait("relay.extended")
        assert (extended["seconds"], extended["expires_at"] > first) == (3.0, True)
        refused = operator.ask("extend", seconds=1.5)
        assert refused == {"ok": False, "error": "1 seconds are left of --max-extend"}
        assert operator.ask("extend", seconds=1)["expires_at"] == relay.wait("relay.extended", 2)["expires_at"]
        worker = relay.all("session.allocated")[0]["worker"]
        other = 3 - worker
        relay.worker(other).kill()
        relay.wait("worker.exited", worker=other, **KILLED_WORKER)
        relay.wait("worker.started", 2, worker=other)
        left = operator.ask("status")["expires_in_s"]
        pass_time(max(0, left - 2))  # past the first moment
        echo(*pair)
        assert relay.wait("relay.expired")["expires_at"] == relay.all("relay.extended")[-1]["expires_at"]
        assert ends_with_reset(pair[0])
        assert relay.finish() == 0
    assert relay.wait("session.closed")["reason"] == "relay_expired"


def test_a_relay_without_an_expiry_is_not_extended(path):
    """Nor one that was started without --max-extend."""
    with Relay(NOWHERE, "--control", str(path), "--max-extend", "1h"):
        assert ask(path, "extend", seconds=1)["error"] == "the relay never expires"
    with Relay(NOWHERE, "--control", str(path), "--absolute-timeout", "1h"):
        assert ask(path, "extend", seconds=1)["error"] == "0 seconds are left of --max-extend"


def test_an_operator_is_no_activity(path):
    """Whoever only looks does not keep an idle relay alive."""
    with (
        Relay(NOWHERE, "--control", str(path), "--exit-idle", "0.3") as relay,
        Operator(path) as operator,
    ):
        with contextlib.suppress(AssertionError, ConnectionError):  # until it has ended
            while True:
                operator.ask("status")
        relay.finish()
    assert relay.records[-1]["reason"] == "idle"


# -- watching ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_watcher_gets_the_records_as_json(path, log_format):
    """From then on, down to the last one, whatever form the log has."""
    with (
        listening() as server,
        answering(server),
        Relay(
            server.getsockname(),
            *("--control", str(path), "--log-format", log_format),
            stdout=subprocess.DEVNULL,
        ) as relay,
    ):
        relay.connect_once_open().close()
        with Operator(path) as operator:
            assert operator.ask("watch") == {"ok": True}
            relay.knock()
            relay.stop()
            seen = []
            while (record := operator.hear()) is not None:
                seen.append(record)
    assert [record["seq"] for record in seen] == [*range(seen[0]["seq"], seen[-1]["seq"] + 1)]
    assert {"connection.attempt", "session.closed"} <= {record["event"] for record in seen}
    assert seen[-1]["event"] == "relay.stopped"


def test_a_watcher_may_end_its_own_sending(path):
    """It has nothing more to ask for."""
    with Relay(NOWHERE, "--control", str(path)) as relay, Operator(path) as operator:
        operator.ask("watch")
        operator.socket.shutdown(socket.SHUT_WR)
        ask(path, "pause")
        assert operator.hear()["event"] == "control.command"
        relay.stop()


def test_a_watcher_that_reads_too_slowly_is_cut_off_and_told(path):
    """Its memory is bounded, nobody else notices, and it ends with a line that says so.

    It takes a third of what there is. One that takes nothing is dropped after ten seconds, perhaps before that.
    """
    with (
        listening() as server,
        answering(server),
        Relay(server.getsockname(), "--control", str(path), "--label", f"long={'x' * 1000}") as relay,
        Operator(path) as operator,
        Operator(path) as other,
    ):
        operator.ask("watch")
        other.ask("watch")
        lines, last = iter(operator.hear, None), deque(maxlen=1)
        before = psutil.Process(relay.pid).memory_info().rss
        events = []
        for number in range(250):  # 3 MiB
            relay.knock()
            while events[-1:] != ["session.closed"]:
                events.append(other.hear()["event"])
            events.clear()
            if number % 10 == 9:
                last.extend(islice(lines, 25))
        assert psutil.Process(relay.pid).memory_info().rss - before < 6 << 20
        last.extend(lines)
        assert [*last] == [{"ok": False, "error": "cut off: more than 1048576 bytes of records were waiting"}]


# -- clients that mean no good -------------------------------------------------------------------------------


def test_another_watcher_takes_no_record_from_the_first(path):
    """Whatever form the log has, and whenever it comes or goes."""
    with (
        listening() as server,
        answering(server),
        Relay(
            server.getsockname(), "--control", str(path), "--log-format", "text", stdout=subprocess.DEVNULL
        ) as relay,
    ):
        relay.connect_once_open().close()
        with Operator(path) as first:
            first.ask("watch")
            for _ in range(30):
                relay.knock()
                with Operator(path) as other:
                    other.ask("watch")
            relay.stop()
            seen = []
            while (record := first.hear()) is not None:
                seen.append(record["seq"])
    assert seen == [*range(seen[0], seen[-1] + 1)]


def test_a_watcher_hears_of_the_end_of_many_sessions(path):
    """However much is written at once: it has not been slow."""
    with (
        listening() as server,
        Relay(
            server.getsockname(), "--control", str(path), "--max-sessions", "400", "--label", "k=" + "x" * 900
        ) as relay,
        contextlib.ExitStack() as stack,
        Operator(path, SO_RCVBUF=65536) as operator,
    ):
        open_sessions(stack, relay, server, 400)
        operator.ask("watch")
        relay.signal()
        assert operator.hear()["event"] == "relay.draining"
        relay.signal()
        events = []
        while (record := operator.hear()) is not None:
            events.append(record["event"])
        assert events.count("session.closed") == 400
        assert events[-1] == "relay.stopped"


def test_who_asks_at_once_is_served_before_room_is_made(path):
    """A client with its request under way is not the silent one."""
    with Relay(NOWHERE, "--control", str(path)), contextlib.ExitStack() as stack:
        operators = [stack.enter_context(Operator(path)) for _ in range(128)]
        for operator in operators:
            operator.ask("status")
        newcomers = []
        for _ in range(100):
            newcomers.append(stack.enter_context(Operator(path)))
            newcomers[-1].say({"command": "status"})
        assert all(operator.hear()["ok"] for operator in newcomers)


def test_a_request_that_nests_deep_is_told_so(path):
    """It is none, and harms nobody."""
    with Relay(NOWHERE, "--control", str(path)), Operator(path) as operator:
        operator.say(b'{"command":' + b"[" * 400 + b"]" * 400 + b"}\n", {"command": "status"})
        assert operator.hear()["ok"] is False
        assert operator.hear()["ok"]


def test_what_is_no_request_is_told_so(path):
    """The connection goes on, unless the request never ends."""
    with Relay(NOWHERE, "--control", str(path)) as relay, Operator(path) as operator:
        for data in (b"status\n", b"[1]\n", b'{"command": "status", "x": 1}\n', b"\xff\x00\n"):
            operator.say(data)
            assert operator.hear()["ok"] is False
        operator.say(b"\n", b"  \n", {"command": "status"})
        assert operator.hear()["ok"]
        operator.say(b"x" * 5000)
        assert operator.hear() == {"ok": False, "error": "a request has at most 4096 bytes"}
        assert operator.has_ended()
        assert not relay.all("control.command")


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize(
    ("last", "ok"),
    [
        (b'{"command": "status"}', True),
        (b'{"command": "sessions"}', True),
        (b'{"command": "kill", "client": "192.0.2.0/24"}', False),
    ],
    ids=["status", "sessions", "kill"],
)
def test_whoever_ends_its_own_sending_is_answered(path, last, ok, end):
    """As with `echo … | nc -N -U`, with or without a last newline. Some answers are made a piece at a time."""
    with Relay(NOWHERE, "--control", str(path)), Operator(path) as operator:
        operator.say({"command": "status"}, {"command": "sessions"}, last + end)
        operator.socket.shutdown(socket.SHUT_WR)
        assert [operator.hear()["ok"] for _ in range(3)] == [True, True, ok]
        assert operator.hear() is None


def test_there_are_128_clients_and_the_most_silent_makes_room(path):
    """An operator always gets in, and one that is being served is not the one to go."""
    with Relay(NOWHERE, "--control", str(path)) as relay, contextlib.ExitStack() as stack:
        watcher = stack.enter_context(Operator(path))
        watcher.ask("watch")
        silent = [stack.enter_context(Operator(path)) for _ in range(127)]
        for operator in silent:
            operator.ask("status")
        files = open_files(relay.pid)
        with Operator(path) as late:
            assert late.ask("status")["ok"]
            assert open_files(relay.pid) == files
            assert silent[0].has_ended()
            assert silent[1].ask("status")["ok"]
        ask(path, "pause")
        assert watcher.hear()["event"] == "control.command"


# -- mprelayctl ----------------------------------------------------------------------------------------------


def test_mprelayctl_asks_and_tells(path):
    """JSON where no person looks. The exit code says what came of it."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--control", str(path)) as relay,
        contextlib.ExitStack() as stack,
    ):
        open_sessions(stack, relay, server, 3)
        assert json.loads(ctl(path, "status").stdout)["active"] == 3
        sessions = json.loads(ctl(None, "--control", str(path), "sessions", "--json").stdout)
        assert [one["session"] for one in sessions] == [1, 2, 3]
        done = ctl(path, "kill", "2")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "killed": 1})
        missing = ctl(path, "--json", "kill", "2")
        assert (missing.returncode, json.loads(missing.stdout)["ok"]) == (1, False)
        assert missing.stderr == "mprelayctl: there is no session 2\n"
        assert ctl(path, "kill", "127.0.0.1").returncode == 0
        relay.wait("session.closed", 3, reason="killed")
        assert ctl(path, "pause").returncode == 0
        assert ctl(path, "resume").returncode == 0
        refused = ctl(path, "extend", "10m")
        assert (refused.returncode, refused.stderr) == (1, "mprelayctl: the relay never expires\n")
        assert ctl(path, "drain").returncode == 0
        relay.finish()
        nobody = ctl(path, "status")
        assert (nobody.returncode, nobody.stdout) == (69, "")
        assert nobody.stderr.startswith(f"mprelayctl: no relay is at {path}: ")


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("--control",),
        (),
        ("sing",),
        ("kill",),
        ("kill", "x"),
        ("kill", "127.0.0.1/33"),
        ("extend",),
        ("extend", "0"),
        ("extend", "soon"),
        ("status", "now"),
    ],
)
def test_wrong_words_are_usage(words):
    """The program says what would be right. Nothing is asked of anybody."""
    wrong = ctl(None, *words)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("usage: mprelayctl")


def until_it_hears(path, watching):
    """Let records be written until this process has written one of them."""

    def hears():
        ask(path, "pause")
        return select.select([watching.stdout], [], [], 0)[0]

    eventually(hears, "it watches")


def test_mprelayctl_watches_into_a_pipe(path):
    """Down to the last record. A program that reads no more ends it without a word."""
    with (
        Relay(NOWHERE, "--control", str(path), "--stats-interval", "0") as relay,
        subprocess.Popen([CTL, "--control", path, "watch"], stdout=subprocess.PIPE) as watching,
        subprocess.Popen(
            ["sh", "-c", '"$0" --control "$1" watch | head -1', CTL, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as cut,
    ):
        until_it_hears(path, watching)
        until_it_hears(path, cut)
        relay.stop()
        seen = [*map(json.loads, watching.stdout)]
        assert watching.wait(PATIENCE) == 0
        first, errors = cut.communicate(timeout=PATIENCE)
        assert first.count(b"\n") == 1
        assert errors == b""
    assert (seen[0]["event"], seen[-1]["event"]) == ("control.command", "relay.stopped")


def test_a_watch_that_lost_records_says_so(path):
    """The relay is killed: nobody can know what it would have written."""
    with (
        Relay(NOWHERE, "--control", str(path)) as relay,
        subprocess.Popen(
            [CTL, "--control", path, "watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as watching,
    ):
        until_it_hears(path, watching)
        relay.kill()
        _, errors = watching.communicate(timeout=PATIENCE)
        assert watching.returncode == 1
        assert b"records are missing" in errors


def test_a_stopped_relay_is_not_waited_for(path):
    """There is an answer within ten seconds, or exit code 69."""
    with Relay(NOWHERE, "--control", str(path)) as relay:
        relay.suspend()
        try:
            silent = ctl(path, "status")
        finally:
            relay.resume()
        assert (silent.returncode, silent.stdout) == (69, "")
        assert "does not answer" in silent.stderr


def test_the_program_shows_what_it_can():
    """Its help names all commands, and its version is the relay's."""
    text = ctl(None, "--help").stdout
    for command in ("status", "sessions", "kill", "drain", "pause", "resume", "reload", "extend", "watch"):
        assert f"    {command} " in text
    version = run(PROGRAM, "--version") if Path(PROGRAM).exists() else None
    assert version is None or ctl(None, "--version").stdout.split()[1] == version.stdout.decode().split()[1]
