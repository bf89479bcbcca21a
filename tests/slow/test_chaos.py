"""Short runs of ``scripts/chaos``: one with every fault once, and one without faults.

Nothing may be wrong afterwards.
"""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.posix("scripts/chaos, which starts the relay itself"),
    pytest.mark.alone("it judges how long a probe had to wait"),
    pytest.mark.timeout(180),  # on an idle machine it takes 50
]

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"


def chaos(*arguments):
    """Run chaos and return its summary. The script itself judges the records."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--seed", "1", "--sessions", "15", *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_fault_once():
    """The seed fixes the order. The log is sealed, and whole."""
    run = chaos("--faults", "13", "--stall", "1.5", "--seal")
    assert [fault["times"] for fault in run["faults"].values()] == [1] * 13
    assert sum(fault["hit"] for fault in run["faults"].values()) > 0
    assert run["wrong"] == []


def test_a_soak_of_seconds():
    """Without faults nothing breaks, and the summary has the measurements."""
    run = chaos("--faults", "0", "--seconds", "6", "--log-detail", "session")
    assert (run["faults"], run["wrong"]) == ({}, [])
    assert len(run["processes"]) == 4
    assert all(process["descriptors"][0] > 0 for process in run["processes"].values())
    assert all(took["answers"] > 0 and took["p99"] > 0 for took in run["latencies"])
    assert len(run["latencies"]) == 2


def test_the_target_shuts_while_clients_connect():
    """A client accepted in the very turn in which the target shuts costs the target only that connection."""
    command = [sys.executable, str(SCRIPT.with_name("traffic.py")), "target", "1", "127.0.0.1"]
    over = threading.Event()

    def knock(port):
        while not over.is_set():
            with socket.socket() as client:
                client.setblocking(False)  # noqa: FBT003
                client.connect_ex(("127.0.0.1", port))

    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as target:
        port = json.loads(target.stdout.readline())["port"]
        knocking = [threading.Thread(target=knock, args=(port,)) for _ in range(2)]
        for thread in knocking:
            thread.start()
        try:
            for _ in range(100):
                target.stdin.write("shut\nopen\n")
                target.stdin.flush()
                assert json.loads(target.stdout.readline()) == {"opened": True}
        finally:
            over.set()
            for thread in knocking:
                thread.join()
        assert target.communicate(timeout=20)[1] == ""
        assert target.returncode == 0
