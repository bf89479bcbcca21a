"""The central JSON logger: it owns the ledger and writes each record, so what is counted is what is logged.

    supervisor ── what it saw ──▶ ledger ─▶ structlog: compose ─▶ render ─▶ lines ── flush ──▶ writer ─▶ outlet
    workers ───── what they report ─▲

Rules:

1. `seq` is given here, in one thread, in the order of writing: 1, 2, 3 …
2. A session's slot is given back in the same call that writes its ``session.closed`` record.
3. `timestamp` is the moment that a thing happened, given by who saw it. Only durations come from the monotonic
   clock; a wall clock that jumps makes timestamps jump, and nothing else.
4. Lines are collected and leave with :meth:`Journal.flush`, once for each turn of the supervisor's loop.
"""

import errno
import math
import os
import secrets
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TypeAlias

import orjson
import structlog

from mprelay.core import ledger
from mprelay.core.protocol import Closed, CloseReason, Connected, PeerEnd, Progress, Side
from mprelay.core.refusals import Kind, Refusals
from mprelay.core.texts import CONTROL, PLACE_LIMIT, PROBLEM_LIMIT, UNEXPECTED_LIMIT, cut, shown
from mprelay.records import catalogue
from mprelay.records.catalogue import SESSION_CLOSED, Message
from mprelay.records.writer import Writer

LARGEST: Final = 2**63 - 1
"""What log collectors take for a whole number, and orjson too."""


class Clock:
    """Unix times as RFC 3339 in UTC with microseconds. The calendar is asked once a second."""

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


_NUMBERS: Final[Mapping[str | None, int]] = {name: number for number, name in errno.errorcode.items()}
_NAMES: Final = {reason: reason.value for reason in CloseReason}

_HowItEnded: TypeAlias = tuple[str | None, Side | None, PeerEnd | None, PeerEnd | None, str | None]
"""error, error_from, client_end, target_end, inbound_ip."""


