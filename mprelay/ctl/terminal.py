"""Draws on the terminal that stdout is, and leaves it as it was."""

import os
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

    def _get_terminal_size(self) -> tuple[int, int]:
        """Ask the terminal. The variables say how large it was when a shell was started, if they are exported."""
        if self._file is not None:
            with suppress(OSError):  # it has hung up
                width, height = os.get_terminal_size(self._file.fileno())
                return width, height
        return super()._get_terminal_size()

    def start_application_mode(self) -> None:
        """Take the terminal over, also after a SIGSTOP. Before that one, nobody can give it back."""
        if self._key_thread is not None and self._key_thread.is_alive():
            self.suspend_application_mode()
            self._must_signal_resume = True
        super().start_application_mode()  # type: ignore[no-untyped-call]
