"""Process signals become readiness of one descriptor; nothing else happens in a handler.

The only file that knows of signals. :meth:`Signals.take` tells which came, in their order.

Ignored signals, blocked signals and interval timers are inherited over exec(2). So the program begins from a
known state (:func:`begin`), whoever started it:

- A stop signal (SIGTERM, SIGINT, SIGQUIT, SIGXCPU, and SIGHUP unless it was ignored) is held back until
  :class:`Signals` can hear it. SIGXCPU is one of them because the hard limit of CPU time follows.
- Any other signal that by default would end the process, and that is no fault of the program, is ignored: it
  would end the relay without a record.
- The rest have their default action. If SIGCHLD stayed ignored, waitpid(2) would fail with ECHILD (signal(7)).
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from mprelay.system import early

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_STOP = frozenset(map(signal.Signals, early.NUMBERS))
if sys.platform != "win32":
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
            # … or no end of it.
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


def name(number: int) -> str:
    """Name a signal: 9 is SIGKILL; a number that has no name is SIG and the number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def begin() -> None:
    """Make a known state of what this process (the supervisor) has inherited. Call it early.

    The stop signals stay blocked until :class:`Signals` hears them, or :func:`release` lets them act by default.
    What a sandbox refuses stays as it was.
    """
    if sys.platform != "win32":
        early.hold_back()
        for number in _STOP:
            if not _is_nohup(number):
                _settle(number, signal.SIG_DFL)
        _settle_others()
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            with suppress(OSError):
                signal.setitimer(timer, 0)


def release() -> None:
    """Block no signal, not even one that was blocked from the start. What came meanwhile is delivered now."""
    if sys.platform != "win32":
        with suppress(OSError):
            signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _is_nohup(number: int) -> bool:
    """Tell whether `number` is a hang-up that was ignored from the start: nohup(1) means it to stay so."""
    return sys.platform != "win32" and number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _settle_others() -> None:
    """Give each signal that is no stop signal its known disposition."""
    if sys.platform != "win32":
        for number in signal.valid_signals() - _STOP - _UNCHANGEABLE:
            if number not in _AS_BY_DEFAULT:
                _settle(number, signal.SIG_IGN)  # the real-time signals too
            elif signal.getsignal(number) is signal.SIG_IGN:  # exec(2) leaves no other handler but the default
                _settle(number, signal.SIG_DFL)


def _settle(number: int, disposition: signal.Handlers) -> None:
    with suppress(OSError):  # a sandbox may refuse it
        signal.signal(number, disposition)


class Signals:
    """Turns the signals that ask the relay to stop into readiness of one descriptor.

    From here on no signal is blocked. OSError: they cannot be heard. With `child_ended` SIGCHLD is heard too:
    :meth:`take` calls it, and returns the others.
    """

    def __init__(self, child_ended: Callable[[], None] | None = None) -> None:
        from mprelay.system.waker import Waker  # noqa: PLC0415 - the outlet never needs one

        self._waker = Waker()
        self._fd_before = signal.set_wakeup_fd(self._waker.writer, warn_on_full_buffer=False)
        heard = [number for number in _STOP if not _is_nohup(number)]
        self._child_ended = child_ended
        if child_ended is not None and sys.platform != "win32":
            heard.append(signal.SIGCHLD)
        self._before = {number: signal.signal(number, _only_wake) for number in heard}
        release()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal came."""
        return self._waker.fileno()

    def take(self) -> list[int]:
        """Return the numbers of the stop signals that came since the last call."""
        came = list(self._waker.clear())
        if self._child_ended is not None and sys.platform != "win32" and signal.SIGCHLD in came:
            self._child_ended()
            came = [number for number in came if number != signal.SIGCHLD]
        return came

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

    A signal mask is inherited over fork and exec, so a child cannot be interrupted in the moment before it
    comes to :func:`ignore`. A signal that arrives meanwhile is delivered to this process afterwards.
    """
    if sys.platform == "win32":
        yield
        return
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
    """Let the kernel kill this process (a worker) when the one that started it is gone.

    Most workers see that for themselves. One that is stopped (SIGSTOP) sees nothing, and would keep its sessions
    open for as long as it stands still. Where the system cannot do it (prctl(2), PR_SET_PDEATHSIG), so it is.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # a Python, or a C library, without it
            import ctypes  # noqa: PLC0415 - a millisecond, for workers alone

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore() -> None:
    """Make this process (a worker, or another child of the supervisor) deaf to whatever could end it.

    Ctrl-C and SIGQUIT from the keyboard reach a whole process group. Faults and SIGKILL still end it.
    """
    for number in _STOP:
        _settle(number, signal.SIG_IGN)
    _settle_others()
    release()


def kill(child: int) -> None:
    """End a child process that was not waited for, whatever it does. Works on a stopped (SIGSTOP) one too."""
    if sys.platform != "win32":
        with suppress(OSError):  # a sandbox refuses it
            os.kill(child, signal.SIGKILL)