class _Lines:
    """What structlog logs to: rendered records that wait for the flush.

    Not a list itself, for structlog puts a logger that prints in the place of one that is false.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.extend = self.lines.extend

    def take(self) -> list[bytes]:
        """Return the lines, and keep none."""
        taken = self.lines[:]
        self.lines.clear()
        return taken


class _Log(structlog.BoundLoggerBase):
    """A logger in whose eyes an event is what happened at one moment, though it make several records.

    A session of eight records passes structlog four times. That took half as long as eight times.
    """

    def happened(self, at: float, *records: tuple[Message, Mapping[str, object]]) -> None:
        """Write the records of what happened `at` (Unix time), in this order."""
        self._proxy_to_logger("extend", at=at, records=records)


class Journal:
    """Ledger, records and the way out, of one run."""

    def __init__(
        self,
        writer: Writer,
        *,
        limit: int = 0,
        timeouts: tuple[float, float] = (math.inf, math.inf),
        target: tuple[str, int] = ("", 0),
        inbound_ip: str | None = None,
        as_text: bool = False,
        every_session: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.ledger = ledger.Ledger(limit, timeouts)
        self.relay_id = secrets.token_hex(8)
        self._writer = writer
        self._target_ip, self._target_port = target
        self._inbound_ip = inbound_ip  # where the relay listens on one address only
        self._every_session = every_session
        self._labels = dict(labels or {})
        self.summing_up = False
        """Whether refused connections are summed up: each record that they make is room that others need."""
        self.refusals = Refusals()
        self._seq = 0
        self._clock = Clock()
        self._lines = _Lines()
        self._log: _Log = structlog.wrap_logger(
            self._lines,
            processors=[self._compose, _render_text if as_text else _render_json],
            wrapper_class=_Log,
        ).bind()

    # -- records in general ----------------------------------------------------------------------------------

    def write(self, message: Message, at: float | None = None, **fields: object) -> None:
        """Write one record of what happened `at` (Unix time; None: now)."""
        self._log.happened(time.time() if at is None else at, (message, fields))

    def flush(self) -> None:
        """Hand what was written to the writer."""
        if self._lines.lines:
            self._writer.put(self._lines.take())

    def refuse(self, parameter: str, value: str | None, message: Message, problem: str) -> None:
        """2 to 8, and ours: a wrong parameter (a :class:`mprelay.config.parameters.Problem`)."""
        value = None if value is None else shown(value)
        self.write(message, None, parameter=parameter, value=value, problem=cut(problem, PROBLEM_LIMIT))

    def unexpected(self, at: float, error: str, place: str, worker: int | None) -> None:
        """An exception, or a worker's report, that nobody expected. Each text stands in its record twice."""
        error, place = shown(error, UNEXPECTED_LIMIT), shown(place, PLACE_LIMIT)
        self.write(catalogue.INTERNAL_ERROR, at, error=error, place=place, worker=worker)

    def show_time(self, at: float) -> str:
        """Show a Unix time as records do."""
        return self._clock.show(at)

    def _compose(self, _logger: object, _method: str, given: MutableMapping[str, Any]) -> dict[str, Any]:
        """Put the records together (a structlog processor)."""
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

    # -- connections -----------------------------------------------------------------------------------------

    def reject(self, ip: str, port: int, at: float, acl: str) -> None:
        """16 and 17: somebody connected, and the ACL refused it."""
        self.ledger.reject()
        self._refused("rejected", at, (ip, port), catalogue.CONNECTION_REJECTED, {"acl": acl})

    def abandon(self, ip: str, port: int, at: float, waited_ms: float) -> None:
        """16 and ours: somebody connected while nobody was admitted, and has given up, or waited too long."""
        self.ledger.abandon()
        fields = {"waited_ms": float(waited_ms)}
        self._refused("abandoned", at, (ip, port), catalogue.CONNECTION_ABANDONED, fields)

    def admit(self, ip: str, port: int, at: float, now: float) -> ledger.Session | None:
        """16 and 18: somebody connected, and a slot is taken; or None, 16 and 21: there is none."""
        session = self.ledger.admit(ip, port, now)
        if session is None:
            fields = {"active": self.ledger.active}
            self._refused("exhausted", at, (ip, port), catalogue.CONNECTION_POOL_EXHAUSTED, fields)
        elif self._every_session:
            self._attempted(at, ip, port, catalogue.CONNECTION_ACCEPTED, self._facts(session))
        return session

    def _refused(
        self, kind: Kind, at: float, client: tuple[str, int], outcome: Message, fields: Mapping[str, object]
    ) -> None:
        ip, port = client
        if self.summing_up:
            self.refusals.add(ip, kind, at)
        else:
            self._attempted(at, ip, port, outcome, {"client_ip": ip, "client_port": port, **fields})

    def write_refusals(self, most: int) -> None:
        """Write up to `most` records of connections that were summed up."""
        for total in self.refusals.take(most):
            self.write(
                catalogue.CONNECTION_REFUSED_MORE
                if total.client_ip is not None
                else catalogue.CONNECTION_REFUSED_OF_MANY,
                client_ip=total.client_ip,
                refused=total.refused,
                count=total.times,
                first_at=self.show_time(total.first_at),
                last_at=self.show_time(total.last_at),
            )

    def _attempted(self, at: float, ip: str, port: int, outcome: Message, fields: dict[str, object]) -> None:
        if self._every_session:
            attempt = {"client_ip": ip, "client_port": port}
            self._log.happened(at, (catalogue.CONNECTION_ATTEMPT, attempt), (outcome, fields))
        else:
            self._log.happened(at, (outcome, fields))

    def accept_failed(self, number: int, name: str, count: int) -> None:
        """22: accept(2) gave an error, this time and so often since the record before."""
        self.write(catalogue.CONNECTION_ACCEPT_FAILED, errno=number, error=name, count=count)

    # -- sessions --------------------------------------------------------------------------------------------

    def allocated(self, session: ledger.Session, at: float) -> None:
        """26: a worker has it."""
        if self._every_session:
            self._log.happened(at, (catalogue.SESSION_ALLOCATED, self._facts(session)))

    def connected(self, event: Connected) -> None:
        """28, 31, 33, 37: the target answered, both directions run. One moment, four messages."""
        session = self.ledger.session(event.serial)
        session.connect_ms = round(event.connect_ms, 3)
        session.outbound_port = event.outbound_port
        if self._every_session:
            facts = self._facts(session)
            with_time = facts | {"connect_ms": session.connect_ms}
            self._log.happened(
                event.at,
                (catalogue.SESSION_CONNECTED, with_time),
                (catalogue.SESSION_RELAYING, facts),
                (catalogue.SESSION_REQUESTER_CHANNEL_ACTIVE, facts),
                (catalogue.SESSION_TARGET_CHANNEL_ACTIVE, facts),
            )

    def progress(self, event: Progress) -> None:
        """No record: byte counts, in case that the worker is lost."""
        self.ledger.count(self.ledger.session(event.serial), event)

    def closed(self, event: Closed, reason: CloseReason) -> None:
        """A worker ended a session for `reason`."""
        session = self.ledger.session(event.serial)
        self.ledger.count(session, event)
        how = (event.error, event.error_from, event.client_end, event.target_end, event.inbound_ip)
        self._close(session, event.at, event.duration_ms, reason, how)

    def lost(
        self, session: ledger.Session, at: float, now: float, reason: CloseReason, error: str | None = None
    ) -> None:
        """End a session in the place of a worker that cannot, with the last known figures."""
        self._close(session, at, (now - session.admitted_at) * 1000, reason, (error, None, None, None, None))

    def _close(
        self, session: ledger.Session, at: float, duration_ms: float, reason: CloseReason, how: _HowItEnded
    ) -> None:
        self.ledger.close(session.serial, reason)
        error, error_from, client_end, target_end, inbound_ip = how
        facts = self._facts(session) | {
            "reason": _NAMES[reason],
            "error": error,
            "error_from": error_from,
            "client_end": client_end,
            "target_end": target_end,
            "bytes_from_client": session.bytes_from_client,
            "bytes_from_target": session.bytes_from_target,
            "bytes_to_client": session.bytes_to_client,
            "bytes_to_target": session.bytes_to_target,
            "connect_ms": session.connect_ms,
            "duration_ms": round(duration_ms, 3),
            "inbound_ip": inbound_ip or self._inbound_ip,
            "outbound_port": session.outbound_port,
        }
        message = SESSION_CLOSED[reason]
        if reason is CloseReason.CONNECT_FAILED:
            message = _with_error(message, error)
        self._log.happened(at, (message, facts))

    def _facts(self, session: ledger.Session) -> dict[str, object]:
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
            "abandoned": book.abandoned,
            "exhausted": book.exhausted,
            "admitted": book.admitted,
            "bytes_from_client": min(book.bytes_from_client, LARGEST),
            "bytes_from_target": min(book.bytes_from_target, LARGEST),
        }

    def stopped(self, reason: str, uptime_s: float) -> None:
        """Write the last record, and before it what is still summed up."""
        self.write_refusals(len(self.refusals))
        self.write(
            catalogue.RELAY_FAILED if reason == "failed" else catalogue.RELAY_STOPPED,
            reason=reason,
            uptime_s=round(uptime_s, 3),
            **self.totals(),
            closed={reason.value: count for reason, count in self.ledger.closed.items()},
        )


