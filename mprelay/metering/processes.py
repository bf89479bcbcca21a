"""What each process of the relay uses: CPU time, memory, descriptors. Measured here, by psutil."""

import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from mprelay.metering.source import Snapshot


class Usage(NamedTuple):
    """One process. `worker` is "" for those that are none."""

    process: str
    worker: str
    cpu_s: float  # of this process and of those before it in its place, as far as they were measured
    rss: int  # bytes
    fds: int | None  # None: not to be counted on this system


class Processes:
    """Measures the processes of one relay, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[psutil.Process, float]] = {}  # and the CPU seconds before it
        self._cpu_s: dict[tuple[str, str], float] = {}

    def measure(self, snapshot: Snapshot) -> Iterator[Usage]:
        """Yield the usage of each process that is still there."""
        with self._lock:
            for (process, worker), pid in _pids(snapshot):
                try:
                    yield self._measure(process, worker, pid)
                except (psutil.Error, OSError):  # it has ended since, or a sandbox hides it
                    continue

    def _measure(self, process: str, worker: str, pid: int) -> Usage:
        place = process, worker
        known, before = self._known.get(place, (None, 0.0))
        if known is None or known.pid != pid:
            known, before = psutil.Process(pid), self._cpu_s.get(place, 0.0)
            self._known[place] = known, before
        with known.oneshot():
            times = known.cpu_times()
            rss = known.memory_info().rss
            count = getattr(known, "num_fds", None)  # Windows has none
            fds = None if count is None else int(count())
        # A process in the place of another goes on from its figure: a counter never falls.
        cpu_s = self._cpu_s[place] = before + times.user + times.system
        return Usage(process, worker, cpu_s, rss, fds)


def _pids(snapshot: Snapshot) -> Iterator[tuple[tuple[str, str], int]]:
    yield ("supervisor", ""), snapshot["pid"]
    yield ("metrics", ""), os.getpid()
    if snapshot["outlet_pid"] is not None:
        yield ("outlet", ""), snapshot["outlet_pid"]
    for worker in snapshot["workers"]:
        yield ("worker", str(worker["worker"])), worker["pid"]
