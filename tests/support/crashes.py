"""Tells how a process of pytest-xdist has ended that crashed. xdist only says in which test it was."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from support.waiting import PATIENCE


def _killed_for_memory() -> str:
    """How many processes the kernel has killed to get memory, since the machine was started (proc_vmstat(5))."""
    with contextlib.suppress(OSError):  # Windows has no /proc
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return count
    return "an unknown number of"


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """Add the exit code, which is negative for a signal. The process may live on if it has only gone silent."""
    try:
        code = report.node.gateway._io.popen.wait(PATIENCE)  # execnet has no public way
    except subprocess.TimeoutExpired:
        code = "unknown, as it is still running"
    report.longrepr = (
        f"{report.longrepr}\n"
        f"Its exit code is {code}. The kernel has killed {_killed_for_memory()} processes to get memory."
    )
