"""What the start and the end of a process need on Windows, where only sockets can be waited for.

A child's standard handles are duplicates of those that this process has when it is started, although it inherits
no other handle. dup2 on descriptors 0 to 2 replaces those handles too.
"""

import ctypes
import multiprocessing.connection
import multiprocessing.process
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from mprelay.system.waker import Waker

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

from mprelay.system.oneway_windows import start_thread  # noqa: E402

_STDERR: Final = 2
_FIRST_WORDS_SIZE: Final = 64 * 1024  # bytes read, at most

_KILL_ON_JOB_CLOSE: Final = 0x2000  # winnt.h
_EXTENDED_LIMIT_INFORMATION: Final = 9


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION (winnt.h)."""

    _fields_ = (
        ("process_user_time", ctypes.c_int64),
        ("job_user_time", ctypes.c_int64),
        ("limit_flags", ctypes.c_uint32),
        ("minimum_working_set", ctypes.c_size_t),
        ("maximum_working_set", ctypes.c_size_t),
        ("active_processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority_class", ctypes.c_uint32),
        ("scheduling_class", ctypes.c_uint32),
    )


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (("basic", _BasicLimits), ("io", ctypes.c_uint64 * 6), ("memory", ctypes.c_size_t * 4))


class FirstWords:
    """The stderr of a process until it is ready: a pipe (:mod:`mprelay.system.spawning`).

    A process that fills it before it is ready waits, and is killed when it is not ready in time.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = os.pipe()

    @contextmanager
    def as_stderr(self) -> Iterator[None]:
        """Be the stderr of a process started within."""
        usual = os.dup(_STDERR)
        try:
            os.dup2(self._theirs, _STDERR)
            yield
        finally:
            os.dup2(usual, _STDERR)
            os.close(usual)
            os.close(self._theirs)
            self._theirs = -1

    def take(self) -> bytes:
        """Return what the process wrote, and close the pipe."""
        said = b""
        with suppress(OSError):  # nothing waits, or it is closed already
            os.set_blocking(self._ours, False)  # type: ignore[attr-defined,unused-ignore] # since Python 3.12
            said = os.read(self._ours, _FIRST_WORDS_SIZE)
        self.close()
        return said

    def close(self) -> None:
        """Close the pipe."""
        for descriptor in (self._ours, self._theirs):
            if descriptor >= 0:
                os.close(descriptor)
        self._ours = self._theirs = -1


class Sentinel:
    """Becomes readable when a process ends. A thread waits for that, and wakes the loop through a socket."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process
        self._waker = Waker()
        start_thread(self._wait)

    def _wait(self) -> None:
        with suppress(ValueError, OSError):  # closed meanwhile
            multiprocessing.connection.wait([self._process.sentinel])
        with suppress(OSError):
            self._waker.wake()

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._waker.fileno()

    def close(self) -> None:
        """Give the descriptor back."""
        self._waker.close()


@cache
def _job() -> Any:  # noqa: ANN401 - a handle
    """Make the job whose processes the system kills when its last handle is closed, which is ours."""
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    job = ctypes.c_void_p(kernel.CreateJobObjectW(None, None))
    limits = _Limits()
    limits.basic.limit_flags = _KILL_ON_JOB_CLOSE
    kernel.SetInformationJobObject(job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits))
    return job


def tie(process: multiprocessing.process.BaseProcess) -> None:
    """Let a process die with this one, even a suspended one. Any other notices by itself: its channel ends.

    The system may refuse it: this process may be in a job that allows no other.
    """
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.AssignProcessToJobObject(_job(), ctypes.c_void_p(process.sentinel))


def probe() -> None:
    """Nothing hides the end of a process here."""


def await_end(process: multiprocessing.process.BaseProcess, seconds: float) -> None:
    """Wait up to `seconds` for the end of a process."""
    process.join(seconds)


def begin_helper() -> None:
    """Multiprocessing has no helper process here."""


def be_helper(_arguments: list[str]) -> None:
    """Multiprocessing has no helper process here."""


def reap() -> None:
    """No process has to be waited for here."""


def end_helper() -> None:
    """Multiprocessing has no helper process here."""
