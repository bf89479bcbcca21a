"""When the log is sealed: the pace of its checkpoints. What they are is :mod:`mprelay.records.sealed`'s business.

Rules:

1. A record is covered after :data:`INTERVAL`, and at once when draining begins and at the end.
2. A relay that writes nothing is not woken.
"""

from typing import Final

from mprelay.records.sealed import SealedRecorder
from mprelay.supervisor.loop import Loop

INTERVAL: Final = 10.0
"""Seconds until a checkpoint covers a record, at most."""


class Sealing:
    """Asks for the checkpoints of one run."""

    def __init__(self, loop: Loop, recorder: SealedRecorder) -> None:
        self._loop = loop
        self._recorder = recorder
        self._due = loop.unset_alarm(recorder.checkpoint)

    def look(self) -> None:
        """See whether a record waits for a checkpoint. Call it once in each turn."""
        if not self._due.pending and self._recorder.uncovered:
            self._due.move(self._loop.now + INTERVAL)

    def cover(self) -> None:
        """Cover what has been written so far."""
        self._recorder.checkpoint()

    def finish(self) -> None:
        """Write the last record."""
        self._recorder.checkpoint(last=True)
