"""What holds for every test: it leaves no process and no descriptor behind; in CI no tool may be missing."""

import contextlib
import gc
import os
import resource
import shutil
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
from support.processes import limit

pytest_plugins = ["support.second_try"]


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="the slow tests too (tests/slow)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out the slow ones, unless all or a place in tests/slow is asked for; mark who must run alone."""
    for item in items:
        if bound := item.get_closest_marker("wall_clock"):
            item.add_marker(pytest.mark.alone(*bound.args))
    if config.option.all or "slow" in config.option.markexpr or any("slow" in place for place in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def pytest_collection_finish():
    """Keep what exists by now out of the way of gc.collect(), which runs after each test."""
    gc.collect()
    gc.freeze()


def _descriptors() -> dict[str, str]:
    found = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that was listing
            found[descriptor.name] = str(descriptor.readlink())
    return found


def _children(pid: str = "self") -> set[int]:
    """The processes below one, without a look at all of this machine's (proc_tid_children(5))."""
    if not Path("/proc/thread-self/children").exists():  # a kernel without CONFIG_PROC_CHILDREN
        return {child.pid for child in psutil.Process().children(recursive=True)}
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread of it, has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found |= {child, *_children(str(child))}
    return found


@pytest.fixture(autouse=True)
def _nothing_left():
    """After each test: no child process and no descriptor that was not there before."""
    before = _descriptors()
    running = _children()
    yield
    resource_tracker._resource_tracker._stop()  # the one process that multiprocessing would keep
    gc.collect()
    left_running = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in _children() - running]
    assert left_running == [], "processes left behind"
    left = {name: what for name, what in _descriptors().items() if name not in before}
    assert left == {}, "descriptors left behind"


@pytest.fixture
def many_files():
    """As many descriptors for the test itself as it may have, and no more than the largest test needs."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 20_000 if hard == resource.RLIM_INFINITY else min(20_000, hard)
    with limit(os.getpid(), resource.RLIMIT_NOFILE, most):
        yield most


@pytest.fixture
def tool():
    """Find a program that we did not write; skip where it is missing, but never in CI."""

    def find(name: str) -> str:
        path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if path is None:
            if os.environ.get("CI"):
                pytest.fail(f"{name} is missing in CI: .ci/run installs it")
            pytest.skip(f"{name} is not installed")
        return path

    return find
