"""The systemd units of contrib/systemd, as systemd reads them."""

import re
import subprocess
from pathlib import Path

import pytest
from support.launching import PROGRAM
from support.relay import run

pytestmark = pytest.mark.posix("systemd")

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
EXPOSURE = 20
"""Of systemd-analyze, in tenths, at most."""


@pytest.fixture
def units(tmp_path):
    """An instance of both, with a port, and with the program of these tests."""
    service = (UNITS / "mprelay@.service").read_text().replace("/usr/bin/mprelay", PROGRAM)
    socket = (UNITS / "mprelay@.socket").read_text().replace("Accept=no\n", "Accept=no\nListenStream=8080\n")
    made = {"mprelay@demo.service": service, "mprelay@demo.socket": socket}
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in made]


@pytest.fixture
def analyze(tool):
    """Run systemd-analyze."""
    program = tool("systemd-analyze")

    def analyzed(*arguments) -> subprocess.CompletedProcess[bytes]:
        return run(program, *arguments)

    return analyzed


def test_systemd_finds_nothing_wrong(analyze, units):
    """Type=notify-reload is newer than the systemd of Debian 12."""
    done = analyze("verify", "--man=no", *units)
    (version,) = re.findall(rb"^systemd (\d+)", analyze("--version").stdout)
    complaints = done.stderr.splitlines()
    if int(version) < 253:
        complaints = [line for line in complaints if not line.endswith(b"ignoring: notify-reload")]
    assert complaints == []
    assert done.returncode == 0


def test_the_relay_may_do_little_else(analyze, units):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", units[0])
    assert done.returncode == 0, done.stdout.decode()


def test_nothing_revives_what_expired():
    """Exit code 0 is a failure for systemd if the relay had expired before it was ready."""
    lines = (UNITS / "mprelay@.service").read_text().splitlines()
    assert "Restart=on-failure" in lines
    assert "RestartPreventExitStatus=0 2 69 71" in lines
    assert "PropagatesStopTo=mprelay@%i.socket" in lines
    assert "FlushPending=yes" in (UNITS / "mprelay@.socket").read_text().splitlines()


def test_the_journal_drops_no_record():
    """It would, above ten thousand of them in half a minute."""
    assert "LogRateLimitIntervalSec=0" in (UNITS / "mprelay@.service").read_text().splitlines()
