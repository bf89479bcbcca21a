"""What the control socket does in its turns, with real sockets."""

import socket
from math import inf

import pytest

from mprelay.supervisor import control
from mprelay.supervisor.loop import Loop
from mprelay.system import unix_socket

pytestmark = pytest.mark.posix("Unix sockets")


def test_records_are_gathered_for_watchers_and_sent_at_the_end_at_the_latest(tmp_path, monkeypatch):
    """Each turn of a busy relay has a few records. A send for each turn would cost more than the records."""
    monkeypatch.setattr(control, "GATHER", inf)
    watched = []
    loop = Loop(0.0)
    loop.open(lambda: None)
    listener = unix_socket.Listener(str(tmp_path / "control"))
    serving = control.Control(loop, listener, lambda *_: None, watched.append)
    serving.start()

    def turns():
        """Take turns until nothing is left to do."""
        while loop._poller.wait(0) or serving._resume.pending:
            loop.turn()
            serving.work()

    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for watcher in (first, second):
            watcher.connect(str(tmp_path / "control"))
            watcher.sendall(b'{"command":"watch"}\n')
            turns()
            assert watcher.recv(99) == b'{"ok":true}\n'
            for record in (b"one\n", b"two\n"):
                watched[0]([record])
                turns()
            with pytest.raises(BlockingIOError):
                watcher.recv(99, socket.MSG_DONTWAIT)
        assert first.recv(99) == b"one\ntwo\n"  # before the second began
        serving.close()
        assert first.recv(99) == second.recv(99) == b"one\ntwo\n"
    loop.close()
