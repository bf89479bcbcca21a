"""How the relay's processes start: by multiprocessing's *spawn*, and never interrupted by a stop signal.

The start method is *spawn*, by name. With *fork* a child would inherit the other workers' ends of their channels,
and those channels would never reach end of file.
"""

import multiprocessing
import multiprocessing.process
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import spawn
from typing import Any, Final

from mprelay.system import signals

if sys.platform == "win32":
    from mprelay.system.spawning_windows import FirstWords as VariantOfFirstWords
    from mprelay.system.spawning_windows import (
        Sentinel,
        await_end,
        be_helper,
        begin_helper,
        end_helper,
        probe,
        reap,
        tie,
    )
else:
    from mprelay.system.spawning_posix import FirstWords as VariantOfFirstWords
    from mprelay.system.spawning_posix import (
        Sentinel,
        await_end,
        be_helper,
        begin_helper,
        end_helper,
        probe,
        reap,
        tie,
    )

__all__ = [
    "FirstWords",
    "Sentinel",
    "await_end",
    "be_child",
    "end_helper",
    "last_line",
    "probe",
    "reap",
    "start",
    "tie",
]

_STDERR: Final = 2
_LAST_LINE_LENGTH: Final = 120  # characters kept, at most


class FirstWords(VariantOfFirstWords):
    """The stderr of a process until it is ready. If the process never is, the cause stands there.

    An interpreter may be unable to begin, to import a module, or to unpickle the arguments. Whatever goes wrong
    before the process runs our code is reported on its stderr and nowhere else.
    """

    last = ""
    """The last line that is not empty, after :meth:`end`."""

    def end(self) -> None:
        """Copy what the process wrote to our own stderr, and close its way."""
        if said := self.take():
            self.last = last_line(said)
            with suppress(OSError):  # it may have no reader
                os.write(_STDERR, said)


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
    begin_helper()
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, name=name)
    with signals.held_back(), words.as_stderr() if words is not None else nullcontext(), _sending_little():
        process.start()
    return process


@contextmanager
def _sending_little() -> Iterator[None]:
    """Pass no working directory and no arguments to a child.

    It inherits the directory, and chdir(2) may be refused. The arguments may be long, and nobody there asks for
    them. What is sent must fit into the pipe to the child: on Windows it holds 4096 bytes, and a child that dies
    before it has read them would leave its parent waiting for ever.
    """
    prepare: Any = spawn.get_preparation_data

    def prepare_little(name: str) -> dict[str, Any]:
        return {key: value for key, value in prepare(name).items() if key not in {"dir", "sys_argv"}}

    spawn.get_preparation_data = prepare_little
    try:
        yield
    finally:
        spawn.get_preparation_data = prepare


def be_child(arguments: list[str]) -> None:
    """In a frozen program (PyInstaller), run as the child that `arguments` ask for, and exit; else return.

    multiprocessing starts children with sys.executable. In a frozen program that is the program itself.
    """
    be_helper(arguments)
    spawn.freeze_support()