def _with_error(message: Message, error: str | None) -> Message:
    """Say in the sentence what went wrong, in brackets: the manual's own knows only a refusal."""
    number = _NUMBERS.get(error)  # what a worker reports may be no errno at all
    return message if number is None else message._replace(sentence=f"{message.sentence} ({os.strerror(number)})")


_Rendered: TypeAlias = tuple[tuple[list[bytes]], dict[str, Any]]
"""Arguments for the logger's method, as structlog takes them from the last processor."""


def _render_json(_logger: object, _method: str, given: MutableMapping[str, Any]) -> _Rendered:
    return ([orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in given["records"]],), {}


def _render_text(_logger: object, _method: str, given: MutableMapping[str, Any]) -> _Rendered:
    return ([_line_of_text(record) for record in given["records"]],), {}


_ASIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "config.invalid": ("problem",),
    "platform.init_failed": ("error", "detail"),
    "platform.unsupported": ("detail",),
    "listener.socket_failed": ("error",),
    "listener.bind_failed": ("error",),
    "listener.listen_failed": ("error",),
    "pool.start_failed": ("error", "detail"),
    "connection.accept_failed": ("error",),
    "worker.exited": ("signal",),
    "worker.start_failed": ("error",),
    "relay.draining": ("signal",),
    "relay.stopped": ("reason",),
}
"""What a line of text adds in brackets, because the sentence leaves it out. A reader of JSON has the fields."""


def _aside(record: Mapping[str, Any]) -> str:
    said: list[str | None]
    if record["event"] == "session.closed":
        said = [
            f"client port {record['client_port']}",
            f"{record['bytes_from_client']} bytes from the client",
            f"{record['bytes_from_target']} from the target",
            f"{record['duration_ms'] / 1000:.3f} s",
            record["error"],
        ]
    else:
        said = [record.get(name) for name in _ASIDE.get(record["event"], ())]
        if record.get("exitcode"):
            said.append(f"exit code {record['exitcode']}")
    return ", ".join(part for part in said if part and part not in record["message"])


def _line_of_text(record: Mapping[str, Any]) -> bytes:
    aside = _aside(record)
    message = f"{record['message']} ({aside})" if aside else record["message"]
    return f"{record['timestamp']} {record['level'].upper()} {message.translate(CONTROL)}\n".encode()
