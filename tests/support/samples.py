"""Fields of every record in the catalogue, with usual and with the largest values."""

import re
from typing import Any, Final

from mprelay.config.parameters import LABELS_LIMIT, PARAMETERS
from mprelay.config.validation import OPTION_LIMIT, OPTION_LIMITS, WITH_A_FIELD
from mprelay.core.protocol import ADDRESSES_LIMIT, CloseReason
from mprelay.core.texts import ACL_LIMIT, NAME_LIMIT, PROBLEM_LIMIT, VALUE_LIMIT
from mprelay.records.catalogue import FIELDS, SESSION_CLOSED, Message

_LONGEST_IP: Final = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
_LONGEST_FIGURES: Final = {"pid": 2**31, "cpu_percent": 12345.6, "rss": 2**60, "fds": 10**6}
_OPTIONS: Final = [parameter.name for parameter in PARAMETERS if parameter.name not in WITH_A_FIELD]
_FLAGS: Final = {parameter.name for parameter in PARAMETERS if parameter.flag}  # "true" or "false"

LARGEST_LABELS: Final = {"k": "x" * (LABELS_LIMIT - 9)}

_LARGEST: Final[dict[str, Any]] = {
    "client_ip": _LONGEST_IP,
    "client_port": 65535,
    "session": 2**62,
    "target_ip": _LONGEST_IP,
    "target_port": 65535,
    "worker": 64,
    "errno": 105,
    "listen_ip": _LONGEST_IP,
    "listen_port": 65535,
    "parameter": max((parameter.name for parameter in PARAMETERS), key=len),
    "value": "\x01" * VALUE_LIMIT,
    "problem": "\U0001f4a5" * (PROBLEM_LIMIT // 4),  # repr has escaped all non-printable characters
    "place": "x" * 60,
    "detail": "x" * 200,
    "acl": "x" * ACL_LIMIT,
    "options": {
        name: "x" * (5 if name in _FLAGS else OPTION_LIMITS.get(name, OPTION_LIMIT)) for name in _OPTIONS
    },
    "arguments": {"client": "x" * 100},
    "target_host": "x" * 253,
    "host": "x" * NAME_LIMIT,
    "opened_by": "x" * NAME_LIMIT,
    "error": "x" * 200,
    "supervisor": _LONGEST_FIGURES,
    "worker_stats": [{"worker": 64, **_LONGEST_FIGURES, "sessions": 10**6}] * 16,
    "duration_ms": 99999999999999.99,  # just below what a worker may report
    "connect_ms": 99999999999999.99,
    "version": "1.2.3.dev0",
    "closed": {reason.value: 2**40 for reason in CloseReason},
    "addresses": [_LONGEST_IP] * ADDRESSES_LIMIT,
}

_USUAL: Final[dict[str, Any]] = {
    "timestamp": "2026-11-26T12:00:00.000123Z",
    "client_ip": "192.0.2.7",
    "client_port": 4711,
    "session": 42,
    "target_ip": "2001:db8::5",
    "target_port": 443,
    "worker": 3,
    "expires_at": "2026-11-26T18:00:00.000000Z",
    "first_at": "2026-11-26T11:59:50.123456Z",
    "last_at": "2026-11-26T11:59:59.654321Z",
    "listen_ip": "0.0.0.0",  # noqa: S104 - never bound
    "inbound_ip": "198.51.100.1",
    "refused": "rejected",
    "log_detail": "full",
    "limit": "rate",
    "error_from": "target",
    "client_end": "end",
    "target_end": "reset",
    "options": {"idle_timeout": "300", "buffer": "auto"},
    "supervisor": {"pid": 1, "cpu_percent": None, "rss": 2, "fds": 3},
    "worker_stats": [{"worker": 1, "pid": 4, "cpu_percent": 0.5, "rss": 5, "fds": 6, "sessions": 7}],
    "closed": {"drained": 8, "target_read_closed": 9},
    "arguments": {"session": 42},
    "addresses": ["2001:db8::5", "192.0.2.5"],
}

_PLAIN: Final = {"string": "text of {}", "integer": 12, "number": 1500.25, "boolean": True}


def names_of(message: Message) -> set[str]:
    """Name the fields of a record besides the common ones, those of its connection included."""
    names = {*message.fields, *re.findall(r"{(\w+)}", message.sentence)}
    if message.event.startswith(("connection.", "session.")) and "count" not in message.fields:
        names |= {"client_ip", "client_port"}
    if message.event.startswith("session.") or message.event == "connection.accepted":
        names |= {"session", "target_ip", "target_port"}
    if message.event.startswith("session."):
        names.add("worker")
    return names


def _reason(message: Message) -> str:
    ours = [reason.value for reason, closing in SESSION_CLOSED.items() if closing == message]
    return ours[0] if ours else "drained"


def usual(message: Message) -> dict[str, Any]:
    """Return usual values for a record's fields. Each text is another one."""
    fields = {name: _USUAL.get(name, _PLAIN.get(FIELDS[name].type)) for name in names_of(message)}
    fields = {name: value.format(name) if isinstance(value, str) else value for name, value in fields.items()}
    return fields | ({"reason": _reason(message)} if "reason" in fields else {})


def largest(message: Message) -> dict[str, Any]:
    """Return the largest values for a record's fields."""
    of_session = message.event in {"session.closed", "session.progress"}
    others = 2**60 - 1 if of_session else 2**62  # what a worker may report of a session
    fields = {name: _LARGEST.get(name, _USUAL.get(name, others)) for name in names_of(message)}
    return fields | ({"reason": _reason(message)} if "reason" in fields else {})
