"""The judge of a run's records: it checks what docs/contract.md promises of any run, however the run ended.

It knows nothing of the program. Names, numbers, levels and reasons are written down here a second time, from
docs/contract.md and docs/records.md, so that a wrong catalogue is caught too.
"""

import errno
import json
import os
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from operator import le
from typing import Any

from support.launching import PYTHON_EXE

Record = dict[str, Any]

LEVELS = {"debug", "info", "warning", "error", "critical"}
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

# event: (msg_id, level) as docs/records.md has them
EVENTS: dict[str, set[tuple[int | None, str]]] = {
    "timer.unavailable": {(1, "critical")},
    "config.invalid": {(n, "error") for n in (2, 3, 4, 5, 6, 7, 8, None)},
    "platform.init_failed": {(9, "critical")},
    "platform.unsupported": {(10, "critical")},
    "listener.socket_failed": {(11, "critical")},
    "listener.bind_failed": {(12, "critical")},
    "listener.listen_failed": {(13, "critical")},
    "pool.start_failed": {(14, "critical")},
    "relay.active": {(15, "info")},
    "connection.attempt": {(16, "info")},
    "connection.rejected": {(17, "warning")},
    "connection.accepted": {(18, "info")},
    "connection.pool_exhausted": {(21, "warning")},
    "connection.accept_failed": {(22, "error")},
    "connection.limited": {(None, "warning")},
    "connection.abandoned": {(None, "warning")},
    "connection.proxy_invalid": {(None, "warning")},
    "connection.refused_more": {(None, "warning")},
    "admission.paused": {(None, "warning")},
    "admission.resumed": {(None, "info")},
    "acl.reloaded": {(None, "info")},
    "acl.reload_failed": {(None, "error")},
    "target.resolved": {(None, "info")},
    "target.resolve_failed": {(None, "warning")},
    "control.command": {(None, "info")},
    "relay.extended": {(None, "info")},
    "relay.expired": {(23, "info")},
    "session.allocated": {(26, "info")},
    "session.connected": {(28, "info")},
    "session.relaying": {(31, "info")},
    "session.requester_channel_active": {(33, "info")},
    "session.target_channel_active": {(37, "info")},
    "session.progress": {(None, "info")},
    "worker.started": {(None, "info")},
    "worker.exited": {(None, "info"), (None, "error")},
    "worker.start_failed": {(None, "error")},
    "worker.unresponsive": {(None, "error")},
    "metrics.failed": {(None, "warning")},
    "log.key": {(None, "info")},
    "log.checkpoint": {(None, "info")},
    "log.notes_lost": {(None, "error")},
    "relay.draining": {(None, "info")},
    "relay.stats": {(None, "info")},
    "relay.stopped": {(None, "info"), (None, "error")},
    "internal.error": {(None, "critical")},
}
REASONS = {
    "target_socket_failed": (19, "error"),
    "handoff_failed": (20, "error"),
    "idle_timeout": (24, "info"),
    "connect_timeout": (25, "warning"),
    "connect_refused": (27, "warning"),
    "connect_failed": (27, "warning"),
    "requester_channel_failed": (29, "error"),
    "target_channel_failed": (30, "error"),
    "requester_buffer_failed": (32, "error"),
    "requester_read_closed": (34, "info"),
    "target_write_closed": (35, "info"),
    "target_buffer_failed": (36, "error"),
    "target_read_closed": (38, "info"),
    "requester_write_closed": (39, "info"),
    "linger_timeout": (None, "info"),
    "relay_expired": (None, "info"),
    "drained": (None, "info"),
    "worker_lost": (None, "error"),
    "killed": (None, "info"),
    "acl_revoked": (None, "info"),
    "session_timeout": (None, "info"),
}
LIFE = [
    "connection.attempt",
    "connection.accepted",
    "session.allocated",
    "session.connected",
    "session.relaying",
    "session.requester_channel_active",
    "session.target_channel_active",
    "session.closed",
]
NO_ADDRESS = {
    "NXDOMAIN": "there is no such name (NXDOMAIN)",
    "NODATA": "the name has no address (NODATA)",
}
_FIGURES = {"pid": "integer", "cpu_percent": "number?", "rss": "integer?", "fds": "integer?"}
# name: its JSON type in all records, with ? if it may be null. An integer has no fraction, and a number always
# has one. A dict has the fields of an object, or of each object in a list; its key "*" stands for any key.
TYPES = {
    "timestamp": "string",
    "level": "string",
    "event": "string",
    "message": "string",
    "msg_id": "integer?",
    "seq": "integer",
    "relay_id": "string",
    "labels": {"*": "string"},
    "client_ip": "string?",
    "client_port": "integer",
    "session": "integer",
    "target_host": "string",
    "target_ip": "string?",
    "addresses": ["string"],
    "target_port": "integer",
    "worker": "integer?",
    "connect_ms": "number?",
    "duration_ms": "number",
    "reason": "string",
    "error": "string?",
    "errno": "integer",
    "count": "integer",
    "waited_ms": "number",
    "refused": "string",
    "first_at": "string",
    "last_at": "string",
    "paused_s": "number",
    "waiting": "integer?",
    "error_from": "string?",
    "command": "string",
    "arguments": {"session": "integer", "client": "string", "seconds": "number"},
    "client": "string",
    "seconds": "number",
    "peer_uid": "integer",
    "peer_pid": "integer",
    "ok": "boolean",
    "client_end": "string?",
    "target_end": "string?",
    "bytes_from_client": "integer",
    "bytes_from_target": "integer",
    "bytes_to_client": "integer",
    "bytes_to_target": "integer",
    "idle_s": "number",
    "inbound_ip": "string?",
    "outbound_port": "integer?",
    "client_rtt_ms": "number?",
    "target_rtt_ms": "number?",
    "client_retransmits": "integer?",
    "target_retransmits": "integer?",
    "listen_ip": "string",
    "listen_port": "integer",
    "acl": "string",
    "workers": "integer",
    "max_sessions": "integer",
    "expires_at": "string?",
    "log_detail": "string",
    "version": "string",
    "host": "string?",
    "opened_by": "string?",
    "clock_synchronised": "boolean?",
    "options": {"*": "string"},
    "pid": "integer",
    "parameter": "string",
    "value": "string?",
    "problem": "string?",
    "entries": "integer",
    "added": "integer",
    "removed": "integer",
    "ended": "integer",
    "file": "string?",
    "line": "integer?",
    "detail": "string",
    "place": "string",
    "resolution_s": "number",
    "public_key": "string",
    "signed_by": "string?",
    "signature": "string?",
    "size": "integer",
    "root": "string",
    "exitcode": "integer?",
    "signal": "string?",
    "tries": "integer",
    "again_in_s": "number",
    "silent_s": "number",
    "drain_timeout": "number",
    "uptime_s": "number",
    "active": "integer",
    "attempts": "integer",
    "rejected": "integer",
    "abandoned": "integer",
    "proxy_invalid": "integer",
    "proxy_ip": "string",
    "proxy_port": "integer",
    "limited": "integer",
    "limit": "string",
    "exhausted": "integer",
    "admitted": "integer",
    "closed": {"*": "integer"},
    "supervisor": _FIGURES,
    "worker_stats": [{"worker": "integer?", **_FIGURES, "sessions": "integer"}],
    "cpu_percent": "number?",
    "rss": "integer?",
    "fds": "integer?",
    "sessions": "integer",
}
COUNTS = ("bytes_from_client", "bytes_from_target", "bytes_to_client", "bytes_to_target")
_PYTHON = {"string": str, "integer": int, "number": float, "boolean": bool}
REFUSALS = (
    "connection.rejected",
    "connection.limited",
    "connection.abandoned",
    "connection.proxy_invalid",
    "connection.pool_exhausted",
)
CONNECTION_EVENTS = {*LIFE, *REFUSALS}


