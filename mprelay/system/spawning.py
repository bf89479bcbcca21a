"""How the relay's processes start: by multiprocessing's *spawn*, and never interrupted by a stop signal.

The start method is *spawn*, by name. With *fork* a child would inherit the other workers' ends of their channels,
and those channels would never reach end of file.
"""

import multiprocessing
import multiprocessing.process
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import connection, resource_tracker, spawn
from typing import Any, Final

from mprelay.system import signals

_STDERR: Final = 2
_FIRST_WORDS_SIZE: Final = 64 * 1024  # bytes read, at most
_LAST_LINE_LENGTH: Final = 120  # characters kept, at most


class FirstWords:
    """The stderr of a process until it is ready. If the process never is, the cause stands there.

    An interpreter may be unable to begin, to import a module, or to unpickle the arguments. Whatever goes wrong
    before the process runs our code is reported on its stderr and nowhere else. So until the process is ready its
    stderr is a socket of its own, which never blocks.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)  # noqa: FBT003 - socket's signature
        self.last = ""
        """The last line that is not empty, after :meth:`end`."""

    @contextmanager
    def as_stderr(self) -> Iterator[None]:
        """Be the stderr of a process started within. Raises OSError if no descriptor is left."""
        if sys.platform == "win32":  # a socket cannot be the stderr of a process
            yield
            return
        usual = os.dup(_STDERR)
        try:
            os.dup2(self._theirs.fileno(), _STDERR)
            yield
        finally:
            os.dup2(usual, _STDERR)
            os.close(usual)
            self._theirs.close()

    def end(self) -> None:
        """Copy what the process wrote to our own stderr, and close the sockets."""
        if self._ours.fileno() < 0:
            return
        said = b""
        with suppress(OSError):
            said = self._ours.recv(_FIRST_WORDS_SIZE)
        self.close()
        if said:
            self.last = last_line(said)
            with suppress(OSError):  # it may have no reader
                os.write(_STDERR, said)

    def close(self) -> None:
        """Close the sockets."""
        self._ours.close()
        self._theirs.close()


def last_line(said: bytes) -> str:
    """Return the last line that is not empty. At the end of a traceback that is the exception."""
    lines = said.decode("utf-8", "backslashreplace").split("\n")
    return next((line.strip()[:_LAST_LINE_LENGTH] for line in reversed(lines) if line.strip()), "")


def start(
    target: Callable[..., None], args: tuple[Any, ...], name: str, words: FirstWords | None = None
) -> multiprocessing.process.BaseProcess:
    """Start a process that runs `target`. Raises OSError if there is no process or no descriptor left.

    `words`, if given, are its stderr until it chooses another (see :func:`mprelay.worker.main`).
    """
    with signals.held_back():
        # The resource tracker would start with the first process anyway, but its start undoes the signal mask
        # of the `held_back` around it. It ignores only SIGINT and SIGTERM; the other stop signals stay blocked
        # in it.
        resource_tracker.ensure_running()
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, name=name)
    with signals.held_back(), words.as_stderr() if words is not None else nullcontext(), _staying():
        process.start()
    return process


@contextmanager
def _staying() -> Iterator[None]:
    """Pass no working directory to a child: it inherits ours, and chdir(2) may be refused."""
    prepare: Any = spawn.get_preparation_data

    def without_directory(name: str) -> dict[str, Any]:
        return {key: value for key, value in prepare(name).items() if key != "dir"}

    spawn.get_preparation_data = without_directory
    try:
        yield
    finally:
        spawn.get_preparation_data = prepare


def probe() -> None:
    """Check that the end of a process can be noticed. Raises OSError if it cannot."""
    if sys.platform != "win32":
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


def be_child(arguments: list[str]) -> None:
    """In a frozen program (PyInstaller), run as the child that `arguments` ask for, and exit; else return.

    multiprocessing starts children with sys.executable. In a frozen program that is the program itself.
    """
    if asked := re.fullmatch(r"from multiprocessing\.resource_tracker import main;main\((\d+)\)", arguments[-1]):
        resource_tracker.main(int(asked[1]))  # type: ignore[attr-defined,unused-ignore]
        sys.exit()
    spawn.freeze_support()


def reap() -> None:
    """Wait for each child that has ended. As PID 1 this process adopts all orphans of its namespace.

    multiprocessing keeps the exit codes of our own children. waitid(2) shows one ended child at a time, always
    the same one until it is waited for. So no ended child may be left, not even ours.
    """
    if sys.platform == "win32":
        return
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
        signals.kill(tracker._pid)  # noqa: SLF001
    tracker._stop()  # noqa: SLF001
