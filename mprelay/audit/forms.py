"""A record out of a line, under our own names, in whatever format it was written. Pure.

Rules:

1. The line itself tells its format: json, gcp, ecs or ocsf. Text has lost too much.
2. What a format has not kept is not made up. ECS and OCSF leave a null out, and so does :func:`read`. They and
   Google Cloud's have also changed the keys of labels, and OCSF does not tell an `inbound_ip` of null from the
   address that the relay listens on.
3. Nobody has checked a line before. A field that has not the type which docs/records.md gives it is left out, and
   a line without `event`, `seq`, `relay_id` or `timestamp` is no record. What else it says of the first three, in
   another place, does not count.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from mprelay.records.catalogue import FIELDS, MESSAGES, Field

_SPECIAL: Final = "logging.googleapis.com/"
_NANOSECONDS: Final = 1_000_000  # of a millisecond
_SEQ_END: Final = 2**63
_EVENT_LIMIT: Final = 64  # characters
_RELAY_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")
"""Ours are 16 hexadecimal digits. A verdict names what it is about by this, so no sentence may pass for one."""

_DEPTH: Final = 8  # objects and arrays within each other, in a value; ours have two

_FIELDS_OF: Final = {
    event: frozenset(name for message in MESSAGES if message.event == event for name in message.fields)
    for event in {message.event for message in MESSAGES}
}
"""The fields of each event, to tell what a format has put into one place."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


class NotRecord(ValueError):  # noqa: N818 - it says what the line is
    """A line is no record of this program."""


def parsed(line: bytes) -> dict[str, Any]:
    """Return a line's object, as its format has it. Raises NotRecord."""
    try:
        shaped = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise NotRecord("is not JSON") from None
    if type(shaped) is not dict:
        raise NotRecord("is no object")
    return shaped


def place_of(shaped: Mapping[str, Any]) -> tuple[str, int, str]:
    """Return `relay_id`, `seq` and `event` of an object. Raises NotRecord."""
    relay_id: object
    seq: object
    event: object
    if "relay_id" in shaped:
        relay_id, seq, event = shaped["relay_id"], shaped.get("seq"), shaped.get("event")
    elif "ecs" in shaped:
        of_event = _inner(shaped, "event")
        relay_id = _inner(shaped, "service").get("ephemeral_id")
        seq, event = of_event.get("sequence"), of_event.get("action")
    else:
        metadata = _inner(shaped, "metadata")
        relay_id = metadata.get("correlation_uid")
        seq, event = metadata.get("sequence"), metadata.get("event_code")
    if type(relay_id) is not str or not _RELAY_ID.fullmatch(relay_id):
        raise NotRecord("has no relay_id")
    if type(seq) is not int or not 0 < seq < _SEQ_END:
        raise NotRecord("has no seq")
    if type(event) is not str or len(event) > _EVENT_LIMIT:
        raise NotRecord("has no event")
    return relay_id, seq, event