def parse(output: bytes) -> list[Record]:
    """Split the output on stdout into records. Each must be a whole line below 4096 bytes."""
    assert output == b"" or output.endswith(b"\n"), f"torn last line: {output[-200:]!r}"
    lines = output.split(b"\n")[:-1]
    for line in lines:
        assert len(line) + 1 < 4096, len(line)
    return [json.loads(line) for line in lines]


def moment(text: str) -> float:
    """Read a record's timestamp as Unix time."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


def check_types(fields: Record, types: Record) -> None:
    """Check that each value has the one type of its name, because collectors refuse a column of two types."""
    for name, value in fields.items():
        expected = types.get(name) or types.get("*")
        assert expected, f"unknown field {name}"
        match expected:
            case str():
                fits = type(value) is _PYTHON[expected.rstrip("?")] or (value is None and expected.endswith("?"))
                assert fits, f"{name} is {value!r}, not {expected}"
            case dict():
                check_types(value, expected)
            case [dict() as each]:
                for one in value:
                    check_types(one, each)
            case [each]:
                check_types({f"each of {name}": one for one in value}, {"*": each})


def check_record(record: Record) -> None:
    """Check the rules that apply to each record by itself."""
    check_types(record, TYPES)
    assert TIMESTAMP.fullmatch(record["timestamp"]), record
    assert record["level"] in LEVELS
    assert isinstance(record["message"], str)
    assert record["message"]
    assert "{" not in record["message"], record
    assert isinstance(record["relay_id"], str)
    kind = (record["msg_id"], record["level"])
    event = record["event"]
    if event == "session.closed":
        assert kind == REASONS[record["reason"]], record
        assert record["bytes_from_client"] >= 0
        assert record["bytes_from_target"] >= 0
        assert record["duration_ms"] >= 0
        assert record["connect_ms"] is None or 0 <= record["connect_ms"] <= record["duration_ms"] + 1
        if record["error"] in NO_ADDRESS:
            assert record["reason"] == "connect_failed"
            assert record["message"].endswith(f" ({NO_ADDRESS[record['error']]})")
        else:
            assert record["error"] is None or record["error"].startswith("E")
            failed = record["reason"] == "connect_failed" and record["error"] is not None
            text = os.strerror(getattr(errno, record["error"])) if failed else ""
            assert record["message"].endswith(f" ({text})" if failed else ".")
        check_how_it_ended(record)
        check_paths(record)
    else:
        assert kind in EVENTS[event], record
    assert ("proxy_ip" in record) == ("proxy_port" in record)
    if event == "connection.proxy_invalid":
        assert (record["client_ip"], record["client_port"]) == (record["proxy_ip"], record["proxy_port"]), record
        assert record["problem"]
    if event in CONNECTION_EVENTS:
        assert not record["client_ip"].startswith("::ffff:")
        assert 0 < record["client_port"] < 65536 or (record["client_port"] == 0 and "proxy_ip" in record)
    if event.startswith("session.") or event == "connection.accepted":
        assert record["session"] >= 1
        assert record["target_ip"] != ""
        assert record["target_port"]
    if event in LIFE[2:7]:
        assert record["worker"] >= 1
    if event == "connection.abandoned":
        assert record["waited_ms"] >= 0
    if event == "connection.refused_more":
        assert record["refused"] in {"rejected", "limited", "abandoned", "proxy_invalid", "exhausted"}
        assert record["count"] >= 1
        assert record["first_at"] <= record["last_at"] <= record["timestamp"]
    if event == "admission.resumed":
        assert record["paused_s"] >= 0
        assert record["waiting"] is None if PYTHON_EXE else record["waiting"] >= 0
    if event == "metrics.failed":
        assert record["error"] is None or record["error"].startswith("E")
        assert record["detail"]
        assert 1 <= record["again_in_s"] <= 60
    if event == "worker.start_failed":
        assert record["worker"] >= 1
        assert record["error"] is None or record["error"].startswith("E")
        assert record["detail"]
        assert record["tries"] >= 1
        assert record["again_in_s"] == min(0.1 * 2 ** (record["tries"] - 1), 60)
    if event == "worker.unresponsive":
        assert record["worker"] >= 1
        assert record["silent_s"] >= 10
    if event == "relay.stopped":
        assert (record["level"] == "error") == (record["reason"] == "failed"), record


def check_progress(life: list[Record]) -> None:
    """Check that the records of a session's progress come right before its end, and that its counts grow."""
    told = [record for record in life if record["event"] == "session.progress"]
    if not told:
        return
    events = [record["event"] for record in life]
    first = events.index("session.progress")
    assert events[:first] in ([], LIFE[1:-1]), events
    assert events[first:] in (progress := ["session.progress"] * len(told), [*progress, "session.closed"]), events
    assert all(record["idle_s"] >= 0 for record in told), told
    for before, after in pairwise([record[name] for name in COUNTS] for record in told):
        assert before != after, "nothing has moved"
        assert all(map(le, before, after)), "a count has shrunk"
    # What one side has sent, and the other has not acknowledged when it is cut, is taken off in the end.
    assert all(told[-1][name] <= life[-1][name] for name in COUNTS[:2]), life


