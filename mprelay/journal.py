"""The central JSON logger: it owns the ledger and writes each record, so what is counted is what is logged.

    supervisor ── what it saw ──▶ ledger ─▶ structlog: compose ─▶ render ─▶ lines ── flush ──▶ writer ─▶ stdout
    workers ───── what they report ─▲

Rules:

1. `seq` is given here, in one thread, in the order of writing: 1, 2, 3 …
2. A session's slot is given back in the same call that writes its ``session.closed`` record.
3. `timestamp` is the moment that a thing happened, given by who saw it. Only durations come from the monotonic
   clock; a wall clock that jumps makes timestamps jump, and nothing else.
4. Lines are collected and leave with :meth:`Journal.flush`, once for each turn of the supervisor's loop.
"""

import secrets
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import orjson
import structlog

from mprelay import catalogue, ledger
from mprelay.catalogue import SESSION_CLOSED, Entry
from mprelay.events import Closed, CloseReason, Connected, Progress
from mprelay.writer import Writer

CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""What would break a line of text, or a terminal, and how it is shown instead."""

VALUE_LIMIT: Final = 200
"""Characters of what a user typed that a record repeats."""


PROBLEM_LIMIT: Final = 150
"""Characters of what is said of it."""


def shown(value: str, most: int = VALUE_LIMIT) -> str:
    """Make any argument fit for a record: valid Unicode, and at most `most` characters."""
    valid = value.encode("utf-8", "backslashreplace").decode()
    return valid if len(valid) <= most else valid[: most - 1] + "…"


class Clock:
    """Unix times as RFC 3339 in UTC with microseconds. The calendar is asked once a second."""

    def __init__(self) -> None:
        self._at = -1.0
        self._shown = ""
        self._second = -1
        self._prefix = ""

    def show(self, at: float) -> str:
        """Show `at`, in seconds since 1970."""
        if at == self._at:
            return self._shown
        micros = int(at * 1_000_000)
        second = micros // 1_000_000
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        self._at = at
        self._shown = f"{self._prefix}.{micros - second * 1_000_000:06d}Z"
        return self._shown


class _Lines:
    """What structlog logs to: rendered records that wait for the flush.

    Not a list itself, for structlog puts a logger that prints in the place of one that is false.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.debug = self.info = self.warning = self.error = self.critical = self.lines.append

    def take(self) -> list[bytes]:
        """Return the lines, and keep none."""
        taken = self.lines[:]
        self.lines.clear()
        return taken


