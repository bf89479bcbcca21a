"""The record ``relay.stats``: what each process uses of CPU time, memory and descriptors, measured by psutil."""

import os
from typing import TYPE_CHECKING, Any, Final

from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.member import Member

if TYPE_CHECKING:
    import psutil

_WORKERS_IN_RECORD: Final = 16  # a record must stay below 4096 bytes


class Meter:
    """Measures one process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: psutil.Process | None = None

    def read(self) -> dict[str, Any]:
        """Return pid, cpu_percent since the last call, rss in bytes, and fds. None: cannot be measured now."""
        figures: dict[str, Any] = {"pid": self._pid, "cpu_percent": None, "rss": None, "fds": None}
        try:
            import psutil  # noqa: PLC0415 - 30 ms, for which the start need not wait
        except (ImportError, OSError):  # not installed, or no descriptor left to read it with
            return figures
        try:
            self._process = process = self._process or psutil.Process(self._pid)
            with process.oneshot():
                figures["cpu_percent"] = process.cpu_percent()
                figures["rss"] = process.memory_info().rss
                if num_fds := getattr(process, "num_fds", None):  # Windows has none
                    figures["fds"] = num_fds()
        except (psutil.Error, OSError, ValueError):  # ValueError: a sandbox hides our own pid
            pass
        return figures


class Statistics:
    """Writes ``relay.stats`` at each interval."""

    def __init__(
        self, interval: float, loop: Loop, *, recorder: Recorder, writer: Writer, book: Book, crew: Crew
    ) -> None:
        self._loop = loop
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self._crew = crew
        self._interval = interval  # seconds; 0: no records
        self._alarm = loop.unset_alarm(self._write)
        self._own_meter = Meter(os.getpid())
        self._meters: dict[Member, Meter] = {}

    def start(self) -> None:
        """Write the first record after one interval."""
        if self._interval:
            self._alarm.move(self._loop.now + self._interval)

    def stop(self) -> None:
        """Write no more records."""
        self._alarm.cancel()

    def _write(self) -> None:
        self.start()
        if self._writer.congested:
            return  # while a collector stalls for days, figures must not fill the memory
        usage = self._usage()
        for first in range(0, max(1, len(usage)), _WORKERS_IN_RECORD):  # one record even if no worker is ready
            self._recorder.write(
                catalogue.RELAY_STATS,
                active=self._book.ledger.active,
                max_sessions=self._book.ledger.limit,
                **self._book.totals(),
                supervisor=self._own_meter.read(),
                worker_stats=usage[first : first + _WORKERS_IN_RECORD],
            )

    def _usage(self) -> list[dict[str, Any]]:
        """Measure each ready worker."""
        ready = self._crew.ready_members()
        self._meters = {member: self._meters.get(member) or Meter(member.pid) for member in ready}
        return [
            {
                "worker": member.number,
                **self._meters[member].read(),
                "sessions": self._book.workers.load(member.number),
            }
            for member in ready
        ]
