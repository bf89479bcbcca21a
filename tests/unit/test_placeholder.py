"""A closed standard stream has a placeholder, so no other file gets its number."""

import subprocess
import sys

import pytest

FILL = """
import os, sys
sys.path[:0] = {path!r}
from mprelay.system import placeholder
closed = {closed!r}
for descriptor in closed:
    os.close(descriptor)
for descriptor in range(3):
    try:
        os.fstat(descriptor)
    except OSError:
        placeholder.fill(descriptor)
        os.fstat(descriptor)
new = os.dup(0)
os._exit(0 if new > 2 else 1)
"""


def code_of(closed, **how):
    """Run a process that closes these streams and fills their places; return its exit code."""
    code = FILL.format(path=[entry for entry in sys.path if entry], closed=closed)
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=60, **how).returncode


@pytest.mark.parametrize("closed", [(), (0,), (1, 2), (0, 1, 2)])
def test_each_closed_stream_is_filled(closed):
    """What is opened next has a higher number."""
    pipe = subprocess.PIPE
    assert code_of(closed, stdin=pipe, stdout=pipe, stderr=pipe) == 0


@pytest.mark.skipif(
    sys.platform != "win32", reason="a process has standard streams or none, without a console too"
)
def test_a_process_without_a_console_has_none_of_the_three():
    """Its descriptors are taken, and of no use: a service, for example."""
    assert code_of((), creationflags=subprocess.DETACHED_PROCESS, close_fds=True) == 0
