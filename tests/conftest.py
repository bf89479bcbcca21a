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


def _descriptors() -> dict[str, str]:
    found = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that was listing
            found[descriptor.name] = str(descriptor.readlink())
    return found


@pytest.fixture(autouse=True)
def _nothing_left():
    """After each test: no child process and no descriptor that was not there before."""
    before = _descriptors()
    running = psutil.Process().children(recursive=True)
    yield
    resource_tracker._resource_tracker._stop()  # the one process that multiprocessing would keep
    gc.collect()
    left_running = [child for child in psutil.Process().children(recursive=True) if child not in running]
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
