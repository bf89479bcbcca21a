"""Records in the Open Cybersecurity Schema Framework 1.5: ``--log-format ocsf``.

Rules:

1. Records about connections and sessions are Network Activity (class 4001), those about the relay itself
   Application Lifecycle (6002). `type_uid` is the class times 100, plus the activity.
2. A field goes where the class has a place for exactly that. All others go into `unmapped`, under their own
   names. So does, as it was, what the class has in whole milliseconds only.
3. A null is left out.
4. `traffic` is seen from the source, which is the client: `bytes_out` came from the client, `bytes_in` from the
   target.
"""

from collections.abc import Mapping
from typing import Any, Final

from mprelay.records.about import (
    PRODUCT,
    About,
    Ending,
    ending,
    is_failure,
    is_of_connection,
    milliseconds,
    without_nulls,
)

VERSION: Final = "1.5.0"
"""The version of the schema."""

NETWORK_ACTIVITY: Final = 4001
APPLICATION_LIFECYCLE: Final = 6002

_OPEN, _CLOSE, _RESET, _FAIL, _REFUSE, _TRAFFIC = 1, 2, 3, 4, 5, 6  # activities of Network Activity
_START, _STOP, _ENABLE, _DISABLE, _UPDATE = 3, 4, 6, 7, 8  # activities of Application Lifecycle
_OTHER: Final = 99
_UNKNOWN, _SUCCESS, _FAILURE = 0, 1, 2  # of status_id
_ALLOWED: Final = {"action_id": 1, "disposition_id": 1}
_BLOCKED: Final = {"action_id": 2, "disposition_id": 2}
_INBOUND: Final = 1
_TCP: Final = 6  # IANA's number

_SEVERITIES: Final = {"debug": 1, "info": 1, "warning": 3, "error": 4, "critical": 5}

ACTIVITIES: Final[Mapping[str, int]] = {
    "timer.unavailable": _START,
    "config.invalid": _START,
    "platform.init_failed": _START,
    "platform.unsupported": _START,
    "listener.socket_failed": _START,
    "listener.bind_failed": _START,
    "listener.listen_failed": _START,
    "pool.start_failed": _START,
    "relay.active": _START,
    "connection.attempt": _OTHER,
    "connection.rejected": _REFUSE,
    "connection.accepted": _OPEN,
    "connection.pool_exhausted": _REFUSE,
    "connection.accept_failed": _FAIL,
    "connection.limited": _REFUSE,
    "connection.abandoned": _REFUSE,
    "connection.proxy_invalid": _REFUSE,
    "connection.refused_more": _REFUSE,
    "admission.paused": _DISABLE,
    "admission.resumed": _ENABLE,
    "relay.expired": _OTHER,
    "session.allocated": _OTHER,
    "session.connected": _OTHER,
    "session.relaying": _OTHER,
    "session.requester_channel_active": _OTHER,
    "session.target_channel_active": _OTHER,
    "session.closed": _CLOSE,
    "worker.started": _START,
    "worker.exited": _STOP,
    "worker.start_failed": _START,
    "worker.unresponsive": _OTHER,
    "metrics.failed": _OTHER,
    "relay.draining": _DISABLE,
    "relay.stats": _OTHER,
    "internal.error": _OTHER,
    "relay.stopped": _STOP,
    "session.progress": _TRAFFIC,
    "control.command": _UPDATE,
    "relay.extended": _UPDATE,
    "acl.reloaded": _UPDATE,
    "acl.reload_failed": _UPDATE,
    "target.resolved": _UPDATE,
    "log.key": _OTHER,
    "log.checkpoint": _OTHER,
    "log.notes_lost": _OTHER,
    "target.resolve_failed": _UPDATE,
}
"""The activity of each event. That of ``session.closed`` depends on how the session ended."""

_ENDS: Final[Mapping[Ending, tuple[int, int]]] = {
    "close": (_CLOSE, _SUCCESS),
    "reset": (_RESET, _UNKNOWN),
    "fail": (_FAIL, _FAILURE),
}
_STATUSES: Final = {
    _OPEN: _SUCCESS,
    _FAIL: _FAILURE,
    _REFUSE: _FAILURE,
    _TRAFFIC: _SUCCESS,
    _OTHER: _UNKNOWN,
}
_BY_RULE: Final = {"rejected", "limited", "proxy_invalid"}
"""Kinds of refusals that the operator's rules asked for."""


