"""A short run of ``scripts/chaos``: every fault once, and nothing wrong afterwards."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"


def test_every_fault_once():
    """The seed fixes the order; the judge is the script's own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--seed", "1", "--faults", "11", "--sessions", "15", "--stall", "1.5"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 1 \u2502") >= 11, done.stdout
