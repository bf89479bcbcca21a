"""How many values were how large: a histogram with fixed buckets, as Prometheus has them. No clock."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

CONNECT_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0)
"""Seconds that a connection to the target takes: the connect timeout is 3 seconds at most."""

SESSION_BOUNDS: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)
"""Seconds that a session lives."""


class Histogram:
    """Counts values by the first of `bounds` (ascending) that they do not exceed; larger ones at infinity."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value, at least 0."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, infinity last, and how many values do not exceed it."""
        count = 0
        for bound, here in zip((*self._bounds, inf), self._counts, strict=True):
            count += here
            yield bound, count


class Durations:
    """How long the connections to the target took, and how long the sessions lived, in seconds."""

    __slots__ = ("connect", "session")

    def __init__(self) -> None:
        self.connect = Histogram(CONNECT_BOUNDS)
        self.session = Histogram(SESSION_BOUNDS)
