"""Systems that say no: without /dev, and with system calls that are refused."""

import os
import subprocess

import pytest
from harness import PROGRAM, Relay, accept, echo, listening, opened


@pytest.fixture
def without_dev(tool):
    """A command that runs a program where /dev is empty; skip where this user can have no such place."""
    unshare = (tool("unshare"), "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
    script = 'mount -t tmpfs mprelay-test /dev && test ! -e /dev/null && eval "exec \\"\\$@\\" $0"'
    command = (*unshare, tool("bash"), "-c", script)
    probe = subprocess.run([*command, "", "true"], stdin=subprocess.PIPE, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no /dev of its own to be had: {probe.stderr.decode().strip()}")
    return command


@pytest.mark.parametrize("closed", ["", "<&-", "2>&-", "<&- 2>&-"])
def test_an_empty_dev(without_dev, closed):
    """/dev/null is not needed, not even where a standard stream is closed: no socket gets its number."""
    command = (*without_dev, closed, PROGRAM)
    with listening() as server, Relay(server.getsockname(), command=command) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        complaints = opened(relay.process.pid, 2)
        for pid in (relay.process.pid, *relay.workers().values()):
            assert [opened(pid, descriptor) for descriptor in range(3)] == [complaints] * 3
    assert relay.records[-1]["reason"] == "drained"


def test_an_empty_dev_and_no_stdout(without_dev):
    """Said on stderr: 74."""
    done = subprocess.run(
        [*without_dev, ">&-", PROGRAM, "1", "127.0.0.1", "9", "ANY"],
        stdin=subprocess.PIPE,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (74, b"")
    assert done.stderr == b"mprelay: nothing can be written to stdout: Bad file descriptor\n"
