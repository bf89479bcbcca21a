"""When refusals of connections are summed up, and when the sums are recorded."""

from typing import Final

from mprelay.records.writer import HIGH, Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.loop import Loop

_ROOM_FOR_REFUSALS: Final = HIGH // 2  # bytes of waiting records, above which refusals are summed up
_INTERVAL: Final = 10.0  # seconds until refusals that were summed up are recorded
_IN_BATCH: Final = 256  # records of sums written together; they take a quarter of the room for refusals
_RETRY_PAUSE: Final = 1.0  # seconds until the remaining sums are tried


class Sums:
    """Tells the book whether to sum up refusals, and has it record the sums."""

    def __init__(self, loop: Loop, writer: Writer, book: Book) -> None:
        self._loop = loop
        self._writer = writer
        self._book = book
        self._alarm = loop.unset_alarm(self._write)

    def begin(self) -> None:
        """Expect refusals: if many records wait, all are summed up."""
        self._book.summing_up = self._writer.backlog > _ROOM_FOR_REFUSALS

    def end(self) -> None:
        """Expect no more of them for now."""
        if self._book.refusals and not self._alarm.pending:
            self._alarm.move(self._loop.now + _INTERVAL)

    def _write(self) -> None:
        """Record sums of refusals, as far as there is room for records."""
        if self._writer.backlog <= _ROOM_FOR_REFUSALS:
            self._book.write_refusals(_IN_BATCH)
        if self._book.refusals:
            self._alarm.move(self._loop.now + _RETRY_PAUSE)
