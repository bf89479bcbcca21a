"""Which of many ranges decides on a number: the first in the order of the list, found by bisection.

Ranges here are networks, so any two of them are nested or apart. Overlaid in the order of the list, they cut the
numbers into intervals with one decider each:

    ranges      0 ├───────────────────┤        intervals    0   │ 1 │  0  │ none
                1     ├──────────┤
                      (1 is inside 0 and comes later: it decides nowhere)

Rules:

1. Between ranges that hold a number, the one with the smallest index decides.
2. To find the decider takes three bisections at most, in arrays of 64-bit numbers, whose items need no object
   each. For the 128 bits of IPv6 there are two arrays: a number's upper half, and its lower half.
3. No address, no text: numbers.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

NOBODY: Final = -1
"""The decider where there is none."""

Range: TypeAlias = tuple[int, int, int]
"""The first number, the last one, and the index in the list."""

_HALF: Final = 64  # bits
_LOWER: Final = (1 << _HALF) - 1


class Ranges:
    """Intervals and their deciders. Two are equal if they decide alike on every number."""

    __slots__ = ("_deciders", "_lower", "_upper")

    def __init__(self, upper: "array[int]", lower: "array[int]", deciders: "array[int]") -> None:
        """Take the parts; :meth:`of` makes them. Interval `i` begins at the number with these two halves."""
        self._upper = upper
        self._lower = lower
        self._deciders = deciders

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> "Ranges":
        """Overlay ranges of numbers below 2**128, of which any two are nested or apart."""
        upper, lower, deciders = array("Q"), array("Q"), array("q")
        for first, decider in _intervals(ranges):
            upper.append(first >> _HALF)
            lower.append(first & _LOWER)
            deciders.append(decider)
        return cls(upper, lower, deciders)

    def find(self, number: int) -> int:
        """Return the index of the range that decides on `number`, or NOBODY."""
        half = number >> _HALF
        end = bisect_right(self._upper, half)
        begin = bisect_left(self._upper, half, 0, end)
        return self._deciders[bisect_right(self._lower, number & _LOWER, begin, end) - 1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Ranges, self._parts

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self._upper, self._lower, self._deciders

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(tuple(self._deciders))


def _intervals(ranges: Iterable[Range]) -> list[tuple[int, int]]:
    """Cut the numbers into intervals: where each begins, and who decides there. Neighbours differ."""
    intervals: list[tuple[int, int]] = []

    def begin(at: int, decider: int) -> None:
        if intervals and intervals[-1][0] == at:
            intervals.pop()
        if not intervals or intervals[-1][1] != decider:
            intervals.append((at, decider))

    begin(0, NOBODY)
    around: list[
        tuple[int, int]
    ] = []  # the ranges around the present place: the last number of each, its decider

    def leave(place: int | None) -> None:
        """Leave the ranges that end before `place`, or all."""
        while around and (place is None or around[-1][0] < place):
            last, _ = around.pop()
            begin(last + 1, around[-1][1] if around else NOBODY)

    for first, negative_last, index in sorted((first, -last, index) for first, last, index in ranges):
        leave(first)
        decider = min(index, around[-1][1]) if around else index
        begin(first, decider)
        around.append((-negative_last, decider))
    leave(None)
    if intervals[-1][0] > _LOWER << _HALF | _LOWER:
        intervals.pop()  # behind the last number of all
    return intervals