def check_paths(record: Record) -> None:
    """Check what TCP has measured: all four figures, or none of the names. Of a target never reached, nothing."""
    names = ("client_rtt_ms", "client_retransmits", "target_rtt_ms", "target_retransmits")
    assert len(record.keys() & {*names}) in (0, len(names)), record
    figures = [record.get(name) for name in names]
    assert all(figure is None or figure >= 0 for figure in figures), record
    if record["connect_ms"] is None:
        assert figures[2:] == [None, None], record
    if record["reason"] in ("worker_lost", "handoff_failed"):
        assert figures == [None] * 4, record


def check_how_it_ended(record: Record) -> None:
    """Check that the two ends in a `session.closed` record are consistent."""
    ends = {"client": record["client_end"], "target": record["target_end"]}
    assert set(ends.values()) <= {None, "end", "reset"}, record
    assert 0 <= record["bytes_to_client"] <= record["bytes_from_target"], record
    assert 0 <= record["bytes_to_target"] <= record["bytes_from_client"], record
    assert record["error_from"] in {None, "client", "target"}, record
    if record["error"] is None:
        assert record["error_from"] is None, record
    if record["error"] == "ECONNRESET" and record["error_from"] is not None:
        assert ends[record["error_from"]] == "reset", record
    if "reset" in ends.values():
        assert record["error"] is not None, record
    if record["reason"] in ("requester_read_closed", "target_read_closed") and record["error"] is None:
        assert set(ends.values()) == {"end"}, record
        assert record["bytes_to_client"] == record["bytes_from_target"], record
        assert record["bytes_to_target"] == record["bytes_from_client"], record
    if record["reason"] == "linger_timeout":  # both have ended, and one has not acknowledged everything
        assert (record["error"], set(ends.values())) == (None, {"end"}), record
        assert (record["bytes_to_client"], record["bytes_to_target"]) != (
            record["bytes_from_target"],
            record["bytes_from_client"],
        ), record
    assert (record["outbound_port"] is None) == (record["connect_ms"] is None), record
    assert record["inbound_ip"] is None or not record["inbound_ip"].startswith("::ffff:"), record
    # The supervisor wrote the record if the worker could not report the end.
    unreported = {"worker_lost", "handoff_failed", "relay_expired", "drained", "killed", "acl_revoked"}
    assert record["inbound_ip"] or record["reason"] in unreported, record


