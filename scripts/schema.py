"""Writes the JSON Schema of the records, mprelay/records/schema.json.

    .venv/bin/python scripts/schema.py

It comes from the catalogue. A test (``tests/unit/test_schema.py``) fails if the file is not current.
"""

import json
from pathlib import Path
from typing import Any, Final

from mprelay.records.catalogue import FIELDS, MESSAGES, PATH_FIELDS, SESSION_CLOSED, Field, Message

SCHEMA: Final = Path(__file__).resolve().parent.parent / "mprelay" / "records" / "schema.json"

_COMMON: Final = ("timestamp", "level", "event", "message", "msg_id", "seq", "relay_id")
_CONNECTION: Final = ("client_ip", "client_port")
_PROXY: Final = ("proxy_ip", "proxy_port")
_SESSION: Final = ("session", "target_ip", "target_port")
_SUMMED_UP: Final = {"connection.accept_failed", "connection.refused_more"}
"""Records about several connections."""

_TIMESTAMP: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
}
_PORT: Final = {"minimum": 0, "maximum": 65535}
_FIGURE: Final = {"minimum": 0}
_NARROWER: Final[dict[str, dict[str, Any]]] = {
    "seq": {"minimum": 1},
    "session": {"minimum": 1},
    "relay_id": {"pattern": "^[0-9a-f]{16}$"},
    **dict.fromkeys(("client_port", "target_port", "proxy_port", "listen_port", "outbound_port"), _PORT),
    **{name: _FIGURE for name in FIELDS if name.startswith("bytes_") or name.endswith(("_ms", "_s"))},
    **dict.fromkeys(("timestamp", "expires_at", "first_at", "last_at"), _TIMESTAMP),
    "error_from": {"enum": ["client", "target"]},
    "client_end": {"enum": ["end", "reset"]},
    "target_end": {"enum": ["end", "reset"]},
    "limit": {"enum": ["rate", "per_client"]},
    "log_detail": {"enum": ["full", "session"]},
    "refused": {"enum": ["rejected", "limited", "abandoned", "proxy_invalid", "exhausted"]},
}
"""What a field's type alone does not say."""

_AS_GIVEN: Final = {"arguments"}
"""Objects that have only the fields that were given."""


def schema() -> dict[str, Any]:
    """Return the schema: one sub-schema for each event, and one for each field."""
    events = {
        message.event: [other for other in MESSAGES if other.event == message.event] for message in MESSAGES
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of mprelay",
        "description": "One line on stdout, with --log-format json.",
        "type": "object",
        "required": ["event"],
        "properties": {"event": {"enum": list(events)}},
        "allOf": [
            {"if": {"properties": {"event": {"const": event}}}, "then": {"$ref": f"#/$defs/{event}"}}
            for event in events
        ],
        "$defs": {event: _event(event, messages) for event, messages in events.items()}
        | {f"field:{name}": _field(name, field) for name, field in FIELDS.items()},
    }


def _event(event: str, messages: list[Message]) -> dict[str, Any]:
    """Return the schema of all records of one event."""
    required = list(_COMMON)
    optional = ["labels"]
    if event.startswith(("connection.", "session.")) and event not in _SUMMED_UP:
        required += _CONNECTION
        optional += _PROXY
    if event.startswith("session.") or event == "connection.accepted":
        required += _SESSION
    if event.startswith("session.") and event != "session.closed":
        required.append("worker")
    elif event == "session.closed":
        optional += ["worker", *PATH_FIELDS]  # it may end before it is handed over; and --tcp-info
    required += [name for name in messages[0].fields if name not in (*required, *PATH_FIELDS)]
    properties = {name: {"$ref": f"#/$defs/field:{name}"} for name in (*required, *optional)}
    properties["event"] = {"const": event}
    if event not in _SUMMED_UP and "client_ip" in required:
        properties["client_ip"] = {"type": "string"}  # null only of several clients
    made: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "anyOf": _kinds(messages),
    }
    if "proxy_ip" in optional:
        made["dependentRequired"] = {"proxy_ip": ["proxy_port"], "proxy_port": ["proxy_ip"]}
    return made


def _kinds(messages: list[Message]) -> list[dict[str, Any]]:
    """Return what goes together: level, number, and reason of a session's end."""
    kinds: dict[tuple[str, int | None], list[str]] = {}
    for message in messages:
        kinds.setdefault((message.level, message.msg_id), [])
    for reason, message in SESSION_CLOSED.items():
        if message in messages:
            kinds[message.level, message.msg_id].append(reason.value)
    return [
        {
            "properties": {"level": {"const": level}, "msg_id": {"const": msg_id}}
            | ({"reason": {"enum": reasons}} if reasons else {})
        }
        for (level, msg_id), reasons in kinds.items()
    ]


def _field(name: str, field: Field) -> dict[str, Any]:
    """Return the schema of a field."""
    made: dict[str, Any] = {"type": field.type, **_NARROWER.get(name, {})}
    if isinstance(field.values, tuple):
        inner = {
            "type": "object",
            "properties": {within: {"$ref": f"#/$defs/field:{within}"} for within in field.values},
            "required": [] if name in _AS_GIVEN else list(field.values),
            "additionalProperties": False,
        }
        made = {"type": "array", "items": inner} if field.type == "array" else inner
    elif field.values is not None:
        made["items" if field.type == "array" else "additionalProperties"] = {"type": field.values}
    if field.nullable:
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return {"description": field.meaning, **made}


def text() -> str:
    """Return what stands in the file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8")
