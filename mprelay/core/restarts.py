"""How soon a worker is started again. Each further failure in a row doubles the pause.

    start ──Ready──▶ ready ──dies──▶ start: at once if it lived for 5 s, else after 1, 2, 4 … 60 s
      └─ cannot be started, ends, hangs, is of another build ──▶ start: after 0.1, 0.2, 0.4 … 60 s

No clock: pauses are seconds from now.
"""

from collections import Counter
from collections.abc import Container
from typing import Final

TRIES: Final = 6
"""Starts of one worker in a row that may fail while no other worker is ready."""

_FAILED_PAUSE: Final = 0.1  # seconds before the second try, doubled for each further one
_CRASHED_PAUSE: Final = 1.0  # seconds before a worker is replaced, doubled for each further crash in a row
_LONGEST_PAUSE: Final = 60.0  # seconds before any further try
_SHORT_LIFE: Final = 5.0  # seconds after it was ready within which a death counts as a crash in a row


class Restarts:
    """Counts the failed starts and the crashes of the workers 1 to `workers`."""

    def __init__(self, workers: int) -> None:
        self._numbers = range(1, workers + 1)
        self._failed: Counter[int] = Counter()  # starts in a row, by worker
        self._crashed: Counter[int] = Counter()  # crashes in a row, by worker

    def ready(self, worker: int) -> None:
        """Note that a worker is ready."""
        self._failed[worker] = 0

    def failed(self, worker: int) -> tuple[int, float]:
        """Note that a worker could not be started; return how many times in a row, and seconds to wait."""
        self._failed[worker] += 1
        return self._failed[worker], _growing(_FAILED_PAUSE, self._failed[worker])

    def died(self, worker: int, lived: float) -> float:
        """Note that a worker died `lived` seconds after it was ready; return the seconds to wait."""
        if lived >= _SHORT_LIFE:
            self._crashed[worker] = 0
            return 0.0
        self._crashed[worker] += 1
        return _growing(_CRASHED_PAUSE, self._crashed[worker])

    def waiting(self, running: Container[int]) -> list[int]:
        """List the workers that could not be started, and are not `running` now."""
        return [worker for worker in self._numbers if self._failed[worker] and worker not in running]

    def hopeless(self) -> bool:
        """Tell whether each worker failed to start at least :data:`TRIES` times in a row."""
        return all(self._failed[worker] >= TRIES for worker in self._numbers)


def _growing(first: float, times: int) -> float:
    """Return `first`, doubled for each further time, but at most the longest pause."""
    return min(first * 2.0 ** min(times - 1, 32), _LONGEST_PAUSE)
