"""Records in the Elastic Common Schema 8: ``--log-format ecs``.

Rules:

1. A field goes where the schema has a place for exactly that. All others go into the object `mprelay`, under
   their own names. Nothing else stands there, so that no field is both a value and an object.
2. A null is left out.
3. The categories follow elastic.co/docs/reference/ecs, "Using the categorization fields": what the relay denies
   is `event.type` denied, and its outcome is a success, because that is what the relay is for.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from mprelay.records.about import (
    PRODUCT,
    About,
    Ending,
    before,
    ending,
    is_failure,
    is_of_connection,
    keyed,
    without_nulls,
)

VERSION: Final = "8.17.0"
"""The version of the schema: the last one of 8."""

_NANOSECONDS: Final = 1_000_000  # of a millisecond
_LONG_END: Final = 2**63  # of Elasticsearch's type; a worker may report a duration beyond


class _Kind(NamedTuple):
    """How an event is categorised."""

    category: Literal["network", "process", "configuration"]
    types: tuple[str, ...]
    outcome: Literal["success", "failure", "by level"] | None = None


_START: Final = _Kind("process", ("start",), "by level")
_END: Final = _Kind("process", ("end",), "by level")
_CHANGE: Final = _Kind("process", ("change",))
_STEP: Final = _Kind("network", ("connection", "info"))
_DENIED: Final = _Kind("network", ("connection", "denied"), "success")

KINDS: Final[Mapping[str, _Kind]] = {
    "timer.unavailable": _START,
    "config.invalid": _Kind("configuration", ("info",), "failure"),
    "platform.init_failed": _START,
    "platform.unsupported": _START,
    "listener.socket_failed": _START,
    "listener.bind_failed": _START,
    "listener.listen_failed": _START,
    "pool.start_failed": _START,
    "relay.active": _START,
    "connection.attempt": _STEP,
    "connection.rejected": _DENIED,
    "connection.accepted": _Kind("network", ("connection", "allowed", "start"), "success"),
    "connection.pool_exhausted": _DENIED,
    "connection.accept_failed": _STEP._replace(outcome="failure"),
    "connection.limited": _DENIED,
    "connection.abandoned": _DENIED,
    "connection.proxy_invalid": _DENIED,
    "connection.refused_more": _DENIED,
    "admission.paused": _CHANGE,
    "admission.resumed": _CHANGE,
    "relay.expired": _CHANGE,
    "session.allocated": _STEP,
    "session.connected": _STEP,
    "session.relaying": _STEP,
    "session.requester_channel_active": _STEP,
    "session.target_channel_active": _STEP,
    "session.progress": _STEP,
    "session.closed": _Kind("network", ("connection", "end")),
    "worker.started": _START,
    "worker.exited": _END,
    "worker.start_failed": _START,
    "worker.unresponsive": _CHANGE._replace(outcome="failure"),
    "metrics.failed": _CHANGE._replace(outcome="failure"),
    "relay.draining": _CHANGE,
    "relay.stats": _Kind("process", ("info",)),
    "internal.error": _Kind("process", ("info",), "failure"),
    "relay.stopped": _END,
    "acl.reloaded": _Kind("configuration", ("change",), "success"),
    "acl.reload_failed": _Kind("configuration", ("change",), "failure"),
    "control.command": _Kind("configuration", ("change",), "by level"),
    "relay.extended": _CHANGE,
    "target.resolved": _Kind("network", ("info",)),
    "log.key": _Kind("process", ("info",)),
    "log.checkpoint": _Kind("process", ("info",)),
    "log.notes_lost": _Kind("process", ("info",), "failure"),
    "target.resolve_failed": _Kind("network", ("info",), "failure"),
}
"""How each event is categorised. The outcome of ``session.closed`` depends on how the session ended."""

_OUTCOMES: Final[Mapping[Ending, str]] = {"close": "success", "reset": "unknown", "fail": "failure"}


def shape(record: Mapping[str, Any], about: About) -> dict[str, Any]:
    """Return a record in the shape of the schema."""
    rest = without_nulls(record)
    take = rest.pop
    of_connection = is_of_connection(record)
    relay_id, seq = take("relay_id"), take("seq")
    version, host = take("version", about.version), take("host", about.host)
    shaped: dict[str, Any] = {
        "@timestamp": take("timestamp"),
        "log": {"level": take("level")},
        "message": take("message"),
        "ecs": {"version": VERSION},
        "event": _event(record, rest, f"{relay_id}:{seq}"),
        "service": {"name": PRODUCT, "version": version, "ephemeral_id": relay_id},
        "observer": {"type": "proxy", "vendor": PRODUCT, "product": PRODUCT, "version": version},
    }
    if host is not None:
        shaped["host"] = {"name": host}
        shaped["observer"]["hostname"] = host
    if "listen_port" in rest:
        shaped["service"]["address"] = _socket_address(take("listen_ip"), take("listen_port"))
    if "inbound_ip" in rest:
        shaped["observer"]["ip"] = [take("inbound_ip")]
    shaped |= _sides(rest, about, with_bytes="session" in record)
    if of_connection:
        shaped["network"] = _network(record)
        if "acl" in rest:
            shaped["rule"] = {"name": take("acl")}
    if failed := _error(record, rest):
        shaped["error"] = failed
    process = {"pid": take("pid", None), "exit_code": take("exitcode", None)}
    if process := without_nulls(process):
        shaped["process"] = process
    if "opened_by" in rest:
        shaped["user"] = {"name": take("opened_by")}
    if "labels" in rest:
        shaped["labels"] = keyed(take("labels"))
    if rest:
        shaped[PRODUCT] = rest
    return shaped


def _event(record: Mapping[str, Any], rest: dict[str, Any], uid: str) -> dict[str, Any]:
    """Return the field set `event`."""
    name = rest.pop("event")
    kind = KINDS[name]
    event: dict[str, Any] = {
        "kind": "metric" if name == "relay.stats" else "event",
        "category": [kind.category],
        "type": kind.types,
        "action": name,
        "dataset": f"{PRODUCT}.records",
        "id": uid,
        "sequence": record["seq"],
    }
    if "msg_id" in rest:
        event["code"] = str(rest.pop("msg_id"))
    if name == "session.closed":
        event["outcome"] = _OUTCOMES[ending(record)]
    elif kind.outcome == "by level":
        event["outcome"] = "failure" if is_failure(record) else "success"
    elif kind.outcome is not None:
        event["outcome"] = kind.outcome
    if "reason" in rest:
        event["reason"] = rest.pop("reason")
    if "duration_ms" in rest:
        duration_ms = rest.pop("duration_ms")
        event["duration"] = min(round(duration_ms * _NANOSECONDS), _LONG_END - 1)
        event["start"] = before(record["timestamp"], duration_ms)
        event["end"] = record["timestamp"]
    return event


def _sides(rest: dict[str, Any], about: About, *, with_bytes: bool) -> dict[str, Any]:
    """Return the field sets of client and target: the source and the destination of what is relayed."""
    proxy_ip = rest.pop("proxy_ip", None)
    client: dict[str, Any] = {"ip": rest.pop("client_ip", None), "port": rest.pop("client_port", None)}
    target: dict[str, Any] = {"ip": rest.pop("target_ip", None), "port": rest.pop("target_port", None)}
    related = [ip for ip in (client["ip"], target["ip"], proxy_ip) if ip is not None]
    target_host = rest.pop("target_host", about.target_host if target["port"] is not None else None)
    source = client | {"bytes": rest.pop("bytes_from_client", None) if with_bytes else None}
    destination = target | {"address": target_host}
    destination["bytes"] = rest.pop("bytes_from_target", None) if with_bytes else None
    if proxy_ip is not None:
        source["nat"] = {"ip": proxy_ip, "port": rest.pop("proxy_port")}
    sides = {"source": source, "client": client, "destination": destination, "server": target}
    sides = {name: without_nulls(side) for name, side in sides.items()}
    sides["related"] = {"ip": list(dict.fromkeys(related))} if related else {}
    return {name: side for name, side in sides.items() if side}


def _network(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field set `network` of a record about connections."""
    network: dict[str, Any] = {"transport": "tcp"}
    if record.get("client_ip") is not None:
        network["type"] = "ipv6" if ":" in record["client_ip"] else "ipv4"
    if "session" in record and "bytes_from_client" in record:
        network["bytes"] = record["bytes_from_client"] + record["bytes_from_target"]
    return network


def _error(record: Mapping[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """Return the field set `error`; empty: there was none."""
    message = rest.pop("problem", None) or rest.pop("detail", None)
    error = rest.pop("error", None)
    if record["event"] == "internal.error":
        return {"message": error}
    return without_nulls({"code": error, "message": message})


def _socket_address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