def check_run(records: list[Record], *, detail: str = "full", ended: bool = True) -> None:
    """Check the rules of a whole run.

    With `ended` False (the supervisor was killed) the run may be incomplete.
    """
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1)), "a gap in seq"
    assert len({record["relay_id"] for record in records}) <= 1
    for record in records:
        check_record(record)
    lives = defaultdict(list)
    for record in records:
        if "session" in record:
            lives[record["session"]].append(record)
    for serial, life in lives.items():
        check_progress(life)
        events = [record["event"] for record in life if record["event"] != "session.progress"]
        order = [LIFE.index(event) for event in events]
        assert order == sorted(set(order)), (serial, events)
        assert len({(r["client_ip"], r["client_port"], r["target_port"]) for r in life}) == 1
        assert len({(r.get("proxy_ip"), r.get("proxy_port")) for r in life}) == 1
    _check_targets(records)
    _check_workers(records, ended=ended)
    _check_seal(records, ended=ended)
    closed = [record for record in records if record["event"] == "session.closed"]
    assert len({"client_rtt_ms" in record for record in closed}) <= 1
    if not ended or not records or records[0]["event"] == "config.invalid":
        return
    _reconcile(records, detail)


def _check_targets(records: list[Record]) -> None:
    """A session's target is the one address, or one of those that its name had at any time before."""
    addresses: set[str] = set()
    for record in records:
        match record["event"]:
            case "target.resolved":
                addresses |= {*record["addresses"]}
            case "relay.active" if not addresses:
                addresses = {record["target_ip"]}
                assert record["target_host"] == record["target_ip"]
        if record.get("target_ip") is None:
            assert "target_ip" not in record or record["target_host" if "target_host" in record else "session"]
        else:
            assert record["target_ip"] in addresses, record


