"""CPUs on Windows: those of the process's affinity."""

import os
import sys

import psutil
import pytest

from mprelay.system import cpus

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="Linux has its own: test_cpus.py")


def test_the_affinity_limits_the_cpus():
    """A process may be started on some of the machine's CPUs only."""
    process = psutil.Process()
    usual = process.cpu_affinity()
    assert cpus.usable() == len(usual) <= os.cpu_count()
    process.cpu_affinity(usual[:1])
    try:
        assert cpus.usable() == 1
    finally:
        process.cpu_affinity(usual)
