"""A set of whole numbers that is kept as ranges: the `seq` and the serials of a log, which have few gaps. Pure.

Rules:

1. Numbers may come in any order, as the files of a log may.
2. Memory is bounded: beyond :data:`LIMIT` ranges the set takes no further range, and says so (`exact`).
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

LIMIT: Final = 65_536
"""Ranges that are kept apart. A relay has at most as many sessions open, and as many gaps between their ends."""


class Numbers:
    """A set of numbers."""

    def __init__(self) -> None:
        self.count = 0
        """How many different numbers were added."""
        self.exact = True
        """Whether all of them are kept; otherwise there were too many ranges."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, number: int) -> bool:
        """Add a number. False: it was there."""
        firsts, lasts = self._firsts, self._lasts
        if lasts and number == lasts[-1] + 1:
            lasts[-1] = number
            self.count += 1
            return True
        place = bisect_right(firsts, number)  # the range before this place begins at or below the number
        if place and number <= lasts[place - 1]:
            return False
        self.count += 1
        joins_before = bool(place) and lasts[place - 1] == number - 1
        joins_behind = place < len(firsts) and firsts[place] == number + 1
        if joins_before and joins_behind:
            lasts[place - 1] = lasts.pop(place)
            del firsts[place]
        elif joins_before:
            lasts[place - 1] = number
        elif joins_behind:
            firsts[place] = number
        elif len(firsts) < LIMIT:
            firsts.insert(place, number)
            lasts.insert(place, number)
        else:
            self.exact = False
        return True

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number)
        return bool(place) and number <= self._lasts[place - 1]

    @property
    def largest(self) -> int:
        """The largest number; 0: there is none."""
        return self._lasts[-1] if self._lasts else 0

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Return what is missing from 1 to the largest: the first and the last number of each gap."""
        expected = 1
        for first, last in zip(self._firsts, self._lasts, strict=True):
            if first > expected:
                yield expected, first - 1
            expected = last + 1
