"""The control socket as mprelayctl sees it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.posix("control sockets")


def test_a_relay_that_hangs_up_is_no_signal(tmp_path):
    """SIGPIPE has its default action in mprelayctl, so that `| head` ends it. A socket must not."""
    code = """
import signal, socket, sys
from mprelay.ctl.client import Client, Closed
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    with Client(sys.argv[1]) as client:
        listener.accept()[0].close()
        try:
            client.ask("status")
        except Closed as closed:
            print(closed)
"""
    path = str(tmp_path / "control")
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"the relay at {path} has closed the connection\n"
