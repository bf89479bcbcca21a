"""Short runs of ``scripts/chaos``: every fault once, and none; and nothing wrong afterwards."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"


def chaos(*arguments):
    """What it prints; the judge is the script's own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--seed", "1", "--sessions", "15", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_fault_once():
    """The seed fixes the order."""
    shown = chaos("--faults", "13", "--stall", "1.5")
    assert len(re.findall(r"^\u2502 [^\u2502]+\u2502 +1 \u2502", shown, re.MULTILINE)) == 13, shown


def test_a_soak_of_seconds():
    """No fault: nothing is broken, and what was measured is shown."""
    shown = chaos("--faults", "0", "--seconds", "6", "--log-detail", "session")
    assert shown.count("descriptors; RSS") == 4, shown
    assert shown.count("p99") == 2, shown
