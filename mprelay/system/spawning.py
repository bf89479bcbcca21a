"""How the relay's processes start: by multiprocessing's *spawn*, and never interrupted by a stop signal.

Start method *spawn*, by name: with *fork* a child inherits the other workers' channel ends, and the end of a
channel would never come.
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
_MOST: Final = 64 * 1024  # bytes of what a process says before it is ready
_LONGEST: Final = 120  # characters of the last line of it


class FirstWords:
    """What a process says on stderr until it is ready: the cause, if it never is.

    An interpreter may be unable to begin, to import a module, or to unpickle the arguments. All that goes wrong
    before the process runs our code is said on its stderr and nowhere else. So its stderr is a socket of its own,
    which never blocks, until it is ready.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)  # noqa: FBT003 - socket's signature
        self.last = ""
        """The last line, once :meth:`end` was called."""

    @contextmanager
    def as_stderr(self) -> Iterator[None]:
        """Be the stderr of the process that is started meanwhile. OSError: no descriptors."""
        if sys.platform == "win32":  # there a socket cannot be the stderr of a process
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
        """Pass on to our own stderr what was said, and give everything back."""
        if self._ours.fileno() < 0:
            return
        said = b""
        with suppress(OSError):
            said = self._ours.recv(_MOST)
        self.close()
        if said:
            self.last = last_line(said)
            with suppress(OSError):  # as everybody's complaints: if anybody listens
                os.write(_STDERR, said)

    def close(self) -> None:
        """Give everything back."""
        self._ours.close()
        self._theirs.close()


def last_line(said: bytes) -> str:
    """Return the last line that is not empty: where a traceback was printed, the exception."""
    lines = said.decode("utf-8", "backslashreplace").split("\n")
    return next((line.strip()[:_LONGEST] for line in reversed(lines) if line.strip()), "")


def start(
    target: Callable[..., None], args: tuple[Any, ...], name: str, words: FirstWords | None = None
) -> multiprocessing.process.BaseProcess:
    """Start a process that runs `target`. OSError: no process, or no descriptors, to be had.

    With `words` they are its stderr until it says something else (see :func:`mprelay.worker.main`).
    """
    with signals.held():
        # Started with the first process anyway, but then within the next `held`, whose mask it undoes. It makes
        # itself deaf to SIGINT and SIGTERM alone; the other stop signals stay blocked in it.
        resource_tracker.ensure_running()
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, name=name)
    with signals.held(), words.as_stderr() if words is not None else nullcontext(), _staying():
        process.start()
    return process


@contextmanager
def _staying() -> Iterator[None]:
    """Tell no child of a working directory: it inherits ours, and chdir(2) may be refused."""
    prepare: Any = spawn.get_preparation_data

    def without_directory(name: str) -> dict[str, Any]:
        return {key: value for key, value in prepare(name).items() if key != "dir"}

    spawn.get_preparation_data = without_directory
    try:
        yield
    finally:
        spawn.get_preparation_data = prepare


def probe() -> None:
    """See that the end of a process can be heard of. OSError: it cannot."""
    if sys.platform != "win32":
        with suppress(ChildProcessError):  # there is none yet
            os.waitpid(-1, os.WNOHANG)


def await_end(process: multiprocessing.process.BaseProcess, seconds: float) -> None:
    """Wait up to so long for the end of a process, even if it has closed all that it had (and its sentinel)."""
    if sys.platform == "linux" and process.pid is not None:
        with suppress(OSError):  # no descriptor, or a sandbox refuses it
            descriptor = os.pidfd_open(process.pid)
            try:
                connection.wait([descriptor], seconds)
            finally:
                os.close(descriptor)


def be_child(arguments: list[str]) -> None:
    """In a frozen program (PyInstaller), be the child that these arguments ask for, and end; else return.

    multiprocessing starts children by sys.executable. If that is the program itself, it gets their arguments.
    """
    if asked := re.fullmatch(r"from multiprocessing\.resource_tracker import main;main\((\d+)\)", arguments[-1]):
        resource_tracker.main(int(asked[1]))  # type: ignore[attr-defined,unused-ignore]
        sys.exit()
    spawn.freeze_support()


def reap() -> None:
    """Take the exit of each child that has ended: as PID 1 this process adopts all orphans of its namespace.

    The exit codes of our own are kept where multiprocessing looks for them. waitid(2) shows one ended child at a
    time, always the same until it was waited for. So none may be left, not even one of ours.
    """
    if sys.platform == "win32":
        return
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - there is no public way
    with suppress(OSError):  # ChildProcessError: no child is left
        while True:
            ours = {process.pid for process in multiprocessing.active_children()}  # takes the exits of ours
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            if ended.si_pid in ours:
                continue  # it has ended since
            if ended.si_pid == tracker._pid:  # noqa: SLF001
                os.close(tracker._fd)  # noqa: SLF001
                tracker._fd = tracker._pid = None  # noqa: SLF001 - the next start starts another
            os.waitpid(ended.si_pid, 0)


def end_helper() -> None:
    """End the helper process that multiprocessing keeps, so that nothing is left running.

    By force: it has nothing to clean up (:mod:`mprelay.channel.up`, rule 1), and it could be stopped (SIGSTOP).
    """
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - there is no public way
    if tracker._pid is not None:  # noqa: SLF001
        signals.kill(tracker._pid)  # noqa: SLF001
    tracker._stop()  # noqa: SLF001
