"""The report: what is told of a log, as an object that JSON can hold. Text and page show the same. Pure.

Rules:

1. Integers are exact. Times are as in records, UTC. What is not known is null.
2. The same log gives the same report, whoever makes it, whenever, and wherever.
3. A table holds its largest rows, and `others` the sum of the rest.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final, TypeVar

from mprelay import __version__
from mprelay.audit.checks import Check, checks, findings, stays_open
from mprelay.audit.door import Command, Happening
from mprelay.audit.fields import flag, number, text, texts, whole
from mprelay.audit.run import Word
from mprelay.audit.tables import Row, Table
from mprelay.audit.times import SECOND, moment, stamp
from mprelay.audit.totals import Run, Totals
from mprelay.audit.traffic import (
    DURATION,
    ERRORS,
    FROM_CLIENT,
    FROM_TARGET,
    KINDS,
    SESSIONS,
    Session,
)

_Key = TypeVar("_Key", bound=Hashable)

ROWS: Final = 25
"""Rows of a table."""

_OPEN: Final = 20
_OPTIONS: Final = 100
_ORDER: Final[tuple[Word, ...]] = ("whole", "open", "broken")


def make(
    totals: Totals,
    seals: Mapping[str, Mapping[str, Any]],
    read: Mapping[str, Any],
    verdicts: Iterable[Word] = (),
) -> dict[str, Any]:
    """Make the report.

    Args:
        totals: What the records add up to.
        seals: What ``mprelayctl verify`` says of each run that is sealed, by its relay_id.
        read: What the files are, and what in them was no record.
        verdicts: Those on the files as such, which belong to no run.

    """
    runs = [_run(run, seals.get(run.relay_id or "")) for run in totals.runs.values()]
    lacking: Word = "broken" if totals.left_out or not runs else "whole"
    return {
        "verdict": worst(lacking, *verdicts, *(run["verdict"] for run in runs)),
        "made_by": f"mprelayctl {__version__}",
        "first": stamp(min((run.first for run in totals.runs.values() if run.first is not None), default=None)),
        "last": stamp(max((run.last for run in totals.runs.values() if run.last is not None), default=None)),
        "records": totals.records,
        **read,
        "records_left_out": totals.left_out,
        "runs": runs,
    }


def worst(*words: Word) -> Word:
    """Return the worst of verdicts."""
    return max(words, key=_ORDER.index)


def _run(run: Run, seal: Mapping[str, Any] | None) -> dict[str, Any]:
    made = checks(run)
    found = findings(run, made)
    verdict: Word = "broken" if any(one.grave for one in found) else "open" if stays_open(run) else "whole"
    if seal is not None:
        verdict = worst(verdict, seal["verdict"])
    return {
        "relay_id": run.relay_id,
        "verdict": verdict,
        "seal": seal,
        "findings": [{"grave": one.grave, "text": one.text} for one in found],
        "first": stamp(run.first),
        "last": stamp(run.last),
        "records": run.records,
        "door": _door(run),
        "totals": _totals(run),
        "checks": [_check(one) for one in made],
        "timeline": _timeline(run),
        "clients": _table(run.traffic.clients, _client, _sums),
        "reasons": _table(run.traffic.reasons, lambda reason: {"reason": reason}, _sums),
        "targets": _table(run.traffic.targets, lambda ip: {"target_ip": ip}, _sums),
        "rules": _table(run.traffic.rules, lambda acl: {"acl": acl or None}, _sums),
        "errors": _table(run.traffic.errors, lambda key: {"error": key[0], "error_from": key[1] or None}, _sums),
        "refused": _table(run.traffic.refused, _client, _kinds),
        "causes": _table(
            run.traffic.causes,
            lambda key: {"refused": key[0], "cause": key[1] or None},
            lambda row: {"count": row.counts[0]},
        ),
        "longest": [_session(session) for session in run.traffic.longest.sessions()],
        "largest": [_session(session) for session in run.traffic.largest.sessions()],
        "odd": {"count": run.traffic.odd_count, "sessions": [_session(one) for one in run.traffic.odd]},
        "unended": _unended(run),
    }


def _door(run: Run) -> dict[str, Any]:
    door = run.door
    active, stopped = door.active or {}, door.stopped or {}
    return {
        "opened_by": text(active, "opened_by"),
        "host": text(active, "host"),
        "opened_at": stamp(moment(active.get("timestamp"))),
        "labels": run.labels,
        "listen_ip": text(active, "listen_ip"),
        "listen_port": whole(active, "listen_port"),
        "target_host": text(active, "target_host"),
        "target_ip": text(active, "target_ip"),
        "target_port": whole(active, "target_port"),
        "acl": text(active, "acl"),
        "max_sessions": whole(active, "max_sessions"),
        "expires_at": stamp(moment(active.get("expires_at"))),
        "extended_until": stamp(moment(door.until)) if door.extension[1] else None,
        "clock_synchronised": flag(active, "clock_synchronised"),
        "version": text(active, "version"),
        "pid": whole(active, "pid"),
        "options": texts(active, "options", _OPTIONS),
        "never_opened": door.never_opened,
        "stopped_at": stamp(moment(stopped.get("timestamp"))),
        "stopped_because": text(stopped, "reason"),
        "uptime_s": number(stopped, "uptime_s"),
        "commands": [_command(one) for one in (*door.commands.first, *door.commands.last)],
        "commands_left_out": door.commands.left_out,
        "steered_by": [
            {"peer_uid": uid, "command": name, "ok": done, "count": row.counts[0]}
            for (uid, name, done), row in door.steered.rows()
        ],
        "happenings": [_happening(one) for one in (*door.happenings.first, *door.happenings.last)],
        "happenings_left_out": door.happenings.left_out,
    }


def _command(one: Command) -> dict[str, Any]:
    return {
        "timestamp": stamp(one.when),
        "peer_uid": one.uid,
        "peer_pid": one.pid,
        "command": one.what,
        "ok": one.done,
        "problem": one.problem,
    }


def _happening(one: Happening) -> dict[str, Any]:
    return {"timestamp": stamp(one.when), "level": one.level, "event": one.event, "message": one.message}


def _totals(run: Run) -> dict[str, Any]:
    traffic = run.traffic
    total = traffic.reasons.total()
    distinct, at_most = traffic.clients.distinct()
    return {
        "sessions": total[SESSIONS],
        "clients": distinct,
        "clients_at_most": at_most,
        "bytes_from_client": total[FROM_CLIENT],
        "bytes_from_target": total[FROM_TARGET],
        "duration_s": total[DURATION] / SECOND,
        "with_error": total[ERRORS],
        "refused": traffic.refusals,
        "refused_summed_up": traffic.summed_up,
        **{kind: traffic.outcomes[kind] for kind in KINDS},
    }


def _check(one: Check) -> dict[str, Any]:
    return {**one._asdict(), "agrees": one.agrees}


def _timeline(run: Run) -> dict[str, Any]:
    line = run.traffic.timeline
    intervals = line.intervals()  # these may become longer by it
    return {
        "interval_s": line.length / SECOND,
        "intervals": [{**one._asdict(), "begins": stamp(one.begins)} for one in intervals],
    }


def _table(
    table: Table[_Key], key: Callable[[_Key], dict[str, Any]], figures: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    rows = table.rows()
    others = Row(len(table.others.counts))
    others.add(table.others.counts, table.others.first, table.others.last)
    for _, row in rows[ROWS:]:
        others.add(row.counts, row.first, row.last)
    distinct, at_most = table.distinct()
    return {
        "rows": [{**key(name), **figures(row), **_span(row), "at_least": row.late} for name, row in rows[:ROWS]],
        "others": {
            "rows": distinct - min(len(rows), ROWS),
            "at_most": at_most,
            **figures(others),
            **_span(others),
        },
    }


def _client(ip: str | None) -> dict[str, Any]:
    return {"client_ip": ip}


def _span(row: Row) -> dict[str, Any]:
    return {"first": stamp(row.first), "last": stamp(row.last)}


def _sums(row: Row) -> dict[str, Any]:
    return {
        "sessions": row.counts[SESSIONS],
        "bytes_from_client": row.counts[FROM_CLIENT],
        "bytes_from_target": row.counts[FROM_TARGET],
        "duration_s": row.counts[DURATION] / SECOND,
        "with_error": row.counts[ERRORS],
    }


def _kinds(row: Row) -> dict[str, Any]:
    return {"count": row.counts[0], **dict(zip(KINDS, row.counts[1:], strict=True))}


def _session(one: Session) -> dict[str, Any]:
    return {
        "session": one.serial,
        "client_ip": one.client_ip,
        "client_port": one.client_port,
        "target_ip": one.target_ip,
        "begun": stamp(one.begun),
        "ended": stamp(one.ended),
        "duration_s": one.duration / SECOND,
        "bytes_from_client": one.from_client,
        "bytes_from_target": one.from_target,
        "reason": one.reason,
        "error": one.error,
        "error_from": one.error_from,
        "acl": one.rule,
    }


def _unended(run: Run) -> dict[str, Any]:
    traffic = run.traffic
    count = max(0, traffic.accepted.count - traffic.closed.count)
    kept: Iterable[Session] = list(traffic.open.values())[:_OPEN]
    return {
        "count": count,
        "sessions": [_session(one) for one in kept],
    }
