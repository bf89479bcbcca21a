"""The tests' own client: a reset within connect(2) counts as a reset a moment later, and no other error does."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.peers import connect, ends_with_reset, free_port, listening
from support.waiting import PATIENCE

pytestmark = pytest.mark.posix("the clients of the tests, which run on Linux")

SUPPORT = Path(__file__).parents[1] / "support"
KNOCK = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from support.peers import connect, ends_with_reset, knock
if sys.argv[5] == "knock":
    print(sys.argv[4], *knock((sys.argv[2], int(sys.argv[3])), source=sys.argv[4])[::2])
    sys.exit()
with connect((sys.argv[2], int(sys.argv[3])), source=sys.argv[4] or None, wait=bool(sys.argv[5])) as sock:
    assert sock.fileno() != 3
    print(sock.getsockname()[0], sock.getsockname()[1], ends_with_reset(sock))
"""


@pytest.mark.parametrize(
    ("host", "source", "shown"),
    [
        ("127.0.0.1", "127.0.0.2", "127.0.0.2"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::ffff:127.0.0.1", "", "::1"),
    ],
)
@pytest.mark.parametrize("wait", ["", "wait", "knock"])
def test_a_reset_within_connect_counts_as_a_later_one(host, source, shown, wait):
    """connect(2) reports the reset of the first socket, descriptor 3.

    The returned socket reads a reset instead.
    """
    if wait == "knock":
        source = shown
    program = [sys.executable, "-c", KNOCK, str(SUPPORT.parent), host, str(free_port()), source, wait]
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "seccomp.py"), "connect,0=3:ECONNRESET", "--", *program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    address, port, reset = done.stdout.split()
    assert (address, reset) == (shown, "True")
    assert int(port) > 0


def test_only_a_reset_is_replaced():
    """A refusal stays a refusal, and a successful client gets the socket that it connected."""
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", free_port()))
    with listening() as server, connect(server.getsockname(), source="127.0.0.2") as client:
        conn, address = server.accept()
        with conn:
            assert address == client.getsockname()
        assert not ends_with_reset(client)
