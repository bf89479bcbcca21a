"""Rules for every test: it leaves no process and no descriptor behind, and in CI no tool may be missing.

On Windows, and where the relay runs on Windows (scripts/test-windows), tests marked `posix` are skipped.
"""

import contextlib
import gc
import os
import shutil
import signal
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
from hypothesis import settings
from support import launching
from support.processes import limit, links

with contextlib.suppress(ImportError):  # Windows has none
    import resource

pytest_plugins = ["support.crashes", "support.second_try"]

ON_WINDOWS = sys.platform == "win32"

# Hypothesis would fail an example that takes more than 200 ms, which says more about the machine than about us.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_configure():
    """Start from the signals' defaults: nohup(1) has SIGHUP ignored, and the programs under test inherit that."""
    if not ON_WINDOWS:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if launching.PYTHON_EXE:
        launching.adopt()


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="the slow tests too (tests/slow)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Deselect slow tests, unless --all or a path in tests/slow is given. Mark the tests that must run alone."""
    for item in items:
        if bound := item.get_closest_marker("wall_clock"):
            item.add_marker(pytest.mark.alone(*bound.args))
        if (posix := item.get_closest_marker("posix")) and (ON_WINDOWS or launching.PYTHON_EXE):
            item.add_marker(pytest.mark.skip(f"not on Windows: {posix.args[0]}"))
    if config.option.all or "slow" in config.option.markexpr or any("slow" in place for place in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def pytest_collection_finish():
    """Exclude what exists by now from gc.collect(), which runs after each test."""
    gc.collect()
    gc.freeze()


def _descriptors() -> dict[int, str]:
    # Windows has no list of them; a socket that is left open is a ResourceWarning.
    return {} if ON_WINDOWS else links("self")


def _children(pid: str = "self") -> set[int]:
    """The child processes of a process, without a scan of all of this machine's (proc_tid_children(5))."""
    if ON_WINDOWS or not Path("/proc/thread-self/children").exists():  # a kernel without CONFIG_PROC_CHILDREN
        return {child.pid for child in psutil.Process().children(recursive=True)}
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process, or a thread of it, has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found |= {child, *_children(str(child))}
    return found


def shown(process: psutil.Process) -> list[str] | str:
    """The command line of a process, or what is left of it."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return str(process)


@pytest.fixture(autouse=True)
def _nothing_left():
    """No child process and no descriptor is left after a test that was not there before it."""
    before = _descriptors()
    running = _children()
    yield
    resource_tracker._resource_tracker._stop()  # the one process that multiprocessing would keep running
    gc.collect()
    if launching.PYTHON_EXE:
        launching.bury(_children() - running)
    left_running = [shown(psutil.Process(pid)) for pid in _children() - running]
    assert left_running == [], "processes left behind"
    left = {name: what for name, what in _descriptors().items() if name not in before}
    assert left == {}, "descriptors left behind"


@pytest.fixture
def many_files():
    """Raise the test's own descriptor limit as far as allowed, but no further than the largest test needs."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 20_000 if hard == resource.RLIM_INFINITY else min(20_000, hard)
    with limit(os.getpid(), resource.RLIMIT_NOFILE, most):
        yield most


@pytest.fixture(scope="session")
def tool():
    """Find a third-party program. Skip the test if it is missing, but fail in CI."""

    def find(name: str) -> str:
        path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if path is None:
            if os.environ.get("CI"):
                pytest.fail(f"{name} is missing in CI: .ci/run installs it")
            pytest.skip(f"{name} is not installed")
        return path

    return find
