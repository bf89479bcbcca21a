"""What the page draws: a few figures of past snapshots, whoever asked for them.

Nothing is asked for only to fill it. While nobody looks, the history has a gap, and the relay is left alone.
"""

import threading
from collections import deque
from typing import Any, Final

from mprelay.metering.source import Snapshot

STEP: Final = 10.0
"""Seconds between two samples, at least."""

SPAN: Final = 3600.0
"""Seconds that are kept."""


class History:
    """The samples of the last hour."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int, int, int]] = deque(maxlen=round(SPAN / STEP))

    def note(self, snapshot: Snapshot, now: float) -> None:
        """Keep the figures of a snapshot, if the last sample is old enough. `now` is monotonic, in seconds."""
        with self._lock:
            if not self._samples or now - self._samples[-1][0] >= STEP:
                moved = snapshot["bytes_from_client"] + snapshot["bytes_from_target"]
                self._samples.append((now, snapshot["active"], snapshot["admitted"], moved))

    def show(self, now: float) -> list[dict[str, Any]]:
        """Return the samples, oldest first, with their ages in seconds."""
        with self._lock:
            return [
                {"age_s": round(now - at, 1), "active": active, "admitted": admitted, "bytes": moved}
                for at, active, admitted, moved in self._samples
                if now - at <= SPAN
            ]
