"""The metrics, by their names, as prometheus-client writes them. All names begin with ``mprelay_``.

The families are the same in each format, so none has a type that only one of them knows (info, stateset).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mprelay.core.histogram import CONNECT_BOUNDS, SESSION_BOUNDS
from mprelay.core.protocol import CloseReason
from mprelay.metering.processes import Processes, Usage
from mprelay.metering.source import Snapshot

OUTCOMES: Final = ("admitted", "rejected", "limited", "abandoned", "proxy_invalid", "exhausted")
"""What may become of a connection."""

PHASES: Final = ("starting", "active", "draining", "ending", "over")
CAUSES: Final = ("log", "operator", "system", "workers")
"""What may hold admission back."""

_OTHER_VERSION: Final = re.compile(r"version=(?!\d{1,3}(?:\.\d{1,3}){0,3}\s*(?:[,;]|$))", re.ASCII)


def is_ready(snapshot: Snapshot) -> bool:
    """Tell whether new clients are admitted."""
    return bool(snapshot["phase"] == "active" and snapshot["paused_by"] is None)


def render(snapshot: Snapshot, processes: Processes, accept: str) -> tuple[bytes, str]:
    """Write the metrics in the format that the header `accept` asks for; return them and their content type."""
    if _OTHER_VERSION.search(accept):  # it would be compared with numbers, and repeated in our own header
        accept = ""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, [*processes.measure(snapshot)]))
    return encode(registry), content_type


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot, usage: list[Usage]) -> None:
        self._snapshot = snapshot
        self._usage = usage

    def collect(self) -> Iterable[Metric]:
        """Yield all families."""
        yield from _relay(self._snapshot)
        yield from _traffic(self._snapshot)
        yield from _workers(self._snapshot)
        yield from _processes(self._usage)


def _relay(of: Snapshot) -> Iterator[Metric]:
    info = _gauge("info", "Version and run of the relay; always 1.", "version", "relay_id")
    info.add_metric([of["version"], of["relay_id"]], 1)
    yield info
    yield _value("start_time_seconds", "Unix time of the start.", of["started_at"])
    phase = _gauge("phase", "1 for the phase that the relay is in.", "phase")
    for name in PHASES:
        phase.add_metric([name], name == of["phase"])
    yield phase
    yield _value("ready", "1 while new clients are admitted, as /readyz tells.", is_ready(of))
    if of["expires_in_s"] is not None:
        yield _value("expires_in_seconds", "Seconds until the relay closes itself.", of["expires_in_s"])
    yield _value("log_backlog_bytes", "Bytes of records that wait for the reader of stdout.", of["backlog"])
    paused = _counter("admission_paused_seconds", "Seconds for which nobody was admitted, by the cause.", "cause")
    for cause in CAUSES:
        paused.add_metric([cause], of["paused_s"].get(cause, 0.0))
    yield paused


def _traffic(of: Snapshot) -> Iterator[Metric]:
    yield _value("sessions_active", "Sessions that hold a slot now.", of["active"])
    yield _value("sessions_limit", "Sessions at once, at most.", of["max_sessions"])
    closed = _counter("sessions_closed", "Sessions that have ended, by the reason.", "reason")
    for reason in CloseReason:
        closed.add_metric([reason.value], of["closed"].get(reason.value, 0))
    yield closed
    connections = _counter("connections", "Connections of clients, by what became of them.", "outcome")
    for outcome in OUTCOMES:
        connections.add_metric([outcome], of[outcome])
    yield connections
    received = _counter("received_bytes", "Bytes received, as last reported, by where from.", "direction")
    for direction in ("from_client", "from_target"):
        received.add_metric([direction], of[f"bytes_{direction}"])
    yield received
    yield _histogram("connect_seconds", "How long the target took to accept.", CONNECT_BOUNDS, of["connect"])
    yield _histogram("session_seconds", "How long sessions lived.", SESSION_BOUNDS, of["session"])


def _workers(of: Snapshot) -> Iterator[Metric]:
    yield _value("workers", "Workers that the relay shall have.", of["workers_wanted"])
    yield _value("workers_ready", "Workers that can take sessions.", len(of["workers"]))
    sessions = _gauge("worker_sessions", "Sessions of a worker now.", "worker")
    for worker in of["workers"]:
        sessions.add_metric([str(worker["worker"])], worker["sessions"])
    yield sessions
    restarts = _counter("worker_restarts", "How often a worker was replaced.", "worker")
    for number, count in of["restarts"].items():
        restarts.add_metric([number], count)
    yield restarts


def _processes(usage: list[Usage]) -> Iterator[Metric]:
    labels = "process", "worker"
    cpu = _counter("process_cpu_seconds", "CPU time of a process, and of those before it in its place.", *labels)
    rss = _gauge("process_resident_memory_bytes", "Memory of a process.", *labels)
    fds = _gauge("process_open_fds", "Open descriptors of a process.", *labels)
    for one in usage:
        place = [one.process, one.worker]
        cpu.add_metric(place, one.cpu_s)
        rss.add_metric(place, one.rss)
        if one.fds is not None:
            fds.add_metric(place, one.fds)
    yield from (cpu, rss, fds)


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mprelay_{name}", meaning, labels=labels)


def _counter(name: str, meaning: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"mprelay_{name}", meaning, labels=labels)


def _value(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mprelay_{name}", meaning, value=value)


def _histogram(name: str, meaning: str, bounds: tuple[float, ...], of: dict[str, Any]) -> HistogramMetricFamily:
    names = [*map(floatToGoString, bounds), "+Inf"]
    buckets = [*zip(names, of["buckets"], strict=True)]
    return HistogramMetricFamily(f"mprelay_{name}", meaning, buckets=buckets, sum_value=of["total"])
