"""What holds for every test: it leaves no process and no descriptor behind; in CI no tool may be missing."""

import gc
import os
import shutil

import psutil
import pytest


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_left():
    """After each test: no child process and no descriptor that was not there before."""
    before = _descriptors()
    yield
    gc.collect()
    children = psutil.Process().children(recursive=True)
    ours = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    assert ours == [], "processes left behind"
    left = {name: what for name, what in _descriptors().items() if name not in before}
    assert left == {}, "descriptors left behind"


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