def _check_workers(records: list[Record], *, ended: bool) -> None:
    """A worker is one process at a time, gets sessions only while ready, and ends if it does not answer."""
    ready: dict[int, int] = {}
    silent: set[int] = set()
    for record in records:
        match record["event"]:
            case "worker.started":
                assert record["worker"] not in ready, record
                ready[record["worker"]] = record["pid"]
            case "worker.exited":
                assert ready.pop(record["worker"], record["pid"]) == record["pid"], record
                silent.discard(record["pid"])
            case "worker.start_failed":
                assert record["worker"] not in ready, record
            case "worker.unresponsive":
                assert ready.get(record["worker"], record["pid"]) == record["pid"], record
                assert record["pid"] not in silent, record
                silent.add(record["pid"])
            case "session.allocated":
                assert record["worker"] in ready, record
    assert not silent or not ended, silent


def _check_seal(records: list[Record], *, ended: bool) -> None:
    """A sealed run begins with its key and ends with a checkpoint. One is never far, and covers all before it."""
    if not records or records[0]["event"] != "log.key":
        assert not any(record["event"].startswith("log.") for record in records), "sealed, without a key"
        return
    covered = 0
    for place, record in enumerate(records):
        match record["event"]:
            case "log.checkpoint":
                assert record["size"] == place, record
                assert place > covered, "nothing to cover"
                covered = place + 1
            case "log.key":
                assert place == covered, "a key that does not follow on a checkpoint"
                assert (record["signed_by"] is None) == (record["signature"] is None), record
                assert record["signed_by"] is not None or place == 0, record
        assert place - covered < 1000, "too many records without a checkpoint"
    if ended:
        assert [record["event"] for record in records[-2:]] == ["relay.stopped", "log.checkpoint"]


def _reconcile(records: list[Record], detail: str) -> None:
    *_, last = (record for record in records if record["event"] != "log.checkpoint")
    assert last["event"] == "relay.stopped"
    events = Counter(record["event"] for record in records)
    assert events["relay.stopped"] == 1
    closed = [record for record in records if record["event"] == "session.closed"]
    assert sorted(record["session"] for record in closed) == list(range(1, last["admitted"] + 1)), (
        "not exactly one closing record for each admitted session"
    )
    assert last["closed"] == dict(Counter(record["reason"] for record in closed))
    assert last["admitted"] == sum(last["closed"].values())
    kinds = ("rejected", "limited", "abandoned", "proxy_invalid", "exhausted", "admitted")
    assert last["attempts"] == sum(last[kind] for kind in kinds)
    summed: Counter[str] = Counter()
    for record in records:
        if record["event"] == "connection.refused_more":
            summed[record["refused"]] += record["count"]
    assert last["rejected"] == events["connection.rejected"] + summed["rejected"]
    assert last["limited"] == events["connection.limited"] + summed["limited"]
    assert last["abandoned"] == events["connection.abandoned"] + summed["abandoned"]
    assert last["proxy_invalid"] == events["connection.proxy_invalid"] + summed["proxy_invalid"]
    assert last["exhausted"] == events["connection.pool_exhausted"] + summed["exhausted"]
    for side in ("bytes_from_client", "bytes_from_target"):
        assert last[side] == sum(record[side] for record in closed)
        so_far = [record[side] for record in records if record["event"] == "relay.stats"]
        assert so_far == sorted(so_far)
        assert so_far[-1:] <= [last[side]]
    if detail == "full":
        assert last["attempts"] == events["connection.attempt"] + summed.total()
        assert last["admitted"] == events["connection.accepted"]
    else:
        assert not any(events[event] for event in LIFE[:-1]), events
