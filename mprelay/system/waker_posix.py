"""A wake-up is a byte in a pipe, which holds 64 Ki of them (pipe(7)). A local socket holds some hundred."""

import os
import sys
from contextlib import suppress

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too


class Waker:
    """See :mod:`mprelay.system.waker`."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        """`writer` is a descriptor: any byte written to it wakes."""
        os.set_blocking(self._reader, False)
        os.set_blocking(self.writer, False)

    def fileno(self) -> int:
        """Return the descriptor that is readable after a wake-up."""
        return self._reader

    def wake(self, what: bytes = b"\0") -> None:
        """Wake, and tell what about. What does not fit, because nobody has looked for long, is lost."""
        with suppress(BlockingIOError):
            os.write(self.writer, what)

    def clear(self) -> bytes:
        """Go back to sleep; return what was written."""
        try:
            return os.read(self._reader, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self.writer)
