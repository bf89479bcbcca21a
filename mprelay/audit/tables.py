"""Tables of counts by a key (a client, a reason), of bounded size. Pure.

Rules:

1. Nothing is lost: the rows and `others` together are the exact sum of all that was added.
2. A table keeps all rows up to twice its limit. Beyond, it keeps the largest by each measure, and puts the rest
   into `others`. So whoever came often stays, whenever the many came that did not.
3. A row that may have lost an earlier part of its counts to `others` is `late`: its figures are lower bounds.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from mprelay.audit.times import Moment

Key = TypeVar("Key", bound=Hashable)


class Row:
    """The counts of one key, and when it was first and last seen."""

    __slots__ = ("counts", "first", "last", "late")

    def __init__(self, width: int, *, late: bool = False) -> None:
        self.counts = [0] * width
        self.first: Moment | None = None
        self.last: Moment | None = None
        self.late = late

    def add(self, counts: Sequence[int], first: Moment | None, last: Moment | None) -> None:
        """Add counts of something that lasted from `first` to `last`."""
        own = self.counts
        for place, count in enumerate(counts):
            if count:
                own[place] += count
        if first is not None and (self.first is None or first < self.first):
            self.first = first
        if last is not None and (self.last is None or last > self.last):
            self.last = last


class Table(Generic[Key]):
    """Rows by their keys, each of `width` counts. `measures` are the places of those by which rows are kept."""

    def __init__(self, width: int, limit: int, measures: tuple[int, ...] = (0,)) -> None:
        self.others = Row(width)
        """The sum of the rows that are not kept."""
        self.folded = 0
        """How many rows went into it. A key that came again counts again."""
        self._width = width
        self._limit = limit
        self._measures = measures
        self._rows: dict[Key, Row] = {}
        self._came_again = False  # whether a key may have been folded before

    def add(
        self, key: Key, counts: Sequence[int], first: Moment | None = None, last: Moment | None = None
    ) -> None:
        """Add counts to the row of a key. `last` is `first` if it is not given."""
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= 2 * self._limit:
                self._fold()
            row = self._rows[key] = Row(self._width, late=bool(self.folded))
            self._came_again |= row.late  # perhaps
        row.add(counts, first, first if last is None else last)

    def shrink(self, limit: int) -> None:
        """Keep fewer rows from now on."""
        self._limit = limit
        self._fold()

    def rows(self) -> list[tuple[Key, Row]]:
        """Return the rows, the largest by the first measures first, and those that came first before others."""
        return sorted(self._rows.items(), key=lambda item: self._by(item[1]), reverse=True)

    def distinct(self) -> tuple[int, bool]:
        """Return how many keys there were, and whether that is only known as "at most"."""
        return len(self._rows) + self.folded, self._came_again

    def total(self) -> list[int]:
        """Return the exact sums of all that was added."""
        return [sum(counts) for counts in zip(self.others.counts, *self._counts(), strict=True)]

    def __getitem__(self, key: Key) -> list[int]:
        """Return the counts of a key, zeros if it has none."""
        row = self._rows.get(key)
        return [0] * self._width if row is None else row.counts

    def _counts(self) -> list[list[int]]:
        return [row.counts for row in self._rows.values()]

    def _by(self, row: Row) -> list[int]:
        return [row.counts[place] for place in self._measures]

    def _fold(self) -> None:
        kept: set[Key] = set()
        for place in self._measures:
            largest = sorted(self._rows, key=lambda key: self._rows[key].counts[place], reverse=True)
            kept.update(largest[: self._limit // len(self._measures)])
        for key in [key for key in self._rows if key not in kept]:
            row = self._rows.pop(key)
            self.others.add(row.counts, row.first, row.last)
            self.folded += 1
