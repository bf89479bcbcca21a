"""The file for notes (--checkpoint-to), written by a thread of its own, because that may take for ever.

Rules:

1. A note that waits is bounded in number: each note says all that the ones before it have said, and more. So if
   the file takes nothing, the oldest are dropped.
2. A note is written in one piece. No room is temporary, as it is for records. After any other error nothing more
   is written, which is said once.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from mprelay.system.streams import Sink

WAITING_LIMIT: Final = 1000
"""Notes that wait, at most."""

_END_LIMIT: Final = 1.0  # seconds for the last notes


class Notebook:
    """Writes notes to a descriptor, in their order.

    `say` takes complaints. `on_lost` is called once, from the thread, if no more notes can be written.
    """

    def __init__(self, descriptor: int, say: Callable[[str], None], on_lost: Callable[[], None]) -> None:
        self._sink = Sink(descriptor, say, "notes of checkpoints")
        self._say = say
        self._on_lost = on_lost
        self._waiting: deque[bytes] = deque(maxlen=WAITING_LIMIT)
        self._changed = threading.Condition()
        self._over = False
        self._writing = threading.Thread(target=self._write_all, daemon=True)

    def start(self) -> None:
        """Begin. Raises RuntimeError: there can be no thread."""
        self._writing.start()

    def add(self, notes: list[bytes]) -> None:
        """Write notes, some time. Never blocks."""
        if notes:
            with self._changed:
                self._waiting.extend(notes)
                self._changed.notify()

    def end(self) -> None:
        """Wait a moment until everything is written."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._writing.join(_END_LIMIT)
        if self._writing.is_alive():
            self._say("the last notes of checkpoints are not written yet, and given up")

    def _write_all(self) -> None:
        try:
            while (note := self._next()) is not None:
                self._sink.write(note)
        except OSError as failure:
            self._say(f"no more notes of checkpoints are written: {failure.strerror}")
            self._on_lost()

    def _next(self) -> bytes | None:
        """Wait for a note; None: there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            return self._waiting.popleft() if self._waiting else None
