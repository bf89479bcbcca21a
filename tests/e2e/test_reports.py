"""``mprelayctl report``: a log turned into a page for somebody who was not there."""

import contextlib
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
from collections import Counter

import pytest
from support.control import CTL
from support.formats import event_of
from support.logs import usual_run
from support.peers import accept, echo, listening
from support.relay import Relay, open_sessions
from support.rich import busy, expiring, refused, unable
from support.sealed import Log as SealedLog
from support.sealed import b64, key_of, public
from support.waiting import PATIENCE

pytestmark = pytest.mark.posix("the log is read where it was written, and a page is looked at there")

HOSTILE = "</script><img src=x onerror=\"document.title='hurt'\">"


def run(*arguments, code=0, **options):
    """Run the command; return what it says on stdout."""
    command = [CTL, "report", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, **options)
    assert done.returncode == code, (done.returncode, done.stdout[-500:], done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stdout


def report(*arguments, **options):
    """The report as an object."""
    return json.loads(run(*arguments, **options))


def lines_of(records):
    """Records as they stand in a log."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def log(tmp_path):
    """A file with the log of a usual run."""
    file = tmp_path / "run.jsonl"
    file.write_bytes(lines_of(usual_run().records))
    return file


def counted(records):
    """What a report must say of a run, counted by other means."""
    closed = [record for record in records if record["event"] == "session.closed"]
    more = [record for record in records if record["event"] == "connection.refused_more"]
    kinds = Counter(record["event"].removeprefix("connection.") for record in records)
    refused = {
        kind: kinds[event] + sum(record["count"] for record in more if record["refused"] == kind)
        for kind, event in {
            "rejected": "rejected",
            "limited": "limited",
            "abandoned": "abandoned",
            "proxy_invalid": "proxy_invalid",
            "exhausted": "pool_exhausted",
        }.items()
    }
    return {
        "sessions": len(closed),
        "clients": len({record["client_ip"] for record in closed}),
        "bytes_from_client": sum(record["bytes_from_client"] for record in closed),
        "bytes_from_target": sum(record["bytes_from_target"] for record in closed),
        "with_error": sum(record["error"] is not None for record in closed),
        "refused": sum(refused.values()),
        "refused_summed_up": sum(record["count"] for record in more),
        **refused,
    }


def test_a_busy_run_is_reported_as_it_was(tmp_path):
    """All figures, counted a second time by other means."""
    file = tmp_path / "log"
    file.write_bytes(busy("json", tmp_path))
    records = [json.loads(line) for line in file.read_bytes().splitlines()]
    made = report(file)
    assert made["verdict"] == "whole"
    (one,) = made["runs"]
    assert {name: one["totals"][name] for name in counted(records)} == counted(records)
    assert len(one["checks"]) > 15
    assert all(check["agrees"] for check in one["checks"])
    reasons = Counter(record["reason"] for record in records if record["event"] == "session.closed")
    assert {row["reason"]: row["sessions"] for row in one["reasons"]["rows"]} == reasons
    clients = Counter(record["client_ip"] for record in records if record["event"] == "session.closed")
    assert {row["client_ip"]: row["sessions"] for row in one["clients"]["rows"]} == clients
    active = next(record for record in records if record["event"] == "relay.active")
    door = one["door"]
    for name in ("opened_by", "host", "listen_port", "target_host", "acl", "expires_at", "version"):
        assert door[name] == active[name], name
    assert door["labels"] == active["labels"]
    assert (door["stopped_because"], door["stopped_at"]) == ("signal", records[-1]["timestamp"])
    happened = {one["event"] for one in door["happenings"]}
    assert happened >= {"relay.active", "worker.exited", "acl.reloaded", "acl.reload_failed", "relay.stopped"}


@pytest.mark.parametrize("log_format", ["ecs", "ocsf", "gcp"])
def test_all_formats_give_the_same(log_format, tmp_path):
    """What stands in the records, whatever their shape. Text is no log that can be read back."""
    file = tmp_path / "log"
    file.write_bytes(busy(log_format, tmp_path))
    (one,) = report(file)["runs"]
    assert (one["verdict"], [finding for finding in one["findings"] if finding["grave"]]) == ("whole", [])
    events = Counter(event_of(log_format, json.loads(line)) for line in file.read_bytes().splitlines())
    totals = one["totals"]
    assert (totals["sessions"], totals["rejected"]) == (events["session.closed"], 12)
    assert all(check["agrees"] for check in one["checks"])
    assert one["door"]["opened_by"] is not None
    assert "CHG-1042" in one["door"]["labels"].values()


def test_runs_of_other_kinds():
    """One that expired, with a record a session; one that was never started; one that could not listen."""
    for data, code in ((expiring("json"), 0), (refused("json"), 0), (unable("json"), 0)):
        made = report("-", input=data, code=code)
        assert made["verdict"] == "whole"
        opened = made["runs"][0]["door"]["opened_at"] is not None
        assert made["runs"][0]["door"]["never_opened"] is not opened


def test_a_relay_that_was_killed_leaves_an_open_log(tmp_path):
    file = tmp_path / "log"
    with listening() as server, contextlib.ExitStack() as stack:
        with Relay(server.getsockname()) as relay:
            ((client, peer),) = open_sessions(stack, relay, server, 1)
            echo(client, peer)
            port = client.getsockname()[1]
            relay.kill()
        file.write_bytes(lines_of(relay.records))
    made = report(file, code=3)
    (one,) = made["runs"]
    assert (made["verdict"], one["verdict"], one["unended"]["count"]) == ("open", "open", 1)
    assert one["unended"]["sessions"][0]["client_port"] == port


def test_who_steered_a_relay_is_named(tmp_path):
    control = tmp_path / "control"
    with listening() as server, contextlib.ExitStack() as stack:
        options = ("--control", str(control), "--max-extend", "1h", "3", "300", "3600")
        with Relay(server.getsockname(), *options) as relay:
            open_sessions(stack, relay, server, 1)
            for command in (("extend", "60"), ("kill", "1")):
                subprocess.run(
                    [CTL, "--control", control, *command], check=True, capture_output=True, timeout=PATIENCE
                )
            relay.wait("session.closed")
    (one,) = report("-", input=lines_of(relay.records))["runs"]
    door = one["door"]
    assert [(command["peer_uid"], command["ok"]) for command in door["commands"]] == [(os.getuid(), True)] * 2
    assert door["extended_until"] > door["expires_at"]
    assert [session["reason"] for session in one["odd"]["sessions"]] == ["killed"]


# -- the files -----------------------------------------------------------------------------------------------


def test_rotated_and_compressed_files_are_one_log(tmp_path, log):
    """In whatever order they are given; a second member of gzip, and zstd, are read too."""
    zstandard = pytest.importorskip("zstandard")
    lines = log.read_bytes().splitlines(keepends=True)
    parts = [lines[:5], lines[5:9], lines[9:15], lines[15:]]
    first, second, third = (b"".join(part) for part in (parts[0] + parts[1], parts[2], parts[3]))
    (tmp_path / "1.gz").write_bytes(gzip.compress(b"".join(parts[0])) + gzip.compress(b"".join(parts[1])))
    (tmp_path / "2.zst").write_bytes(zstandard.ZstdCompressor().compress(second))
    (tmp_path / "3").write_bytes(third)
    files = [tmp_path / name for name in ("1.gz", "2.zst", "3")]
    whole = report(log)
    assert len(first) < len(log.read_bytes())
    for order in (files, files[::-1]):
        made = report(*order)
        assert made["runs"][0]["totals"] == whole["runs"][0]["totals"]
        assert made["verdict"] == "whole"
    without = report(files[0], files[2], code=1)
    assert "6 records are missing: seq 10 to 15." in [one["text"] for one in without["runs"][0]["findings"]]
    twice = report(*files, files[1], code=1)
    assert twice["runs"][0]["findings"][0]["text"].startswith("6 records are there twice")
    assert twice["runs"][0]["totals"] == whole["runs"][0]["totals"]


def test_all_that_can_be_read_is_used_and_the_rest_is_named(tmp_path, log):
    lines = log.read_bytes().splitlines(keepends=True)
    packed = tmp_path / "cut.gz"
    data = gzip.compress(b"".join(lines))
    packed.write_bytes(data[: len(data) * 2 // 3])
    cut = report(packed, code=3)
    assert 0 < cut["records"] < len(lines)
    assert "ends too early" in cut["troubles"][0]["problem"]
    trailing = tmp_path / "trailing.gz"
    trailing.write_bytes(gzip.compress(b"".join(lines)) + b"rubbish")
    assert "not compressed" in report(trailing, code=1)["troubles"][0]["problem"]
    other = tmp_path / "other"
    other.write_bytes(
        b"Nov 26 systemd[1]: Started.\n" + b"".join(lines[:3]) + b"{}\n\xff\n[]\n" + b"".join(lines[3:])
    )
    made = report(other)
    assert (made["verdict"], made["files"][0]["other_lines"]) == ("whole", 4)
    assert [trouble["line"] for trouble in made["troubles"]] == [1, 5, 6, 7]
    hole = tmp_path / "hole"
    hole.write_bytes(b"\0" * 10_000_000 + b"".join(lines))
    assert "append to its file" in report(hole, code=1)["troubles"][0]["problem"]
    torn = tmp_path / "torn"
    torn.write_bytes(b"".join(lines)[:-1])
    made = report(torn, code=3)
    assert (made["records"], made["runs"][0]["verdict"]) == (len(lines), "whole")
    made = report(tmp_path / "nowhere", log, code=1)
    assert (made["records"], made["runs"][0]["verdict"]) == (len(lines), "whole")
    assert made["troubles"][0]["problem"] == "No such file or directory"
    (tmp_path / "empty").touch()
    assert report(tmp_path / "empty", code=1)["verdict"] == "broken"


# -- seals ---------------------------------------------------------------------------------------------------


def sealed(signer=None, *, closed=True):
    """A sealed log of one session."""
    made = SealedLog(signer=signer)
    made.record("relay.active", listen_port=8080, opened_by="alice", log_detail="session")
    made.record("session.closed", session=1, client_ip="192.0.2.7", reason="drained", bytes_from_client=5)
    made.checkpoint()
    totals = {"attempts": 1, "admitted": 1, "bytes_from_client": 5, "closed": {"drained": 1}}
    if closed:
        made.record("relay.stopped", reason="signal", **totals)
        made.checkpoint()
    return made


def test_the_verdict_on_a_seal_stands_on_top(tmp_path):
    signer = key_of(7)
    trusted = ("--key", b64(public(signer)))
    file = tmp_path / "log"
    file.write_bytes(sealed(signer).data)
    assert report(file)["runs"][0]["seal"]["signer_known"] is False
    made = report(file, *trusted, "--html", tmp_path / "page")
    assert (made["verdict"], made["runs"][0]["seal"]["signer_known"]) == ("whole", True)
    assert "Sealed: of 6 records none was changed" in (tmp_path / "page").read_text()
    stranger = report(file, "--key", b64(public(key_of(8))), code=1)
    assert "The seal is by none of the keys given" in stranger["runs"][0]["seal"]["said"][0]
    file.write_bytes(sealed(signer, closed=False).data)
    assert report(file, *trusted, code=3)["runs"][0]["seal"]["verdict"] == "open"


def test_a_relay_that_seals_its_log_is_whole(tmp_path):
    """From its first record to the checkpoint behind its last one."""
    file = tmp_path / "log"
    with (
        file.open("wb") as stream,
        listening() as server,
        Relay(server.getsockname(), "--seal", stdout=stream) as relay,
        relay.connect_once_open() as client,
        accept(server) as peer,
    ):
        echo(client, peer)
    made = report(file)
    (one,) = made["runs"]
    assert (made["verdict"], one["seal"]["verdict"], one["seal"]["sealed"]) == ("whole", "whole", one["records"])
    assert one["totals"]["sessions"] == 1


def test_a_change_that_no_figure_shows_is_shown_by_the_seal(tmp_path):
    file = tmp_path / "log"
    data = sealed().data.replace(b"192.0.2.7", b"192.0.2.8")
    file.write_bytes(data)
    made = report(file, code=1)
    (one,) = made["runs"]
    assert (made["verdict"], [finding["grave"] for finding in one["findings"]].count(True)) == ("broken", 0)
    assert one["seal"]["problem"] is not None


def test_runs_that_are_sealed_and_runs_that_are_not(tmp_path, log):
    """Each is judged as what it is. Another program's line breaks a file with a seal."""
    file = tmp_path / "log"
    file.write_bytes(log.read_bytes() + sealed().data)
    made = report(file)
    assert [run["seal"] and run["seal"]["verdict"] for run in made["runs"]] == [None, "whole"]
    file.write_bytes(sealed().data + b"else\n" + log.read_bytes())
    made = report(file, code=1)
    assert [run["verdict"] for run in made["runs"]] == ["whole", "whole"]
    assert made["verdict"] == "broken"


def test_a_log_that_must_be_sealed_and_is_not(log):
    assert report(log, "--key", b64(public(key_of(1))), code=1)["runs"][0]["seal"]["verdict"] == "broken"


# -- the page and the text -----------------------------------------------------------------------------------


def test_the_same_log_gives_the_same_bytes_everywhere(tmp_path):
    """Over a change of the clocks, in four zones."""
    made = usual_run().records
    for record in made:
        record["timestamp"] = record["timestamp"].replace("2026-11-26T12:00:00", "2026-10-25T00:59:59")
    file = tmp_path / "log"
    file.write_bytes(lines_of(made))
    seen = set()
    for zone in ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"):
        environment = os.environ | {"TZ": zone}
        said = run(file, "--html", tmp_path / "page", env=environment)
        seen.add((said, (tmp_path / "page").read_bytes()))
    assert len(seen) == 1
    ((_, page),) = seen
    assert b"2026-10-25 00:59:59.007 UTC" in page


def test_the_page_replaces_what_was_there_at_once(tmp_path, log):
    place, link = tmp_path / "page.html", tmp_path / "link"
    place.write_text("before")
    place.chmod(0o600)
    link.symlink_to(place)
    run(log, "--html", link)
    assert place.read_text().endswith("</html>\n")
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "page.html", "run.jsonl"]


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, log):
    before = log.read_bytes()
    os.mkfifo(tmp_path / "fifo")
    for out, said in (
        (log, b"one of the files"),
        (tmp_path / "fifo", b"no regular file"),
        (tmp_path, b"no regular file"),
        (tmp_path / "nowhere" / "page", b"No such file"),
        ("/proc/page", b""),
    ):
        done = subprocess.run(
            [CTL, "report", log, "--html", out], capture_output=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 2, out
        assert done.stderr.startswith(b"mprelayctl: --html "), done.stderr
        assert said in done.stderr
        assert done.stdout == b""
    assert log.read_bytes() == before
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "run.jsonl"]


