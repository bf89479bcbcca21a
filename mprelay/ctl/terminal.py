"""Draws on the terminal that stdout is, and leaves it as it was."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from textual.drivers.linux_driver import LinuxDriver


class Terminal(LinuxDriver):
    """textual's driver. That one draws on stderr, believes COLUMNS and LINES, and does not know of SIGSTOP."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as the base has them
        super().__init__(*args, **options)
        if sys.__stdout__ is not None:
            self._file = sys.__stdout__
        if sys.platform != "win32":  # for mypy, which checks the other platforms too
            # While this program is stopped, the shell may read what a select has just found here. The read behind
            # that select must not wait for another key: on resumption, its thread has to end first. O_NONBLOCK
            # belongs to the open file description, which the shell shares, so the terminal is opened once more.
            with suppress(OSError):  # a container may not know its name
                flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
                self.fileno = os.open(os.ttyname(self.fileno), flags)
            # These leave the screen and take it over, which needs locks. What a signal interrupts may hold one of
            # them, so the handlers do not run there, but in the loop.
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTSTP, self._sigtstp_application)
            loop.add_signal_handler(signal.SIGCONT, self._sigcont_application)

    def _get_terminal_size(self) -> tuple[int, int]:
        """Ask the terminal. The variables say how large it was when a shell was started, if they are exported."""
        if self._file is not None:
            with suppress(OSError):  # it has hung up
                width, height = os.get_terminal_size(self._file.fileno())
                return width, height
        return super()._get_terminal_size()

    def _sigtstp_application(self, *_: object) -> None:
        """Give the terminal back, and stop, unless this has been done already.

        Several of these signals may have come before the first is obeyed here. The kernel drops one that comes to
        a process that is stopped, so all but the first have no effect.
        """
        if self._is_drawing() or not self._auto_restart:
            super()._sigtstp_application()

    def _is_drawing(self) -> bool:
        return self._writer_thread is not None and self._writer_thread.is_alive()

    def write(self, data: str) -> None:
        """Write to the terminal, unless it is given back. Nobody empties the queue then, and it is soon full."""
        if self._is_drawing():
            super().write(data)

    def suspend_application_mode(self) -> None:
        """Give the terminal back until SIGCONT."""
        super().suspend_application_mode()
        self._auto_restart = True

    def stop_application_mode(self) -> None:
        """Give the terminal back. If this is no suspension, no SIGCONT takes it over any more."""
        self._auto_restart = False
        super().stop_application_mode()

    def start_application_mode(self) -> None:
        """Take the terminal over, also after a SIGSTOP. Before that one, nobody can give it back."""
        if self._key_thread is not None and self._key_thread.is_alive():
            # It ends here, so that disable_input has nothing left to do. That would throw away what is typed
            # until the thread has ended, for up to 0.2 s, and the screen may be drawn before that.
            self.exit_event.set()
            self._key_thread.join()
            self._disable_mouse_support()
            self.suspend_application_mode()
            self.exit_event.clear()
            self._must_signal_resume = True
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def run_input_thread(self) -> None:
        """Pass keys on until exit_event is set. If there is nothing to read, the shell has read it."""
        while True:
            with suppress(BlockingIOError):
                super().run_input_thread()
                return
