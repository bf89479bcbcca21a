"""When sessions began and ended, and when connections were refused: counts in intervals of equal length. Pure.

Rules:

1. Memory is bounded: with too many intervals each becomes longer, so their number stays below :data:`MOST`.
2. Each length is a multiple of the one before. So intervals are put together exactly, and nothing is spread.
3. Intervals begin at multiples of their length since 1970, UTC.
"""

from typing import Final, NamedTuple

from mprelay.audit.times import DAY, HOUR, MINUTE, SECOND, Moment

MOST: Final = 120
"""Intervals of a picture, at most."""

_LENGTHS: Final = (
    *(
        SECOND // 10,
        SECOND // 2,
        SECOND,
        5 * SECOND,
        15 * SECOND,
        MINUTE,
        5 * MINUTE,
        15 * MINUTE,
        HOUR,
        3 * HOUR,
        6 * HOUR,
        12 * HOUR,
    ),
    *(DAY, 7 * DAY, 28 * DAY, 364 * DAY, 3640 * DAY, 36400 * DAY),
)
"""From year 1 to 9999 there are a hundred of the longest."""


class Interval(NamedTuple):
    """What happened in one interval."""

    begins: Moment
    begun: int
    """Sessions that began."""
    ended: int
    refused: int
    bytes: int
    """Bytes, both ways, of the sessions that ended."""
    present: int
    """Sessions that were open at some time in it."""


class Timeline:
    """Counts by time."""

    def __init__(self) -> None:
        self._step = 0
        self._counts: dict[int, list[int]] = {}

    @property
    def length(self) -> int:
        """How long each interval is, in microseconds."""
        return _LENGTHS[self._step]

    def add(self, when: Moment, *, begun: int = 0, ended: int = 0, refused: int = 0, moved: int = 0) -> None:
        """Count something that happened at a moment."""
        number = when // _LENGTHS[self._step]
        counts = self._counts.get(number)
        if counts is None:
            counts = self._counts[number] = [0, 0, 0, 0]
            while len(self._counts) > MOST:
                self._lengthen()
            counts = self._counts[when // self.length]
        counts[0] += begun
        counts[1] += ended
        counts[2] += refused
        counts[3] += moved

    def intervals(self) -> list[Interval]:
        """Return all intervals from the first to the last, the empty ones between them too."""
        if not self._counts:
            return []
        while max(self._counts) - min(self._counts) >= MOST:
            self._lengthen()
        numbers = range(min(self._counts), max(self._counts) + 1)
        counted = [(number, *self._counts.get(number, (0, 0, 0, 0))) for number in numbers]
        # Without the beginning of a log more sessions end than have begun: they were open before.
        before = lowest = 0
        for _, begun, ended, _, _ in counted:
            before += begun - ended
            lowest = min(lowest, before)
        made, there = [], -lowest
        for number, begun, ended, refused, moved in counted:
            made.append(Interval(number * self.length, begun, ended, refused, moved, there + begun))
            there += begun - ended
        return made

    def _lengthen(self) -> None:
        """Make each interval longer."""
        shorter = self.length
        self._step += 1
        counts: dict[int, list[int]] = {}
        for number, old in self._counts.items():
            new = counts.setdefault(number * shorter // self.length, [0, 0, 0, 0])
            for place, count in enumerate(old):
                new[place] += count
        self._counts = counts
