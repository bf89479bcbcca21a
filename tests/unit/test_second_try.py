"""Second tries in CI: a few tests, marked with a bound in wall-clock time. Each is shown."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import PATIENCE

pytestmark = pytest.mark.posix("a plugin of the tests, which runs on Linux")

FLAKY = """
import pytest
tries = 0
{marker}
def test_{name}():
    global tries
    tries += 1
    assert tries == {passes_at}
"""
MARKED = '@pytest.mark.wall_clock("a second")'


def run(directory, *tests):
    """Run these tests as CI does, in one file each. Return exit code and output."""
    for old in directory.glob("test_*.py"):
        old.unlink()
    for number, test in enumerate(tests):
        (directory / f"test_{number}.py").write_text(test)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = wall_clock(bound): ...\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "support.second_try",
            "--second-tries",
            "tries",
            "-p",
            "no:cacheprovider",
        ],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout


def flaky(name, marker=MARKED, passes_at=2):
    """A test whose first tries fail. `passes_at`: the number of the try that passes."""
    return FLAKY.format(name=name, marker=marker, passes_at=passes_at)


def test_a_bound_that_was_missed_once_is_shown(tmp_path):
    """The build passes, and counts it."""
    code, shown = run(tmp_path, flaky("slow"), flaky("quick", passes_at=1))
    assert code == 0
    assert "FAILED, THEN PASSED test_0.py::test_slow: a second (" in shown
    assert "1 second tries in this build so far" in shown
    assert "2 passed" in shown


@pytest.mark.parametrize("test", [flaky("race", marker=""), flaky("broken", passes_at=3)])
def test_any_other_failure_counts_at_once(tmp_path, test):
    """Without the marker there is no second try, and a second failure is a failure."""
    code, shown = run(tmp_path, test)
    assert code == 1
    assert "1 failed" in shown
    assert "0 second tries in this build so far" in shown


@pytest.mark.slow
def test_too_many_fail_the_build(tmp_path):
    """The limit covers all runs of a build: three were allowed, the fourth is one too many."""
    assert run(tmp_path, *(flaky("slow") for _ in range(3)))[0] == 0
    code, shown = run(tmp_path, flaky("slow"))
    assert code == 1
    assert "4 second tries in this build so far, 3 are allowed" in shown