def test_a_terminal_gets_text(log):
    """And nothing in a log commands it."""
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    for record in records:
        record["labels"] = {"note": "\x1b]0;x\x07\x9b\u202e"}
    log.write_bytes(lines_of(records))
    words = f"import pty; import sys; sys.exit(pty.spawn(['{CTL}', 'report', '{log}']) >> 8)"
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", words],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
        env=environment,
    )
    text = done.stdout.decode()
    assert text.startswith("Whole: nothing is missing, and all figures agree.")
    assert "\\x1b]0;x\\x07\\x9b\\u202e" in text
    assert "\x1b]" not in text


def test_a_reader_that_leaves_ends_it_without_a_word(log):
    with subprocess.Popen([CTL, "report", log], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(PATIENCE) in {0, -signal.SIGPIPE}
    assert errors == b""


def browse(chromium, place, page, *options):
    """Let Chromium look at a page; return what it says and complains of."""
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place / 'profile'}"),
        *("--enable-logging=stderr", "--v=0", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, timeout=90, check=True)


def test_a_browser_shows_the_page_and_runs_nothing(tool, tmp_path, log):
    """A script that somebody has put in does not run, and the browser says so: the test can see that."""
    chromium = tool("chromium")
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    for record in records:
        record["labels"] = {"note": HOSTILE, "b": "<!--<script>", "u": "a\u2028b"}
    log.write_bytes(lines_of(records))
    page = tmp_path / "page.html"
    run(log, "--html", page)
    seen = browse(chromium, tmp_path, page, "--dump-dom")
    shown = seen.stdout.decode()
    assert "<title>mprelay report: whole</title>" in shown
    assert "&lt;/script&gt;&lt;img src=x onerror=" in shown
    assert "&lt;!--&lt;script&gt;" in shown
    assert b"Content Security Policy" not in seen.stderr
    page.write_text(page.read_text().replace("</main>", "<script>document.title='hurt'</script></main>"))
    seen = browse(chromium, tmp_path, page, "--dump-dom")
    assert b"<title>mprelay report: whole</title>" in seen.stdout
    assert b"Content Security Policy" in seen.stderr