def shape(record: Mapping[str, Any], about: About) -> dict[str, Any]:
    """Return a record in the shape of the schema."""
    rest = without_nulls(record)
    take = rest.pop
    of_connection = is_of_connection(record)
    class_uid = NETWORK_ACTIVITY if of_connection else APPLICATION_LIFECYCLE
    activity, status = _activity(record)
    relay_id, seq, level = take("relay_id"), take("seq"), take("level")
    timestamp, event = take("timestamp"), take("event")
    product = {"name": PRODUCT, "vendor_name": PRODUCT, "version": take("version", about.version)}
    host = take("host", about.host)
    metadata: dict[str, Any] = {
        "version": VERSION,
        "product": product,
        "profiles": [],
        "uid": f"{relay_id}:{seq}",
        "sequence": seq,
        "correlation_uid": relay_id,
        "event_code": event,
        "log_level": level,
        "original_time": timestamp,
    }
    if "labels" in rest:
        metadata["labels"] = [f"{key}={value}" for key, value in take("labels").items()]
    shaped: dict[str, Any] = {
        "time": milliseconds(timestamp),
        "class_uid": class_uid,
        "category_uid": class_uid // 1000,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "severity_id": _SEVERITIES[level],
        "status_id": status,
        "message": take("message"),
        "metadata": metadata,
    }
    if activity == _OTHER:
        shaped["activity_name"] = event
    if host is not None:
        metadata["profiles"].append("host")
        shaped["device"] = {"hostname": host, "type_id": 0}
    if of_connection:
        metadata["profiles"].append("network_proxy")
        shaped |= _connection(record, rest, about, host)
        if decided := _decision(record, rest):
            metadata["profiles"].append("security_control")
            shaped |= decided
    else:
        shaped["app"] = product
    for field, place in (("reason", "status_code"), ("error", "status_detail"), ("count", "count")):
        if field in rest:
            shaped[place] = take(field)
    shaped |= _period(record, shaped["time"])
    if rest:
        shaped["unmapped"] = rest
    return shaped


def _activity(record: Mapping[str, Any]) -> tuple[int, int]:
    """Return the activity and the status of a record."""
    if record["event"] == "session.closed":
        return _ENDS[ending(record)]
    activity = ACTIVITIES[record["event"]]
    if is_of_connection(record):
        return activity, _STATUSES[activity]
    return activity, _FAILURE if is_failure(record) else _SUCCESS


def _connection(
    record: Mapping[str, Any], rest: dict[str, Any], about: About, host: str | None
) -> dict[str, Any]:
    """Return who is connected to whom, and what went over the connection."""
    client_ip = rest.pop("client_ip", None)
    info: dict[str, Any] = {"direction_id": _INBOUND, "protocol_num": _TCP, "protocol_name": "tcp"}
    if client_ip is not None:
        info["protocol_ver_id"] = 6 if ":" in client_ip else 4
    shaped: dict[str, Any] = {"connection_info": info}
    listen_ip = rest.pop("inbound_ip", about.listen_ip)
    relay = {"svc_name": PRODUCT, "hostname": host, "ip": listen_ip, "port": about.listen_port}
    relay = without_nulls(relay)
    source = without_nulls({"ip": client_ip, "port": rest.pop("client_port", None)})
    if "proxy_ip" in rest:
        source["proxy_endpoint"] = {"ip": rest.pop("proxy_ip"), "port": rest.pop("proxy_port")}
    if source:
        shaped["src_endpoint"] = source
    if "session" not in rest:
        shaped["dst_endpoint"] = relay
        return shaped
    info["uid"] = f"{record['relay_id']}:{rest['session']}"
    target = {"hostname": about.target_host, "ip": rest.pop("target_ip", None), "port": rest.pop("target_port")}
    shaped["dst_endpoint"] = without_nulls(target)
    shaped["proxy_endpoint"] = relay
    if "bytes_from_client" in rest:
        from_client, from_target = rest.pop("bytes_from_client"), rest.pop("bytes_from_target")
        shaped["traffic"] = {
            "bytes_out": from_client,
            "bytes_in": from_target,
            "bytes": from_client + from_target,
        }
    return shaped


def _decision(record: Mapping[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """Return what the rules decided; empty: the record is not about that."""
    event = record["event"]
    decided: dict[str, Any] = {}
    if event.removeprefix("connection.") in _BY_RULE or record.get("refused") in _BY_RULE:
        decided = dict(_BLOCKED)
    elif "acl" in rest:
        decided = dict(_ALLOWED)
    if "acl" in rest:
        decided["firewall_rule"] = {"name": rest.pop("acl")}
    return decided


def _period(record: Mapping[str, Any], time: int) -> dict[str, int]:
    """Return the time that a record is about, in whole milliseconds; empty: a moment."""
    if "duration_ms" in record:
        duration = round(record["duration_ms"])
        return {"duration": duration, "start_time": time - duration, "end_time": time}
    if "first_at" in record:
        return {"start_time": milliseconds(record["first_at"]), "end_time": milliseconds(record["last_at"])}
    return {}
