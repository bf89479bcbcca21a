"""Process signals become readiness of one descriptor; nothing else happens in a handler.

The only file that knows of signals. :meth:`Signals.take` tells which came, in their order.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from mprelay.poller import Waker

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def name(number: int) -> str:
    """Name a signal: 9 is SIGKILL; a number that has no name is SIG and the number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


class Signals:
    """Turns the signals that ask the relay to stop into readiness of one descriptor.

    SIGTERM and SIGINT, and SIGHUP, which a lost terminal sends, unless it was ignored from the start (nohup).
    """

    def __init__(self) -> None:
        self._waker = Waker()
        self._fd_before = signal.set_wakeup_fd(self._waker.writer, warn_on_full_buffer=False)
        numbers = [signal.SIGTERM, signal.SIGINT]
        if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, _only_wake) for number in numbers}

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal came."""
        return self._waker.fileno()

    def take(self) -> list[int]:
        """Return the numbers of the signals that came since the last call."""
        return list(self._waker.clear())

    def close(self) -> None:
        """Put back what was there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._waker.close()


def _only_wake(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the interpreter's C handler has already written the number to the wake-up descriptor."""


@contextmanager
def held() -> Iterator[None]:
    """Hold back the stop signals in this thread, and in a process that is started meanwhile.

    A signal mask is inherited over fork and exec, so a worker cannot be interrupted in the moment before it
    comes to :func:`ignore`. A signal that arrives meanwhile is delivered to this process afterwards.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent() -> None:
    """Let the kernel kill this process (a worker) when the one that started it is gone.

    Most workers see that for themselves. One that is stopped (SIGSTOP) sees nothing, and would keep its sessions
    open for as long as it stands still. Where the system cannot do it (prctl(2), PR_SET_PDEATHSIG), so it is.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # a Python, or a C library, without it
            import ctypes  # noqa: PLC0415 - a millisecond, for workers alone

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore() -> None:
    """Make this process (a worker) deaf to the stop signals: Ctrl-C reaches a whole process group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
