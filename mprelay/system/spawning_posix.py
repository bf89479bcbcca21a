"""What the start and the end of a process need on POSIX: waitpid(2), multiprocessing's helper process."""

import multiprocessing
import multiprocessing.process
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from typing import Any, Final

from mprelay.system import signals

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

_STDERR: Final = 2
_FIRST_WORDS_SIZE: Final = 64 * 1024  # bytes read, at most


class FirstWords:
    """The stderr of a process until it is ready (:mod:`mprelay.system.spawning`): a socket that never blocks."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)  # noqa: FBT003 - socket's signature

    @contextmanager
    def as_stderr(self) -> Iterator[None]:
        """Be the stderr of a process started within. Raises OSError if no descriptor is left."""
        usual = os.dup(_STDERR)
        try:
            os.dup2(self._theirs.fileno(), _STDERR)
            yield
        finally:
            os.dup2(usual, _STDERR)
            os.close(usual)
            self._theirs.close()

    def take(self) -> bytes:
        """Return what the process wrote, and close the sockets."""
        said = b""
        with suppress(OSError):  # nothing waits, or they are closed already
            said = self._ours.recv(_FIRST_WORDS_SIZE)
        self.close()
        return said

    def close(self) -> None:
        """Close the sockets."""
        self._ours.close()
        self._theirs.close()


class Sentinel:
    """Becomes readable when a process ends, perhaps slightly before: its descriptors are closed one by one."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._descriptor = process.sentinel

    def fileno(self) -> int:
        """Return the descriptor to watch. It belongs to the process."""
        return self._descriptor

    def close(self) -> None:
        """Nothing to give back."""


def tie(_process: multiprocessing.process.BaseProcess) -> None:
    """Let a process die with this one: it sees to that (:func:`mprelay.system.signals.die_with_parent`)."""


def probe() -> None:
    """Check that the end of a process can be noticed. Raises OSError if it cannot."""
    with suppress(ChildProcessError):  # there is no child yet
        os.waitpid(-1, os.WNOHANG)


def await_end(process: multiprocessing.process.BaseProcess, seconds: float) -> None:
    """Wait up to `seconds` for the end of a process. Its descriptors may be closed before that."""
    if sys.platform == "linux" and process.pid is not None:
        with suppress(OSError):  # no descriptor is left, or a sandbox refuses it
            descriptor = os.pidfd_open(process.pid)
            try:
                connection.wait([descriptor], seconds)
            finally:
                os.close(descriptor)


def begin_helper() -> None:
    """Start multiprocessing's helper process, the resource tracker, with the stop signals held back in it.

    It would start with the first process anyway, but its start undoes the signal mask of the `held_back` around
    it. It ignores only SIGINT and SIGTERM; the other stop signals stay blocked in it.
    """
    with signals.held_back():
        resource_tracker.ensure_running()


def be_helper(arguments: list[str]) -> None:
    """In a frozen program, be the helper process if `arguments` ask for it, and exit; else return."""
    if asked := re.fullmatch(r"from multiprocessing\.resource_tracker import main;main\((\d+)\)", arguments[-1]):
        resource_tracker.main(int(asked[1]))  # type: ignore[attr-defined,unused-ignore]
        sys.exit()


def reap() -> None:
    """Wait for each child that has ended. As PID 1 this process adopts all orphans of its namespace.

    multiprocessing keeps the exit codes of our own children. waitid(2) shows one ended child at a time, always
    the same one until it is waited for. So no ended child may be left, not even ours.
    """
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - there is no public way
    with suppress(OSError):  # ChildProcessError: no child is left
        while True:
            ours = {process.pid for process in multiprocessing.active_children()}  # the call waits for ended ones
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            if ended.si_pid in ours:
                continue  # it ended after that call
            if ended.si_pid == tracker._pid:  # noqa: SLF001
                os.close(tracker._fd)  # noqa: SLF001
                tracker._fd = tracker._pid = None  # noqa: SLF001 - the next start starts another
            os.waitpid(ended.si_pid, 0)


def end_helper() -> None:
    """Kill multiprocessing's helper process, the resource tracker, so that nothing is left running.

    Force is needed because it may be stopped (SIGSTOP). It has nothing to clean up (:mod:`mprelay.channel.up`,
    rule 1).
    """
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - there is no public way
    if tracker._pid is not None:  # noqa: SLF001
        with suppress(OSError):  # a sandbox refuses it
            os.kill(tracker._pid, signal.SIGKILL)  # noqa: SLF001
    tracker._stop()  # noqa: SLF001
