"""POSIX signals, and the known state into which the program puts itself, whoever started it.

Ignored signals, blocked signals and interval timers are inherited over exec(2). So the program puts itself into a
known state (:func:`begin`):

- A stop signal (SIGTERM, SIGINT, SIGQUIT, SIGXCPU, and SIGHUP unless it was ignored) is held back until
  :class:`Signals` can hear it. SIGXCPU is one of them because the hard limit of CPU time follows.
- Any other signal that would end the process by default, and does not report a fault of the program, is ignored:
  it would end the relay without a record.
- All others have their default action. If SIGCHLD stayed ignored, waitpid(2) would fail with ECHILD (signal(7)).
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from mprelay.system import early

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

HANGUP: Final = int(signal.SIGHUP)
"""The stop signal that can also mean: read your files again."""

_TERMINAL: Final = "/dev/tty"
_STOP = frozenset(map(signal.Signals, early.NUMBERS))
_AS_BY_DEFAULT = frozenset(
    {
        # A fault of the program itself …
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        # … or not its end.
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)
_UNCHANGEABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})


def begin() -> None:
    """Replace what this process (the supervisor) has inherited by a known state. Call it early.

    The stop signals stay blocked until :class:`Signals` hears them, or :func:`release` lets them act by default.
    Whatever a sandbox does not allow to be changed stays as it was.
    """
    early.hold_back()
    for number in _STOP:
        if not _is_nohup(number):
            _settle(number, signal.SIG_DFL)
    _settle_others()
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        with suppress(OSError):
            signal.setitimer(timer, 0)


def pending() -> bool:
    """Tell whether a stop signal was sent that is still held back."""
    return not _STOP.isdisjoint(signal.sigpending())


def release() -> None:
    """Block no signal, not even one that was blocked from the start. Pending signals are delivered now."""
    with suppress(OSError):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _is_nohup(number: int) -> bool:
    """Tell whether `number` is SIGHUP and nohup(1), or whoever started us, wants it to stay ignored."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _settle_others() -> None:
    """Give its known disposition to each signal but the stop signals."""
    for number in signal.valid_signals() - _STOP - _UNCHANGEABLE:
        if number not in _AS_BY_DEFAULT:
            _settle(number, signal.SIG_IGN)  # the real-time signals too
        elif signal.getsignal(number) is signal.SIG_IGN:  # exec(2) leaves only this or the default
            _settle(number, signal.SIG_DFL)


def _settle(number: int, disposition: signal.Handlers) -> None:
    with suppress(OSError):  # a sandbox may refuse it
        signal.signal(number, disposition)


class Signals:
    """Turns the stop signals into readiness of one descriptor; no handler does anything else.

    :meth:`take` returns those that came, in their order. Once it is made no signal is blocked. With `child_ended`
    SIGCHLD is heard too: it calls `child_ended` for it, and returns the others. Raises OSError if signals cannot
    be heard.
    """

    def __init__(self, child_ended: Callable[[], None] | None = None) -> None:
        from mprelay.system.waker import Waker  # noqa: PLC0415 - the outlet never needs one

        self._waker = Waker()
        self._fd_before = signal.set_wakeup_fd(self._waker.writer, warn_on_full_buffer=False)
        heard = [number for number in _STOP if not _is_nohup(number)]
        self._child_ended = child_ended
        if child_ended is not None:
            heard.append(signal.SIGCHLD)
        self._before = {number: signal.signal(number, _only_wake) for number in heard}
        release()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._waker.fileno()

    def take(self) -> list[int]:
        """Return the numbers of the stop signals that came since the last call."""
        came = list(self._waker.clear())
        if self._child_ended is not None and signal.SIGCHLD in came:
            self._child_ended()
            came = [number for number in came if number != signal.SIGCHLD]
        return came

    def close(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._waker.close()


def _only_wake(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the interpreter's C handler has already written the number to the wake-up descriptor."""


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back the stop signals in this thread, and in a process started within.

    A signal mask is inherited over fork and exec. So a child cannot be interrupted before it reaches
    :func:`ignore`. A signal that arrives within is delivered to this process afterwards.
    """
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    except OSError:  # a sandbox refuses it
        yield
        return
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent() -> None:
    """Let the kernel kill this process (a worker) when its supervisor is gone.

    A running worker notices by itself. A stopped one (SIGSTOP) would keep its sessions open for as long as it is
    stopped. Without PR_SET_PDEATHSIG (prctl(2)) that cannot be prevented.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # a Python, or a C library, without it
            import ctypes  # noqa: PLC0415 - a millisecond, for workers alone

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore() -> None:
    """Ignore every signal that could end this process, such as a worker. Faults and SIGKILL still end it.

    Ctrl-C and SIGQUIT from the keyboard reach a whole process group.
    """
    for number in _STOP:
        _settle(number, signal.SIG_IGN)
    _settle_others()
    release()


def leave_console() -> None:
    """A terminal reaches a process by signals only, and they are ignored."""


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal (tty(4)). One that has hung up is none any more."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
