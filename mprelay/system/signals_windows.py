"""What stops a program on Windows: Ctrl-C, Ctrl-Break, and the end of the console.

- The first two are SIGINT and SIGBREAK. Windows cannot block them. One that comes before :class:`Signals` can
  hear it is noted (:mod:`mprelay.system.early`).
- When the console is closed, a process is told in a thread of its own, and is killed when that thread returns, or
  after about five seconds. So the thread never returns, and the relay is stopped by two signals at once: the
  second one does not wait for sessions.
- All processes of a console are told, one after the other, the newest first. Those that only the supervisor stops
  stay deaf (:func:`ignore`), and leave the console if they can (:func:`leave_console`), because the system would
  wait for each of them before it tells the supervisor.
- Nothing is done about a logoff or the machine's end. A program that loads user32, as ctypes does, is asked by a
  message to its window, and this one has none. A service is told of every user's logoff, and shall not end.
- A service's wrapper (docs/operations.md) sends Ctrl-C or Ctrl-Break.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from mprelay.system import early

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

HANGUP: Final[int | None] = None
"""The stop signal that can also mean: read your files again. There is none."""

_STOP: Final = tuple(map(signal.Signals, early.NUMBERS))
_CTRL_CLOSE_EVENT: Final = 2  # wincon.h; those below are signals, those above are about logins and the machine
_END_NOW: Final = bytes([signal.SIGTERM] * 2)

_STREAMS: Final = range(3)

_Handler: Any = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)
_handlers: list[Any] = []
"""The console handler of this process, once there is one. The system keeps only its address."""

_at_the_end: list[Callable[[], None]] = []
"""What that handler calls."""


def begin() -> None:
    """Note the stop signals from now on, until :class:`Signals` hears them or :func:`release` lets them act."""
    early.hold_back()


def pending() -> bool:
    """Tell whether a stop signal was sent that is still held back. Nothing is held back here."""
    return False


def release() -> None:
    """Let the stop signals act by default, unless they are heard or ignored. One that was noted acts now."""
    for number in _STOP:
        if signal.getsignal(number) is early.note:
            signal.signal(number, signal.SIG_DFL)
    if early.noted:
        signal.raise_signal(early.noted[0])


def _when_the_console_ends(call: Callable[[], None]) -> None:
    """Make this call, in another thread, when the console ends. The last one counts.

    The system holds a lock while a handler runs. Another handler set by then would wait for ever.
    """
    _at_the_end[:] = [call]
    if _handlers:
        return

    def handle(event: int) -> int:
        if event != _CTRL_CLOSE_EVENT:
            return 0
        _at_the_end[0]()
        threading.Event().wait()  # a return would end this process at once
        return 1

    _handlers.append(_Handler(handle))
    ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(_handlers[-1], 1)


class Signals:
    """Turns the stop signals into readiness of one descriptor; no handler does anything else.

    :meth:`take` returns those that came, in their order. Raises OSError if signals cannot be heard.
    """

    def __init__(self, _child_ended: Callable[[], None] | None = None) -> None:
        from mprelay.system.waker import Waker  # noqa: PLC0415 - the outlet never needs one

        self._waker = Waker()
        self._fd_before = signal.set_wakeup_fd(self._waker.writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _only_wake) for number in _STOP}
        _when_the_console_ends(lambda: self._waker.wake(_END_NOW))
        self._waker.wake(bytes(early.noted))
        early.noted.clear()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._waker.fileno()

    def take(self) -> list[int]:
        """Return the numbers of the stop signals that came since the last call."""
        return list(self._waker.clear())

    def close(self) -> None:
        """Restore the previous handlers, or the defaults."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is early.note else handler)
        signal.set_wakeup_fd(self._fd_before)
        self._waker.close()


def _only_wake(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the interpreter's C handler has already sent the number to the wake-up descriptor."""


@contextmanager
def held_back() -> Iterator[None]:
    """Nothing can be held back here. A child that is told before it reaches :func:`ignore` ends."""
    yield


def die_with_parent() -> None:
    """The supervisor has seen to that (:func:`mprelay.system.spawning.tie`)."""


def ignore() -> None:
    """Ignore everything that could end this process. Its supervisor, which is told too, ends it."""
    for number in _STOP:
        signal.signal(number, signal.SIG_IGN)
    _when_the_console_ends(lambda: None)


def leave_console() -> None:
    """Leave the console, and hear nothing of it any more, unless a standard stream of this process is on it."""
    if not any(map(os.isatty, _STREAMS)):
        ctypes.WinDLL("kernel32").FreeConsole()


def has_terminal() -> bool:
    """Tell whether a terminal could hang up: the end of a console is told in another way."""
    return False
