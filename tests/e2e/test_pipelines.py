"""Collectors that take the records of a real run. What comes out is compared with each record."""

import contextlib
import gzip
import json
import re
import shlex
import subprocess
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from support import rich
from support.judge import check_run, parse
from support.peers import answering, listening
from support.relay import Relay
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.posix("collectors of this system")

OPERATIONS = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()

RSYSLOG = """\
global(workDirectory="{place}")
module(load="imuxsock" SysSock.Use="off")
{documented}
"""

SYSLOG_NG = """\
@version: 3.38
options {{ stats-freq(0); }};
{documented}
"""

COPYTRUNCATE = "{file} {{\n rotate 9\n copytruncate\n}}\n"

JOURNAL = """\
mount -t tmpfs none /run && mkdir -p /run/log/journal && mount -t tmpfs none /etc/systemd
printf '[Journal]\\nRateLimitIntervalSec=0\\n' >/etc/systemd/journald.conf
"$0" & daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
for _ in $(seq 300); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.1; done
systemd-cat -t mprelay cat
journalctl --sync
journalctl --directory=/run/log/journal -t mprelay -o cat
"""


def documented(beginning, place):
    """The block of docs/operations.md that begins like this, for another directory."""
    block = re.search(rf"^    {re.escape(beginning)}.*\n(?:    .*\n)*", OPERATIONS, re.MULTILINE)
    assert block, f"docs/operations.md does not show {beginning}"
    return textwrap.dedent(block[0]).replace("/var/log/relay", str(place))


def fed(command, log_format, place, by=lambda sink: sink, **options):
    """Feed a command with a run; return what the run wrote and what the command wrote.

    `by` may put something between the run and the command's stdin.
    """
    with (
        (place / "written").open("w+b") as written,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=written, **options) as consumer,
    ):
        try:
            output = rich.busy(log_format, place, sink=by(consumer.stdin))
            consumer.stdin.close()
            assert consumer.wait(PATIENCE) == 0
        finally:
            consumer.kill()
        written.seek(0)
        return output, written.read()


@pytest.mark.parametrize("log_format", ["json", "ecs", "ocsf", "gcp"])
def test_jq(tool, log_format, tmp_path):
    """Every value is the same."""
    output, written = fed([tool("jq"), "--unbuffered", "-c", "."], log_format, tmp_path)
    assert [json.loads(line) for line in written.splitlines()] == [*map(json.loads, output.splitlines())]


def rotation(logrotate, configuration, place):
    """Make a function that rotates at once what a configuration names."""
    file = place / "rotation"
    file.write_text(configuration)
    file.chmod(0o644)  # logrotate takes no file that others may write
    command = [logrotate, "--state", place / "state", "--force", file]
    return lambda: subprocess.run(command, check=True, timeout=PATIENCE)


def pieces(file):
    """What rotations have left of a file, the oldest piece first."""
    old = {
        int(piece.name.removeprefix(file.name + ".").removesuffix(".gz")): piece
        for piece in file.parent.glob(f"{file.name}.*")
    }
    contents = [piece.read_bytes() for _, piece in sorted(old.items(), reverse=True)]
    contents += [file.read_bytes()] if file.exists() else []
    return [gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content for content in contents]


def serve(clients, file):
    """Call some clients, until the last record of each session stands in the file."""
    closed = b'"event":"session.closed"'
    wanted = len(clients) + (file.read_bytes().count(closed) if file.exists() else 0)
    for client in clients:
        client()
    eventually(lambda: file.read_bytes().count(closed) >= wanted, "the records are in the file")


@contextlib.contextmanager
def writing_to(file, target, mode="ab"):
    """A relay whose records go to a file, as the shell opens it for `>>` (ab) or for `>` (wb)."""
    with file.open(mode) as opened, Relay(target.getsockname(), stdout=opened) as relay:
        serve([lambda: relay.connect_once_open().close()], file)
        yield relay


def test_logrotate_renames_the_file_of_a_run(tool, tmp_path):
    """The relay goes on in it, however often logrotate comes. It is compressed once the next run's is renamed."""
    file = tmp_path / "web.jsonl"
    settings = documented("/var/log/relay/*.jsonl", tmp_path).replace("/usr/lib/rsyslog/rsyslog-rotate", "true")
    rotate = rotation(tool("logrotate"), settings, tmp_path)
    with listening() as server, answering(server):
        with writing_to(file, server) as relay:
            serve([relay.knock] * 5, file)
            for _ in range(3):
                rotate()
                serve([relay.knock] * 5, tmp_path / "web.jsonl.1")
        with writing_to(file, server) as relay:
            serve([relay.knock] * 5, file)
            rotate()
    assert {path.name for path in tmp_path.glob("web*")} == {"web.jsonl.1", "web.jsonl.2.gz"}
    for run in pieces(file):
        check_run(parse(run))


