"""The program with a configuration file and with variables."""

import os
import subprocess
import tomllib

import pytest
from support.judge import check_run, parse
from support.launching import PROGRAM, run
from support.peers import accept, free_port, listening, receive
from support.relay import Relay
from support.waiting import PATIENCE

GOOD = ("8080", "127.0.0.1", "80", "ANY")


def refused(*args, **options):
    """Run the program with something wrong; return the records."""
    done = run(*args, **options)
    assert done.returncode == 2
    records = parse(done.stdout)
    check_run(records)
    assert {record["event"] for record in records} == {"config.invalid"}
    return records


def environment(**variables):
    return {**os.environ, **variables}


@pytest.fixture
def config(tmp_path):
    """Write a configuration file; return its path."""

    def write(text):
        path = tmp_path / "relay.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o600)
        return str(path)

    return write


def test_a_relay_runs_from_its_file(config, tmp_path):
    """Its rules are named from the file's own folder, whatever the working directory is; variables are heard."""
    (tmp_path / "rules").write_text("127.0.0.1/32\n")
    (tmp_path / "rules").chmod(0o600)
    path = config('acl = "@rules"\nidle_timeout = "5m"\nworkers = 1\n[label]\nticket = "CHG-7"\n')
    with listening() as server:
        variables = environment(MPRELAY_WORKERS="2", MPRELAY_MAX_SESSIONS="7", MPRELAY_LOG_DETAIL="")
        relay = Relay(server.getsockname(), env=variables)
        relay.args[3:] = ["--config", path, "--stats-interval", "0"]
        with relay, relay.connect() as client, accept(server) as target:
            client.sendall(b"through")
            assert receive(target, 7) == b"through"
            active = relay.wait("relay.active")
    assert (active["acl"], active["workers"], active["max_sessions"]) == ("@rules", 2, 7)
    assert (active["options"]["idle_timeout"], active["options"]["stats_interval"]) == ("5m", "0")
    assert active["labels"] == {"ticket": "CHG-7"}


def test_everything_may_come_from_the_file(config):
    """Only the variable names it, and there is no argument at all."""
    path = config('fwd_port = 0\ntrg_host = "127.0.0.1"\ntrg_port = 80\nacl = "ANY"\n')
    (record,) = refused(env=environment(MPRELAY_CONFIG=path))
    assert (record["parameter"], record["value"], record["msg_id"]) == ("fwd_port", "0", 2)
    assert record["problem"].startswith("<fwd port> '0' in line 1 of '")


def test_every_wrong_value_of_every_source_is_told(config):
    path = config("workers = true\nidle_timout = 5\ndrain_timeout = inf\n")
    records = refused(*GOOD, "4", "--config", path, env=environment(MPRELAY_KEEPALIVE="x"))
    assert [(record["parameter"], record["value"]) for record in records] == [
        ("config", "idle_timout"),
        ("workers", "true"),
        ("connect_timeout", "4"),
        ("keepalive", "x"),
        ("drain_timeout", "inf"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"x = " + b"[" * 2000,
        b"x = " + b"9" * 5000,
        b"\xff",
        b"a = 1\na = 2",
        b"",
        b"\xef\xbb\xbf[",
        b"a = 1\rb = 1",
    ],
)
def test_no_file_is_a_traceback(config, text):
    """An empty one gives nothing, which is right."""
    done = run(*GOOD[:3], "--config", config(text))
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert {record["parameter"] for record in parse(done.stdout)} == {"config" if text else "acl"}


@pytest.mark.posix("owners, modes and FIFOs")
@pytest.mark.parametrize("kind", ["fifo", "folder", "writable", "device", "missing"])
def test_the_file_is_read_as_rules_are(tmp_path, kind):
    """What could hold up the relay, or is somebody else's to change, is refused at once."""
    path = tmp_path / "relay.toml"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "writable":
            path.write_text("workers = 2\n")
            path.chmod(0o666)
    (record,) = refused(*GOOD, "--config", str(path))
    assert record["parameter"] == "config"
    wrong = {"writable": "chmod go-w", "missing": "No such file"}.get(kind, "is not a regular file")
    assert wrong in record["problem"]


def test_check_does_what_a_start_does_and_starts_nothing(config):
    """Beside the live relay, with its own port. What it shows, as the file, shows the same again."""
    with listening() as server, Relay(server.getsockname(), "--label", "ticket=CHG-7") as relay:
        relay.wait("relay.active")
        shown = run(*relay.args[:4], "--check", "--label", "ticket=CHG-7")
        assert (shown.returncode, shown.stderr) == (0, b"")
        table = tomllib.loads(shown.stdout.decode())
        assert (table["fwd_port"], table["label"]) == (relay.port, {"ticket": "CHG-7"})
        again = run("--config", config(shown.stdout), "--check")
        assert (again.returncode, again.stdout) == (0, shown.stdout)
        (record,) = refused("--config", config(shown.stdout), "--check", "--workers", "0")
        assert record["parameter"] == "workers"
        with relay.connect(), accept(server):
            pass


@pytest.mark.posix("strace(1)")
def test_check_binds_nothing_and_starts_nothing(tool):
    """The kernel is the witness. A descriptor that is handed over does not matter."""
    port = str(free_port())
    trace = [tool("strace"), "-f", "-qq", "-e", "trace=bind,listen,clone,clone3,fork,vfork"]
    done = subprocess.run(
        [*trace, PROGRAM, port, "127.0.0.1", "80", "ANY", "--check"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(LISTEN_FDS="x", LISTEN_PID="1"),
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_wrong_file_of_rules_fails_the_check(tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("10.0.0.0/8\n10.0.0.1\n")
    rules.chmod(0o600)
    (record,) = refused(*GOOD[:3], f"@{rules}", "--check")
    assert (record["parameter"], record["value"], record["msg_id"]) == ("acl", "10.0.0.1", 5)
    assert "line 2 of" in record["problem"]


@pytest.mark.posix("the locale's encoding of variables")
def test_variables_are_utf8_in_any_locale():
    plain = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", MPRELAY_LABEL="Söhne=žluťoučký 😀")
    shown = run(*GOOD, "--check", env=plain)
    assert tomllib.loads(shown.stdout.decode())["label"] == {"Söhne": "žluťoučký 😀"}
    (record,) = refused(*GOOD, env={**os.environb, b"MPRELAY_LABEL": b"k=\xff"})
    assert "must be valid UTF-8" in record["problem"]
