"""A way to end a :meth:`mprelay.system.poller.Poller.wait` from a signal handler."""

import os
import sys


class Waker:
    """A pipe to itself: watch :meth:`fileno` for READ."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        """`writer` is a descriptor: any byte written to it wakes."""
        if sys.platform != "win32":
            os.set_blocking(self._reader, False)
            os.set_blocking(self.writer, False)

    def fileno(self) -> int:
        """Return the descriptor that is readable after a wake-up."""
        return self._reader

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