@pytest.mark.parametrize(("mode", "hole"), [("ab", False), ("wb", True)])
def test_logrotate_copies_and_truncates(mode, hole, tool, tmp_path):
    """At a quiet moment nothing is lost. The file begins with NUL bytes if it was not opened to append."""
    file = tmp_path / "web.jsonl"
    rotate = rotation(tool("logrotate"), COPYTRUNCATE.format(file=file), tmp_path)
    with listening() as server, answering(server), writing_to(file, server, mode) as relay:
        for _ in range(3):
            serve([relay.knock] * 5, file)
            rotate()
    contents = pieces(file)
    assert len(contents) == 4
    assert contents[-1].startswith(b"\0") == hole
    check_run(parse(b"".join(content.lstrip(b"\0") for content in contents)))


@contextlib.contextmanager
def daemon(command, place):
    """A syslog daemon that listens on a socket of its own."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually((place / "socket").exists, "the daemon listens")
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextlib.contextmanager
def rsyslog(tool, place):
    """A daemon with the documented settings."""
    settings = place / "conf"
    settings.write_text(RSYSLOG.format(place=place, documented=documented("input(type=", place)))
    with daemon([tool("rsyslogd"), "-n", "-f", settings, "-i", "NONE"], place) as process:
        yield process


@contextlib.contextmanager
def syslog_ng(tool, place):
    """The same. Debian has it only in the place of rsyslog, so .ci/run unpacks it elsewhere."""
    settings = place / "conf"
    settings.write_text(SYSLOG_NG.format(documented=documented("source s_relay", place)))
    files = [f"--{name}={place / name}" for name in ("persist-file", "control", "pidfile")]
    with daemon([tool("syslog-ng"), "-F", "--no-caps", "-f", settings, *files], place) as process:
        yield process


class Rotated:
    """Passes records on, and has the file of the daemon rotated each time some more have come."""

    def __init__(self, sink, file, rotate):
        self._sink = sink
        self._file = file
        self._rotate = rotate
        self._count = 0

    def write(self, line):
        """Pass a record on. A rotation waits until the daemon has followed the one before."""
        self._sink.write(line)
        self._count += 1
        if self._count % 40 == 0:
            self._sink.flush()
            eventually(self._file.exists, "the daemon has begun a new file")
            self._rotate()

    def flush(self):
        """Pass on what is left."""
        self._sink.flush()


@pytest.mark.parametrize("syslog", [rsyslog, syslog_ng])
def test_syslog(syslog, tool, tmp_path):
    """Through logger(1), in the longest of the formats but one. Rotations meanwhile lose nothing."""
    shown = re.search(r"exec (logger [^)]*)\)", OPERATIONS)
    _, *options = shlex.split(shown[1].replace("/var/log/relay", str(tmp_path)))
    file = tmp_path / "records.jsonl"
    with syslog(tool, tmp_path) as process:
        reopen = f"kill -HUP {process.pid}"
        settings = documented("/var/log/relay/*.jsonl", tmp_path).replace(
            "/usr/lib/rsyslog/rsyslog-rotate", reopen
        )
        rotate = rotation(tool("logrotate"), settings, tmp_path)
        command = [tool("logger"), *options]
        output, _ = fed(command, "ecs", tmp_path, lambda sink: Rotated(sink, file, rotate))
        eventually(lambda: len(b"".join(pieces(file))) >= len(output), "the daemon has written all")
    contents = pieces(file)
    assert b"".join(contents) == output
    assert len(contents) > 2


def test_journald(tool, tmp_path):
    """Through systemd-cat, byte by byte, if nothing limits the rate."""
    journald = Path("/lib/systemd/systemd-journald")
    own = [tool("unshare"), "--mount", "--propagation", "private"]
    if subprocess.run(
        [*own, "mount", "-t", "tmpfs", "none", "/run"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no mount namespace")
    if not journald.exists():
        pytest.skip("journald is not installed")
    command = [*own, "bash", "-ec", JOURNAL, str(journald)]
    output, written = fed(command, "json", tmp_path, stderr=subprocess.DEVNULL)
    assert written == output


def without_nulls(value):
    """A value as a table has it: what is null is not there, and a moment is one."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value


@pytest.mark.parametrize("log_format", ["json", "ecs", "ocsf", "gcp"])
def test_duckdb(log_format, tmp_path):
    """It infers one type for each field of a whole run, objects included, and every value is the same."""
    file = tmp_path / "records.jsonl"
    file.write_bytes(rich.busy(log_format, tmp_path))
    options = (
        "format='newline_delimited', sample_size=-1, map_inference_threshold=-1, field_appearance_threshold=0"
    )
    query = f"SELECT * FROM read_json('{file}', {options})"  # noqa: S608 - ours
    found = duckdb.sql(query)
    rows = [without_nulls(dict(zip(found.columns, row, strict=True))) for row in found.fetchall()]
    assert rows == [without_nulls(json.loads(line)) for line in file.read_bytes().splitlines()]
    if log_format == "json":
        assert len(rows) == parse(file.read_bytes())[-1]["seq"]
