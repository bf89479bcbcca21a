"""Starts the installed program as a process: on this system, or on Windows' CPython under Wine.

    test ── Launched ───────────▶ mprelay                             on this system
    test ── Launched on Windows ─▶ wine ─▶ python.exe ─▶ mprelay      where scripts/test-windows says so
                └─ TCP ─▶ windows_launcher.py, a thread in it

Under Wine a process has two numbers. Records have the one of Windows. Only a process there can use it, so the
relay's own obeys the test (see ``windows_launcher.py``). The one of Linux serves to wait for a process's end.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import psutil

from support.processes import outlet_of
from support.waiting import PATIENCE

PROGRAM: Final = str(Path(sys.executable).with_name("mprelay"))
PYTHON_EXE: Final = os.environ.get("MPRELAY_PYTHON_EXE")
"""Windows' Python, if the relay runs there."""

KILLED: Final = 9 if PYTHON_EXE else -9
"""The exit code of a relay that was killed."""

KILLED_WORKER: Final[dict[str, object]] = (
    {"signal": None, "exitcode": 9} if PYTHON_EXE else {"signal": "SIGKILL", "exitcode": None}
)
"""What ``worker.exited`` has of a worker that was killed."""

KILLED_BY_RELAY: Final[dict[str, object]] = {"signal": "SIGTERM" if PYTHON_EXE else "SIGKILL", "exitcode": None}
"""What it has of a worker that the relay killed."""

TICKING: Final = ("--stats-interval", "1") if PYTHON_EXE else ()
"""Options with which a relay notices that the reader of stdout is gone. On Windows only a record shows it."""

_LAUNCHER: Final = str(Path(__file__).with_name("windows_launcher.py"))
_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h


class Memory(NamedTuple):
    """As psutil's."""

    rss: int


class Member(Protocol):
    """A process of a relay: psutil's, or one that only Windows knows."""

    @property
    def pid(self) -> int:
        """Its number, as records have it."""

    def kill(self) -> None:
        """End it at once."""

    def suspend(self) -> None:
        """Make it stand still."""

    def resume(self) -> None:
        """Let it go on."""

    def memory_info(self) -> Any:
        """Its memory; `rss` is the resident part."""


def command(*arguments: str, port: int = 0) -> list[str]:
    """The command line that runs the program with these arguments."""
    if PYTHON_EXE:
        return ["wine", PYTHON_EXE, _LAUNCHER, str(port), *arguments]
    return [PROGRAM, *arguments]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end, with its streams in pipes."""
    # Wine 8 gives Python no standard stream that is a file or a device.
    source = {"input": b""} if PYTHON_EXE else {"stdin": subprocess.DEVNULL}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **source, **options}
    return subprocess.run(command(*arguments), timeout=PATIENCE, check=False, **options)


class Here:
    """A relay on this system."""

    def __init__(self, words: tuple[str, ...], arguments: list[str], **popen: Any) -> None:
        self.process = subprocess.Popen([*words, *arguments], stdin=subprocess.DEVNULL, **popen)

    @property
    def pid(self) -> int:
        """The number of the supervisor, as records have it."""
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the supervisor at once."""
        self.process.kill()

    @staticmethod
    def member(pid: int) -> Member:
        """A process by the number that records have."""
        return psutil.Process(pid)

    def outlet(self) -> Member:
        """The process that owns stdout and stderr."""
        return outlet_of(self.process.pid)

    def family(self) -> list[psutil.Process]:
        """The processes that the relay has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def close(self) -> None:
        """Nothing is held beside the process."""


class UnderWine:
    """A relay on Windows. The interface is that of :class:`Here`."""

    def __init__(self, words: tuple[str, ...], arguments: list[str], **popen: Any) -> None:
        assert words == (PROGRAM,), "Windows runs the program itself only"
        self._mark = f"MPRELAY_TEST={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        popen["env"] = popen.get("env", os.environ) | {name: value}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._lines: Any = None
        self.process = subprocess.Popen(
            command(*arguments, port=self._listener.getsockname()[1]), stdin=subprocess.PIPE, **popen
        )

    @property
    def pid(self) -> int:
        """The number of the supervisor, as records have it."""
        self._connect()
        return self._pid

    def _connect(self) -> None:
        if self._lines is None:
            control, _ = self._listener.accept()
            with control:
                control.settimeout(PATIENCE)
                self._lines = control.makefile("rw", newline="\n")
            self._pid: int = json.loads(self._lines.readline())

    def ask(self, verb: str, argument: object) -> Any:
        """Have the supervisor's process do something (see ``windows_launcher.py``)."""
        self._connect()
        self._lines.write(json.dumps([verb, argument]) + "\n")
        self._lines.flush()
        answer = json.loads(self._lines.readline())
        assert "failure" not in answer, (verb, argument, answer)
        return answer["answer"]

    def signal(self, number: int) -> None:
        """Raise a signal in the supervisor."""
        self.ask("signal", signal.Signals(number).name)

    def kill(self) -> None:
        """End the supervisor at once."""
        self._connect()
        self._lines.write(json.dumps(["kill", self._pid]) + "\n")
        self._lines.flush()

    def member(self, pid: int) -> Member:
        """A process by the number that records have."""
        return _WindowsProcess(self, pid)

    def outlet(self) -> Member:
        """The process that owns stdout and stderr: the first that is started."""
        return self.member(self.ask("children", self.pid)[0])

    def family(self) -> list[psutil.Process]:
        """The processes that the relay has started. Wine makes none of them a child of another."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if (
                    process.pid != self.process.pid
                    and self._mark.encode() in environment
                    and "python.exe" in "".join(process.cmdline()[:1])
                ):
                    found.append(process)
        return found

    def close(self) -> None:
        """Close the connection to the relay, and its stdin."""
        self._listener.close()
        with contextlib.suppress(OSError):  # what was written to a relay that has ended
            if self._lines is not None:
                self._lines.close()
        assert self.process.stdin is not None
        self.process.stdin.close()


class _WindowsProcess:
    """A process that only Windows knows by this number."""

    def __init__(self, launched: UnderWine, pid: int) -> None:
        self.pid = pid
        self._ask = launched.ask

    def kill(self) -> None:
        self._ask("kill", self.pid)

    def suspend(self) -> None:
        self._ask("suspend", self.pid)

    def resume(self) -> None:
        self._ask("resume", self.pid)

    def memory_info(self) -> Memory:
        return Memory(self._ask("memory", self.pid))


LAUNCHED: Final[type[Here | UnderWine]] = UnderWine if PYTHON_EXE else Here


def adopt() -> None:
    """Make this process the parent of all that a relay leaves behind. Wine's processes have no other parent."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury(pids: set[int]) -> None:
    """Reap adopted processes that have ended. The test has waited for those that it started itself.

    `pids` get time to end: for Windows a process is over some time before it is over for Linux.
    """
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(pid).wait(PATIENCE)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
