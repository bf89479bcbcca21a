"""Python code that changes the program from outside: a ``sitecustomize`` module runs it before anything else.

This file has every name of mprelay that such code replaces, so a renamed module needs a change in one place only.
"""

import os
from pathlib import Path

Place = tuple[str, str]
"""A module of mprelay, and the attribute in it that is replaced."""

WORKER_MAIN: Place = ("mprelay.worker", "main")
OUTLET_MAIN: Place = ("mprelay.outlet", "main")
RELAY_RUN: Place = ("mprelay.worker.loop", "Loop.run")
SESSION_BEGINS: Place = ("mprelay.worker.connecting", "Connector.open")
"""In a worker: (self, ticket, descriptor)."""
SESSION_HEARS: Place = ("mprelay.worker.session", "Session.happened")
"""In a worker: (self, *what)."""
REPORT: Place = ("mprelay.channel.up", "Queue.put")
"""In a worker: (self, frame)."""
RECORD_ALLOCATED: Place = ("mprelay.supervisor.book", "Book.allocated")
RECORD_CLOSED: Place = ("mprelay.supervisor.book", "Book.closed")
RECORD_LOST: Place = ("mprelay.supervisor.book", "Book.lost")
RECORD_UNEXPECTED: Place = ("mprelay.records.recorder", "Recorder.unexpected")
ACCEPTOR: Place = ("mprelay.system.sockets", "acceptor")
CLIENT_GONE_ERRNOS: Place = ("mprelay.system.sockets", "CLIENT_GONE_ERRNOS")
ACCEPT_PAUSE: Place = ("mprelay.supervisor.door", "_ACCEPT_PAUSE")
UNACKNOWLEDGED: Place = ("mprelay.system.sockets", "unacknowledged")
ARRIVAL: Place = ("mprelay.worker.lingering", "ARRIVAL")
LATE_LIMIT: Place = ("mprelay.core.roster", "LATE_LIMIT")
START_LIMIT: Place = ("mprelay.supervisor.crew", "START_LIMIT")
REREAD: Place = ("mprelay.config.rules", "reread")
"""In the process that reads the rules again."""
HELPER_BUILD: Place = ("mprelay.channel.helper", "BUILD")
HELPER_ANSWERS: Place = ("mprelay.channel.helper", "Answering.send")
"""In a process that looks up, reads rules or serves metrics: (self, data)."""
METRICS_READY_LIMIT: Place = ("mprelay.supervisor.metrics", "_READY_LIMIT")
RESOLVER_PAUSE: Place = ("mprelay.supervisor.resolver", "_PAUSE")
READING_LIMIT: Place = ("mprelay.supervisor.reload", "_LIMIT")
CHECKPOINT_LINES: Place = ("mprelay.seal.sealer", "CHECKPOINT_LINES")
KEY_CHECKPOINTS: Place = ("mprelay.seal.sealer", "KEY_CHECKPOINTS")
SESSIONS_PER_WORKER: Place = ("mprelay.system.limits", "SESSIONS_PER_WORKER")

QUEUE = "self._worker.reports._uplink._queue"
"""The channel up, as a session sees it when it begins."""

IN_CHILDREN = "import os, signal, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n    "
"""A line of code that limits the rest to workers, outlet and helper, so it does not run in the supervisor."""
IN_A_WORKER = "if os.fstat(1).st_ino != os.fstat(2).st_ino: {}"
"""After IN_CHILDREN: this excludes the outlet too, whose streams are one socket."""
IN_SUPERVISOR = "import sys\nif '--multiprocessing-fork' not in sys.orig_argv:\n    "

UPGRADES = {
    "version": ("__init__.py", '"0.', '"9.'),
    "order of fields": (
        "core/protocol.py",
        "    connect_timeout: float  # seconds, from admission\n    idle_timeout: float",
        "    idle_timeout: float  # seconds, from admission\n    connect_timeout: float",
    ),
    "form of a ticket": ("channel/down.py", '"<Qd"', '"<dQ"'),
    "first report": ("worker/process.py", "Ready(time.time(), BUILD)", "Ready(BUILD, time.time())"),
    "name of an argument's class": ("core/protocol.py", "class Settings(NamedTuple)", "class Setup(NamedTuple)"),
}
"""Changes that make the package another build: a file, words in it, and their replacement."""


def with_site(directory: Path, code: str) -> dict[str, str]:
    """Make an environment in which every Python runs `code` before anything else."""
    (directory / "sitecustomize.py").write_text(code)
    return os.environ | {"PYTHONPATH": str(directory)}


def replaced(place: Place, code: str, by: str = "broken") -> str:
    """Code that replaces a place by what `code` defines under the name `by`.

    `code` knows the original as `whole`.
    """
    module, attribute = place
    return f"import {module}\nwhole = {module}.{attribute}\n{code.strip()}\n{module}.{attribute} = {by}\n"


def assigned(place: Place, value: str) -> str:
    """A line of code that assigns a value to a place. The line fails if the place does not exist."""
    module, attribute = place
    return f"import {module}; {module}.{attribute}; {module}.{attribute} = {value}"


def first_in_workers(statement: str) -> str:
    """Code that runs a statement at the start of a worker, before everything else."""
    module, attribute = WORKER_MAIN
    return f"""import os, signal, sys
if "--multiprocessing-fork" in sys.orig_argv:
    import {module}
    whole = {module}.{attribute}
    def main(*given):
        {statement}
        whole(*given)
    {module}.{attribute} = main
"""


def instead_of_the_outlet(statement: str) -> str:
    """Code that runs a statement instead of the outlet."""
    module, attribute = OUTLET_MAIN
    return f"""import os, signal, sys
if "--multiprocessing-fork" in sys.orig_argv:
    import {module}
    def main(*given):
        {statement}
    {module}.{attribute} = main
"""


def refusing(*rules: str) -> str:
    """A line of code that makes these calls fail in the process that runs it, and in no other."""
    folder = str(Path(__file__).parent)
    install = f"seccomp.install(seccomp.compiled({rules!r}, platform.machine()))"
    return f"import platform; sys.path.append({folder!r}); import seccomp; {install}"


def breakable(directory: Path, how: str) -> tuple[Path, dict[str, str]]:
    """A file, and an environment whose children do `how` if they start while the file exists."""
    broken = directory / "broken"
    return broken, with_site(directory, IN_CHILDREN + f"if os.path.exists({str(broken)!r}): {how}")


PIPE_HAND_OVER = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import sharing
"""
"""Code that hands sockets over by a pipe, as on Windows. It must run in every process of a relay."""

SELECT_POLLER = """
import sys
from mprelay.system import poller_select
sys.modules["mprelay.system.poller_epoll"] = poller_select
"""
"""Code that waits by select(2), as where there is no epoll. It must run in every process of a relay."""