def read(shaped: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record under our own names, out of a line's object (:func:`parsed`). Raises NotRecord."""
    relay_id, seq, event = place_of(shaped)  # it tells the formats apart in the same way
    if "relay_id" in shaped:
        record = _of_gcp(shaped) if f"{_SPECIAL}insertId" in shaped else dict(shaped)
    elif "ecs" in shaped:
        record = _of_ecs(shaped)
    else:
        record = _of_ocsf(shaped)
    record = {name: value for name, value in record.items() if _is_typed(FIELDS.get(name), value)}
    if "timestamp" not in record:
        raise NotRecord("has no timestamp")
    return record | {"event": event, "seq": seq, "relay_id": relay_id}


def _is_typed(field: Field | None, value: object) -> bool:
    """Tell whether a value has the type of its field; what nobody knows may have any that can be shown."""
    if isinstance(value, dict | list) and _is_deep(value):
        return False
    if field is None:
        return True
    if value is None:
        return field.nullable
    if type(value) not in _TYPES[field.type]:
        return False
    within: list[object] = []
    if isinstance(value, dict):
        within = list(value.values())
    elif isinstance(value, list):
        within = value
    if isinstance(field.values, str):
        return all(type(inner) in _TYPES[field.values] for inner in within)
    return not isinstance(value, list) or all(type(inner) is dict for inner in within)


def _is_deep(value: object) -> bool:
    """Tell whether a value is nested so deeply that who writes it as text may run out of stack."""
    level = [value]
    for _ in range(_DEPTH):
        within = (
            (each.values() if isinstance(each, dict) else each) for each in level if isinstance(each, dict | list)
        )
        level = [inner for values in within for inner in values]
    return any(isinstance(each, dict | list) for each in level)


def _inner(shaped: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object within an object; empty: there is none."""
    inner = shaped.get(name)
    return inner if type(inner) is dict else {}


def _there(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not found."""
    return {name: value for name, value in fields.items() if value is not None}


def _of_gcp(shaped: Mapping[str, Any]) -> dict[str, Any]:
    record = {name: value for name, value in shaped.items() if not name.startswith(_SPECIAL)}
    for name in ("severity", "time"):
        record.pop(name, None)
    return record | _there({"labels": shaped.get(f"{_SPECIAL}labels")})


def _of_ecs(shaped: Mapping[str, Any]) -> dict[str, Any]:
    event, service, error = (_inner(shaped, name) for name in ("event", "service", "error"))
    source, destination, process = (_inner(shaped, name) for name in ("source", "destination", "process"))
    record = {
        "timestamp": shaped.get("@timestamp"),
        "level": _inner(shaped, "log").get("level"),
        "event": event["action"],
        "message": shaped.get("message"),
        "msg_id": _number(event.get("code")),
        "seq": event["sequence"],
        "relay_id": service["ephemeral_id"],
        "labels": shaped.get("labels"),
        "client_ip": source.get("ip"),
        "client_port": source.get("port"),
        "proxy_ip": _inner(source, "nat").get("ip"),
        "proxy_port": _inner(source, "nat").get("port"),
        "target_ip": destination.get("ip"),
        "target_port": destination.get("port"),
        "bytes_from_client": source.get("bytes"),
        "bytes_from_target": destination.get("bytes"),
        "reason": event.get("reason"),
        "error": error.get("code"),
        "acl": _inner(shaped, "rule").get("name"),
        "pid": process.get("pid"),
        "exitcode": process.get("exit_code"),
        "opened_by": _inner(shaped, "user").get("name"),
        **_inner(shaped, "mprelay"),
    }
    fields = _FIELDS_OF.get(event["action"], frozenset())
    if type(event.get("duration")) is int:
        record["duration_ms"] = event["duration"] / _NANOSECONDS
    if "host" in fields:
        record["host"], record["version"] = _inner(shaped, "host").get("name"), service.get("version")
    if "target_host" in fields:
        record["target_host"] = destination.get("address")
    if isinstance(address := service.get("address"), str):
        ip, _, port = address.rpartition(":")
        record["listen_ip"], record["listen_port"] = ip.strip("[]"), _number(port)
    inbound = _inner(shaped, "observer").get("ip")
    if isinstance(inbound, list) and inbound:
        record["inbound_ip"] = inbound[0]
    if "message" in error:
        name = "problem" if "problem" in fields else "detail"
        record["error" if event["action"] == "internal.error" else name] = error["message"]
    return _there(record)


def _of_ocsf(shaped: Mapping[str, Any]) -> dict[str, Any]:
    metadata, source, target = (_inner(shaped, name) for name in ("metadata", "src_endpoint", "dst_endpoint"))
    event, own = metadata["event_code"], _inner(shaped, "unmapped")
    record = {
        "timestamp": metadata.get("original_time"),
        "level": metadata.get("log_level"),
        "event": event,
        "message": shaped.get("message"),
        "seq": metadata["sequence"],
        "relay_id": metadata["correlation_uid"],
        "client_ip": source.get("ip"),
        "client_port": source.get("port"),
        "proxy_ip": _inner(source, "proxy_endpoint").get("ip"),
        "proxy_port": _inner(source, "proxy_endpoint").get("port"),
        "reason": shaped.get("status_code"),
        "error": shaped.get("status_detail"),
        "count": shaped.get("count"),
        "acl": _inner(shaped, "firewall_rule").get("name"),
        "bytes_from_client": _inner(shaped, "traffic").get("bytes_out"),
        "bytes_from_target": _inner(shaped, "traffic").get("bytes_in"),
        **own,
    }
    labels = metadata.get("labels")
    if isinstance(labels, list):
        record["labels"] = dict(
            label.split("=", 1) for label in labels if isinstance(label, str) and "=" in label
        )
    fields = _FIELDS_OF.get(event, frozenset())
    if "session" in own:
        record |= {"target_ip": target.get("ip"), "target_port": target.get("port")}
    if "host" in fields:
        record["host"] = _inner(shaped, "device").get("hostname")
        record["version"] = _inner(metadata, "product").get("version")
    if "inbound_ip" in fields:
        record["inbound_ip"] = _inner(shaped, "proxy_endpoint").get("ip")
    return _there(record)


def _number(text: object) -> int | None:
    """Read digits; None: it is something else."""
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < len(str(_SEQ_END)):
        return int(text)
    return None
