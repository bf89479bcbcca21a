"""What ps(1) shows: which process is which."""

import os
import sys

import psutil
from support.peers import listening
from support.relay import PROGRAM, Relay

NAMES = ["mprelay", "mprelay-outlet", "mprelay-w1", "mprelay-w2"]


def shown(relay):
    """Name and command line of each process of the relay, but of multiprocessing's own helper."""
    processes = [psutil.Process(relay.process.pid), *relay.family()]
    both = {process.name(): " ".join(process.cmdline()) for process in processes}
    return {name: line.strip() for name, line in both.items() if "resource_tracker" not in line}


def test_each_process_has_a_title():
    """The supervisor's shows what it does."""
    with listening() as server, Relay(server.getsockname(), "--label", "who=Zoë") as relay:
        titles = shown(relay)
        assert sorted(titles) == NAMES
        assert titles["mprelay-outlet"] == "mprelay: outlet"
        assert titles["mprelay-w1"] == "mprelay: worker 1"
        assert titles["mprelay-w2"] == "mprelay: worker 2"
        assert titles["mprelay"] == f"mprelay: supervisor {' '.join(relay.args)}"


def test_without_setproctitle_each_has_a_name(tmp_path):
    """A package of that name without its extension module takes the real one's place."""
    (tmp_path / "setproctitle").mkdir()
    (tmp_path / "setproctitle" / "__init__.py").write_text("")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    with listening() as server, Relay(server.getsockname(), env=env) as relay:
        titles = shown(relay)
        assert sorted(titles) == NAMES
        assert titles["mprelay"] == f"{sys.executable} {PROGRAM} {' '.join(relay.args)}"
        assert "spawn_main" in titles["mprelay-w1"]