def test_the_page_can_be_printed(tool, tmp_path, log):
    chromium = tool("chromium")
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    run(log, "--html", page)
    browse(chromium, tmp_path, page, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    assert printed.read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(tmp_path):
    """Ten times as many records of ten times as many clients take hardly more."""
    taken = []
    for sessions in (20_000, 200_000):
        file = tmp_path / "log"
        with file.open("wb") as stream:
            for record in many(sessions):
                stream.write(json.dumps(record).encode() + b"\n")
        words = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3, check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", words, CTL, "report", file], capture_output=True, timeout=110, check=True
        )
        taken.append(int(done.stdout))
    assert taken[1] < taken[0] * 1.2, taken


def many(sessions):
    """A log with one record a session, each of another client."""
    common = {"timestamp": "2026-11-26T12:00:00.000000Z", "level": "info", "relay_id": "r", "message": "x"}
    yield common | {"event": "relay.active", "log_detail": "session", "seq": 1}
    for number in range(1, sessions + 1):
        yield common | {
            "event": "session.closed",
            "seq": number + 1,
            "session": number,
            "client_ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "target_ip": "192.0.2.1",
            "reason": "drained",
            "bytes_from_client": number,
            "bytes_from_target": 0,
            "duration_ms": 1.0,
        }
    total = sessions * (sessions + 1) // 2
    closed = {
        "attempts": sessions,
        "admitted": sessions,
        "bytes_from_client": total,
        "closed": {"drained": sessions},
    }
    yield common | {"event": "relay.stopped", "reason": "signal", "seq": sessions + 2, **closed}
