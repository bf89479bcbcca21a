"""Tells how a process of pytest-xdist has ended that crashed. xdist only says in which test it was."""

import contextlib
from pathlib import Path

import pytest


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
    """Add the exit code, which is negative for a signal."""
    code = report.node.gateway._io.wait()  # execnet has no public way
    report.longrepr = (
        f"{report.longrepr}\n"
        f"Its exit code is {code}. The kernel has killed {_killed_for_memory()} processes to get memory."
    )
