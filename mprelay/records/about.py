"""What the formats of others (ECS, OCSF, Google Cloud) share: the context of a run, and facts about a record.

Rules:

1. Everything here is pure. The context is given once, before the first record.
2. A key of a label holds no dot in any of these formats, because a store that takes dots apart (Elasticsearch,
   BigQuery) would find a field that is both a value and an object (``a=1``, ``a.b=2``), or a part without a name.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from mprelay.core.protocol import CloseReason

PRODUCT: Final = "mprelay"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_NO_PART_OF_A_KEY: Final = re.compile(r'[.*"\s]')


class About(NamedTuple):
    """What a relay says of itself on each record, where the format has a place for it. None: not known."""

    version: str
    host: str | None = None
    """The machine's name."""
    listen_ip: str | None = None
    """The address that the relay listens on; None: also if it listens on all."""
    listen_port: int | None = None
    target_host: str | None = None
    """The target as it was typed: its address or its name."""


Ending: TypeAlias = Literal["close", "reset", "fail"]
"""How a session ended on the wire: normally, by a reset (received, or sent by the relay), or unconnected."""

_ENDINGS: Final[Mapping[str, Ending]] = {
    CloseReason.REQUESTER_READ_CLOSED.value: "close",
    CloseReason.TARGET_READ_CLOSED.value: "close",
    CloseReason.TARGET_WRITE_CLOSED.value: "close",
    CloseReason.REQUESTER_WRITE_CLOSED.value: "close",
    CloseReason.TARGET_SOCKET_FAILED.value: "fail",
    CloseReason.HANDOFF_FAILED.value: "fail",
    CloseReason.CONNECT_TIMEOUT.value: "fail",
    CloseReason.CONNECT_REFUSED.value: "fail",
    CloseReason.CONNECT_FAILED.value: "fail",
    CloseReason.REQUESTER_CHANNEL_FAILED.value: "fail",
    CloseReason.TARGET_CHANNEL_FAILED.value: "fail",
    CloseReason.REQUESTER_BUFFER_FAILED.value: "fail",
    CloseReason.TARGET_BUFFER_FAILED.value: "fail",
}
"""All other reasons are ends that the relay forces, by a reset."""


def ending(record: Mapping[str, Any]) -> Ending:
    """Tell how the session of a ``session.closed`` record ended."""
    kind = _ENDINGS.get(record["reason"], "reset")
    return "reset" if kind == "close" and record["error"] is not None else kind


def is_of_connection(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is about connections or sessions; all others are about the relay itself."""
    event: str = record["event"]
    return event.startswith(("connection.", "session."))


def is_failure(record: Mapping[str, Any]) -> bool:
    """Tell whether a record about the relay itself says that something did not succeed."""
    if record["event"] in {"target.resolve_failed", "metrics.failed", "control.command"}:
        return not record.get("ok", False)
    return record["level"] in {"error", "critical"}


def keyed(labels: Mapping[str, str]) -> dict[str, str]:
    """Make the keys of labels fit: a dot, an asterisk, a double quote or a blank becomes an underscore.

    These are the characters that Elastic's own agents replace, and blanks: a key of nothing else is refused. Keys
    that become the same are told apart by a number: ``a.b`` and ``a_b`` are ``a_b_2`` and ``a_b``.
    """
    fitting = {key: _NO_PART_OF_A_KEY.sub("_", key) for key in labels}
    taken = {key for key, made in fitting.items() if key == made}
    keyed: dict[str, str] = {}
    for key, made in fitting.items():
        unique, number = made, 2
        while key != unique and unique in taken:
            unique, number = f"{made}_{number}", number + 1
        taken.add(unique)
        keyed[unique] = labels[key]
    return keyed


def milliseconds(timestamp: str) -> int:
    """Return the whole milliseconds since 1970 of a record's timestamp (RFC 3339)."""
    return (datetime.fromisoformat(timestamp) - _EPOCH) // _MILLISECOND


def before(timestamp: str, duration_ms: float) -> str:
    """Return the timestamp so many milliseconds earlier, but none before 1970: a worker may report nonsense."""
    moment = datetime.fromisoformat(timestamp)
    moment -= min(timedelta(milliseconds=duration_ms), moment - _EPOCH)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null: in these formats a field that is not there says the same."""
    return {name: value for name, value in fields.items() if value is not None}
