"""The records of one run: composed, numbered, stamped, rendered, and given to the sinks.

    happened ──▶ structlog: compose ─▶ render ──▶ lines ── flush ──▶ sinks (the writer, behind it the outlet)

Rules:

1. `seq` is assigned here, in one thread, in the order of writing: 1, 2, 3 …
2. `timestamp` is the moment of the event, taken by the process that saw it. If the wall clock jumps, timestamps
   jump and nothing else does, because durations come from the monotonic clock.
3. Lines are collected. :meth:`Recorder.flush` passes them on once in each turn of the supervisor's loop.
4. structlog is used as a pipeline only. One of its events is one moment, even if it makes several records. So a
   session of eight records passes structlog four times, which takes half as long as eight times.
"""

import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

import structlog

from mprelay.core.texts import PLACE_LIMIT, PROBLEM_LIMIT, UNEXPECTED_LIMIT, cut, shown
from mprelay.records import catalogue
from mprelay.records.catalogue import Message
from mprelay.records.render import RENDERERS, Renderer

LARGEST_INTEGER: Final = 2**63 - 1
"""The largest integer that log collectors accept as one; orjson does too."""

Sink: TypeAlias = Callable[[list[bytes]], None]
"""Takes rendered records, each a whole line. It must not block."""


class Clock:
    """Shows Unix times as RFC 3339 in UTC with microseconds. The calendar is asked once a second."""

    def __init__(self) -> None:
        self._at = -1.0
        self._shown = ""
        self._second = ""
        self._prefix = ""

    def show(self, at: float) -> str:
        """Show `at`, in seconds since 1970."""
        if at != self._at:
            self._at = at
            second, _, micros = f"{at:.6f}".partition(".")
            if second != self._second:
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(second)))
                self._second = second
            self._shown = f"{self._prefix}.{micros}Z"
        return self._shown


class _Lines:
    """The logger that structlog wraps: rendered records that wait for the flush.

    Not a list subclass: structlog replaces a falsy logger, such as an empty list, with a PrintLogger.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.extend = self.lines.extend

    def take(self) -> list[bytes]:
        """Return the lines, and forget them."""
        taken = self.lines[:]
        self.lines.clear()
        return taken


class _Log(structlog.BoundLoggerBase):
    """A logger for which one event is one moment, even if it makes several records."""

    def happened(self, at: float, *records: tuple[Message, Mapping[str, object]]) -> None:
        """Write the records of an event at the moment `at` (Unix time), in this order."""
        self._proxy_to_logger("extend", at=at, records=records)


class Recorder:
    """Writes the records of one run."""

    def __init__(self, render: Renderer, *sinks: Sink, labels: Mapping[str, str] | None = None) -> None:
        self.relay_id = secrets.token_hex(8)
        self._sinks = sinks
        self._labels = dict(labels or {})
        self._seq = 0
        self._clock = Clock()
        self._lines = _Lines()
        self._render = render
        self._is_json = render is RENDERERS["json"]
        self._watched: list[bytes] = []  # as JSON, if the log has another form
        self._watcher: Sink | None = None
        log: _Log = structlog.wrap_logger(
            self._lines, processors=[self._compose, self._render_all], wrapper_class=_Log
        ).bind()
        self.happened = log.happened
        """happened(at, (message, fields), …) writes the records of one moment (Unix time), in this order."""

    def write(self, message: Message, at: float | None = None, **fields: object) -> None:
        """Write one record of an event at the moment `at` (Unix time; None: now)."""
        self.happened(time.time() if at is None else at, (message, fields))

    def refuse(self, parameter: str, value: str | None, message: Message, problem: str) -> None:
        """Messages 2 to 8, and ours: a wrong parameter (a :class:`mprelay.config.validation.Problem`)."""
        typed = None if value is None else shown(value)
        self.write(message, None, parameter=parameter, value=typed, problem=cut(problem, PROBLEM_LIMIT))

    def unexpected(self, at: float, error: str, place: str, worker: int | None) -> None:
        """Record an unexpected exception, or an unexpected report of a worker.

        The texts are cut, because each stands in the record twice.
        """
        error, place = shown(error, UNEXPECTED_LIMIT), shown(place, PLACE_LIMIT)
        self.write(catalogue.INTERNAL_ERROR, at, error=error, place=place, worker=worker)

    def watch(self, watcher: Sink | None) -> None:
        """Give records to `watcher` too, as JSON, whatever form the others have; None: to nobody any more."""
        self._watcher = watcher
        if watcher is None:
            self._watched = []

    def flush(self) -> None:
        """Give the sinks the records that were written since the last flush."""
        if self._lines.lines:
            lines = self._lines.take()
            for sink in self._sinks:
                sink(lines)
            if self._watcher is not None:
                self._watcher(lines if self._is_json else self._watched)
                self._watched = []

    def show_time(self, at: float | None) -> str | None:
        """Show a Unix time as records do; None: never."""
        return None if at is None else self._clock.show(at)

    def _compose(self, _logger: object, _method: str, given: MutableMapping[str, Any]) -> dict[str, Any]:
        """Compose the records (a structlog processor)."""
        timestamp = self._clock.show(given["at"])
        composed = []
        for message, fields in given["records"]:
            self._seq += 1
            record = {
                "timestamp": timestamp,
                "level": message.level,
                "event": message.event,
                "message": message.sentence.format_map(fields),
                "msg_id": message.msg_id,
                "seq": self._seq,
                "relay_id": self.relay_id,
                **fields,
            }
            if self._labels:
                record["labels"] = self._labels
            composed.append(record)
        return {"records": composed}

    def _render_all(self, _logger: object, _method: str, given: MutableMapping[str, Any]) -> Any:  # noqa: ANN401
        """Render the records (the last processor); return the arguments for the logger's method."""
        render = self._render
        if self._watcher is not None and not self._is_json:
            self._watched += map(RENDERERS["json"], given["records"])
        return ([render(record) for record in given["records"]],), {}
