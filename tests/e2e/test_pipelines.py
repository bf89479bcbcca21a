"""Collectors that take the records of a real run. What comes out is compared with each record."""

import contextlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from support import rich
from support.judge import parse
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.posix("collectors of this system")

RSYSLOG = """\
global(workDirectory="{place}" maxMessageSize="8k")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{place}/log")
template(name="record" type="string" string="%msg:2:$%\\n")
action(type="omfile" file="{place}/out" template="record")
"""

SYSLOG_NG = """\
@version: 3.38
options {{ log-msg-size(8192); stats-freq(0); }};
source records {{ unix-dgram("{place}/log"); }};
destination file {{ file("{place}/out" template("$MSG\\n")); }};
log {{ source(records); destination(file); }};
"""

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


def fed(command, log_format, place, **options):
    """Feed a command with a run; return what the run wrote and what the command wrote."""
    with (
        (place / "written").open("w+b") as written,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=written, **options) as consumer,
    ):
        try:
            output = rich.busy(log_format, place, consumer.stdin)
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


@contextlib.contextmanager
def daemon(command, place):
    """A syslog daemon that listens on a socket of its own."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually((place / "log").exists, "the daemon listens")
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def through_logger(logger, place):
    """Feed logger(1) as docs/operations.md has it; compare what the daemon wrote."""
    command = [logger, "-S", "4096", "--socket-errors=on", "-t", "mprelay", "-u", str(place / "log")]
    output, _ = fed(command, "ecs", place)
    out = place / "out"
    eventually(lambda: out.exists() and out.stat().st_size >= len(output), "the daemon has written all")
    assert out.read_bytes() == output


def test_rsyslog(tool, tmp_path):
    """Through logger(1), byte by byte, in the longest of the formats but one."""
    settings = tmp_path / "conf"
    settings.write_text(RSYSLOG.format(place=tmp_path))
    with daemon([tool("rsyslogd"), "-n", "-f", settings, "-i", tmp_path / "pid"], tmp_path):
        through_logger(tool("logger"), tmp_path)


def test_syslog_ng(tool, tmp_path):
    """The same. Debian has it only in the place of rsyslog, so .ci/run unpacks it elsewhere."""
    settings = tmp_path / "conf"
    settings.write_text(SYSLOG_NG.format(place=tmp_path))
    files = [f"--{name}={tmp_path / name}" for name in ("persist-file", "control", "pidfile")]
    with daemon([tool("syslog-ng"), "-F", "--no-caps", "-f", settings, *files], tmp_path):
        through_logger(tool("logger"), tmp_path)


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
