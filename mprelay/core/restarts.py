"""How soon a worker is started again: what could not be started, and what dies again and again, waits longer.

    start ──Ready──▶ ready ──dies──▶ start: at once if it lived for 5 s, else after 1, 2, 4 … 60 s
      └─ cannot be started, ends, hangs, is of another build ──▶ start: after 0.1, 0.2, 0.4 … 60 s

No clock: pauses are seconds from now.
"""

from collections import Counter
from collections.abc import Container
from typing import Final

TRIES: Final = 6
"""Starts of one worker in a row that may fail while there is no other."""

_FAILED_PAUSE: Final = 0.1  # seconds before the second try, doubled for each further one
_CRASHED_PAUSE: Final = 1.0  # seconds before a worker is replaced, doubled for each further crash in a row
_LONGEST_PAUSE: Final = 60.0  # seconds before any further try
_SHORT_LIFE: Final = 5.0  # seconds: a worker that dies sooner after it was ready may die again and again


class Restarts:
    """What is known of the starts and crashes of the workers 1 to `workers`."""

    def __init__(self, workers: int) -> None:
        self._numbers = range(1, workers + 1)
        self._failed: Counter[int] = Counter()  # starts in a row, by worker
        self._crashed: Counter[int] = Counter()  # crashes in a row, by worker

    def ready(self, worker: int) -> None:
        """Note that a worker is ready."""
        self._failed[worker] = 0

    def failed(self, worker: int) -> tuple[int, float]:
        """Note that a worker could not be started: how many times in a row, and how long to wait."""
        self._failed[worker] += 1
        return self._failed[worker], _growing(_FAILED_PAUSE, self._failed[worker])

    def died(self, worker: int, lived: float) -> float:
        """Note that a worker died that was ready for so many seconds; return how long to wait."""
        if lived >= _SHORT_LIFE:
            self._crashed[worker] = 0
            return 0.0
        self._crashed[worker] += 1
        return _growing(_CRASHED_PAUSE, self._crashed[worker])

    def waiting(self, running: Container[int]) -> list[int]:
        """List the workers that could not be started, and are not `running` now."""
        return [worker for worker in self._numbers if self._failed[worker] and worker not in running]

    def hopeless(self) -> bool:
        """Tell whether each worker was tried in vain often enough."""
        return all(self._failed[worker] >= TRIES for worker in self._numbers)


def _growing(first: float, times: int) -> float:
    """Return `first`, doubled for each further time, at most the longest pause."""
    return min(first * 2.0 ** min(times - 1, 32), _LONGEST_PAUSE)
