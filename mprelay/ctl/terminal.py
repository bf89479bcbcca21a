"""Draws on the terminal that stdout is, and leaves it as it was."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from textual.drivers.linux_driver import LinuxDriver


@contextmanager
def without_signals() -> Iterator[None]:
    """Threads that are started within take no signals, so the main thread takes them all.

    What has come together is then heard of together, whatever the order. Otherwise each thread may take one of
    them, and another may be faster. SIGTTIN and SIGTTOU are answers to what a thread does itself.
    """
    if sys.platform != "win32":  # for mypy, which checks the other platforms too
        taken = signal.valid_signals() - {signal.SIGTTIN, signal.SIGTTOU}
        try:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
        except OSError:  # a sandbox refuses it
            yield
            return
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


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
            # them, so the handlers do not run there, but in the loop. A signal that ends the program may come
            # together with SIGCONT, and goes first: they are put off until it has been obeyed.
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTSTP, loop.call_soon, self._sigtstp_application)
            loop.add_signal_handler(signal.SIGCONT, loop.call_soon, self._sigcont_application)

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

    def _sigcont_application(self, *_: object) -> None:
        """Take the terminal over. If that is the shell's, as after its bg, stop again until it is not."""
        if sys.platform != "win32" and self._auto_restart and self.in_background():
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            super()._sigcont_application()

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

    def in_background(self) -> bool:
        """Whether somebody else has the terminal, as a rule the shell. Nobody has one that is not controlling."""
        if sys.platform != "win32" and self._file is not None:
            with suppress(OSError):
                return os.tcgetpgrp(self._file.fileno()) != os.getpgrp()
        return False

    def clear_away(self) -> None:
        """Leave the screen for good from the background, if a SIGSTOP has left it there.

        The modes of the terminal are the shell's by now, and so is what has been typed. This only writes.
        """
        if self._is_drawing():
            self.attrs_before = None
            self.exit_event.set()
            self._disable_mouse_support()
            self.stop_application_mode()
            self.close()

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
        with without_signals():
            super().start_application_mode()  # type: ignore[no-untyped-call]
        if sys.platform != "win32":
            # After `stty tostop` it stops whoever writes in the background, before a signal there is obeyed.
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def run_input_thread(self) -> None:
        """Pass keys on until exit_event is set. If there is nothing to read, the shell has read it."""
        while True:
            with suppress(BlockingIOError):
                super().run_input_thread()
                return