class Journal:
    """Ledger, records and the way out, of one run."""

    def __init__(
        self,
        writer: Writer,
        *,
        limit: int = 0,
        target: tuple[str, int] = ("", 0),
        as_text: bool = False,
        every_session: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.ledger = ledger.Ledger(limit)
        self.relay_id = secrets.token_hex(8)
        self._writer = writer
        self._target_ip, self._target_port = target
        self._every_session = every_session
        self._labels = dict(labels or {})
        self._seq = 0
        self._clock = Clock()
        self._lines = _Lines()
        log = structlog.wrap_logger(
            self._lines,
            processors=[self._compose, _render_text if as_text else _render_json],
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
        ).bind()
        self._log = {level: getattr(log, level) for level in ("info", "warning", "error", "critical")}

    # -- records in general ----------------------------------------------------------------------------------

    def write(self, entry: Entry, at: float | None = None, **fields: object) -> None:
        """Write one record of what happened `at` (Unix time; None: now)."""
        self._write(entry, time.time() if at is None else at, fields)

    def _write(self, entry: Entry, at: float, fields: dict[str, object]) -> None:
        if self._every_session or not entry.every_session:
            self._log[entry.level](entry.event, entry=entry, at=at, fields=fields)

    def flush(self) -> None:
        """Hand what was written to the writer."""
        if self._lines.lines:
            self._writer.put(self._lines.take())

    def show_time(self, at: float) -> str:
        """Show a Unix time as records do."""
        return self._clock.show(at)

    def _compose(self, _logger: object, level: str, given: MutableMapping[str, Any]) -> dict[str, Any]:
        """Put a record together (a structlog processor)."""
        entry: Entry = given["entry"]
        fields: dict[str, Any] = given["fields"]
        self._seq += 1
        record = {
            "timestamp": self._clock.show(given["at"]),
            "level": level,
            "event": given["event"],
            "message": entry.sentence.format_map(fields),
            "msg_id": entry.msg_id,
            "seq": self._seq,
            "relay_id": self.relay_id,
            **fields,
        }
        if self._labels:
            record["labels"] = self._labels
        return record

    # -- connections -----------------------------------------------------------------------------------------

    def attempt(self, ip: str, port: int, at: float) -> None:
        """16: somebody connected."""
        if self._every_session:
            self._write(catalogue.CONNECTION_ATTEMPT, at, {"client_ip": ip, "client_port": port})

    def reject(self, ip: str, port: int, at: float, acl: str) -> None:
        """17: the ACL refused it."""
        self.ledger.reject()
        self.write(catalogue.CONNECTION_REJECTED, at, client_ip=ip, client_port=port, acl=acl)

    def admit(self, ip: str, port: int, at: float, now: float) -> ledger.Entry | None:
        """18: a slot is taken; or None and 21: there is none."""
        session = self.ledger.admit(ip, port, now)
        if session is None:
            self.write(
                catalogue.CONNECTION_POOL_EXHAUSTED,
                at,
                client_ip=ip,
                client_port=port,
                active=self.ledger.active,
            )
        elif self._every_session:
            self._write(catalogue.CONNECTION_ACCEPTED, at, self._facts(session))
        return session

    def accept_failed(self, number: int, name: str) -> None:
        """22: accept(2) gave an error."""
        self.write(catalogue.CONNECTION_ACCEPT_FAILED, errno=number, error=name)

    # -- sessions --------------------------------------------------------------------------------------------

    def allocated(self, session: ledger.Entry, at: float) -> None:
        """26: a worker has it."""
        if self._every_session:
            self._write(catalogue.SESSION_ALLOCATED, at, self._facts(session))

    def connected(self, event: Connected) -> None:
        """28, 31, 33, 37: the target answered, both directions run. One moment, four messages."""
        session = self.ledger.entry(event.serial)
        session.connect_ms = round(event.connect_ms, 3)
        if self._every_session:
            facts = self._facts(session)
            with_time = facts | {"connect_ms": session.connect_ms}
            self._write(catalogue.SESSION_CONNECTED, event.at, with_time)
            self._write(catalogue.SESSION_RELAYING, event.at, facts)
            self._write(catalogue.SESSION_REQUESTER_CHANNEL_ACTIVE, event.at, facts)
            self._write(catalogue.SESSION_TARGET_CHANNEL_ACTIVE, event.at, facts)

    def progress(self, event: Progress) -> None:
        """No record: byte counts, in case that the worker is lost."""
        session = self.ledger.entry(event.serial)
        session.bytes_from_client = event.bytes_from_client
        session.bytes_from_target = event.bytes_from_target

    def closed(self, event: Closed, reason: CloseReason) -> None:
        """A worker ended a session for `reason`."""
        session = self.ledger.entry(event.serial)
        session.bytes_from_client = event.bytes_from_client
        session.bytes_from_target = event.bytes_from_target
        self._close(session, event.at, event.duration_ms, reason, event.error)

    def lost(
        self, session: ledger.Entry, at: float, now: float, reason: CloseReason, error: str | None = None
    ) -> None:
        """End a session in the place of a worker that cannot, with the last known figures."""
        self._close(session, at, (now - session.admitted_at) * 1000, reason, error)

    def _close(
        self, session: ledger.Entry, at: float, duration_ms: float, reason: CloseReason, error: str | None
    ) -> None:
        self.ledger.close(session.serial, reason)
        facts = self._facts(session)
        facts["reason"] = reason.value
        facts["bytes_from_client"] = session.bytes_from_client
        facts["bytes_from_target"] = session.bytes_from_target
        facts["connect_ms"] = session.connect_ms
        facts["duration_ms"] = round(duration_ms, 3)
        facts["error"] = error
        self._write(SESSION_CLOSED[reason], at, facts)

    def _facts(self, session: ledger.Entry) -> dict[str, object]:
        """Make the fields that each record about an admitted session has."""
        facts: dict[str, object] = {
            "client_ip": session.client_ip,
            "client_port": session.client_port,
            "session": session.serial,
            "target_ip": self._target_ip,
            "target_port": self._target_port,
        }
        if session.worker is not None:
            facts["worker"] = session.worker
        return facts

    # -- the end ---------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, int]:
        """Return the counts that relay.stats and relay.stopped share."""
        book = self.ledger
        return {
            "attempts": book.attempts,
            "rejected": book.rejected,
            "exhausted": book.exhausted,
            "admitted": book.admitted,
        }

    def stopped(self, reason: str, uptime_s: float) -> None:
        """Write the last record."""
        self.write(
            catalogue.RELAY_STOPPED,
            reason=reason,
            uptime_s=round(uptime_s, 3),
            **self.totals(),
            closed={reason.value: count for reason, count in self.ledger.closed.items()},
            bytes_from_client=self.ledger.bytes_from_client,
            bytes_from_target=self.ledger.bytes_from_target,
        )


def _render_json(_logger: object, _level: str, record: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _render_text(_logger: object, level: str, record: MutableMapping[str, Any]) -> bytes:
    message = record["message"].translate(CONTROL)
    return f"{record['timestamp']} {level.upper()} {message}\n".encode()
