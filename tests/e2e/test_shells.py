"""What comes with the wheel for shells and for man(1), in the hands of those programs."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest
from support.waiting import PATIENCE

SHARE = Path(__file__).resolve().parents[2] / "share"


def test_man_shows_the_page(tool):
    """It finds it where an installation puts it, and has nothing to complain about."""
    done = subprocess.run(
        [tool("man"), "--warnings", "mprelay"],
        env={**os.environ, "MANPATH": str(SHARE / "man"), "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stderr == ""
    text = re.sub(r".\x08", "", done.stdout)
    for expected in (
        "mprelay - relay one TCP port",
        "--connect-timeout C_TO",
        "MPRELAY_IDLE_TIMEOUT",
        "EXIT STATUS",
        "mprelay 8080 192.0.2.10 80 10.1.2.3/32 --absolute-timeout 10m\n",
    ):
        assert expected in text, text


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("mprelay --conn", "mprelay --connect-timeout "),
        ("mprelay --log-format j", "mprelay --log-format json "),
        ("mprelay 80 ::1 80 ANY --acl-e", "mprelay 80 ::1 80 ANY --acl-ends-sessions "),
        ("mprelay --config bash-comp", "mprelay --config bash-completion/"),
    ],
)
def test_a_real_bash_completes(tool, typed, completed):
    """By the key that a person presses."""
    terminal, inner = pty.openpty()
    shell = subprocess.Popen(
        [tool("bash"), "--norc", "--noprofile", "-i"],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=SHARE,
        env={"PS1": "READY>", "TERM": "dumb", "HISTFILE": ""},
        start_new_session=True,
    )
    os.close(inner)
    try:
        wait_for(terminal, "READY>")
        os.write(terminal, b"source bash-completion/completions/mprelay; echo SOUR''CED\n")
        wait_for(terminal, "SOURCED\r\nREADY>")
        os.write(terminal, f"{typed}\t".encode())
        wait_for(terminal, completed)
        os.write(terminal, b"\x15exit\n")  # ^U takes the line back
        assert shell.wait(PATIENCE) == 0
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def wait_for(terminal, text):
    """Read what a terminal shows until it has shown this."""
    shown, deadline = "", time.monotonic() + PATIENCE
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, shown
        shown += os.read(terminal, 4096).decode()
