"""Records as text for people: ``--log-format text``.

Control characters in labels, names and values are shown as escapes, so no value can colour, move or forge a line.
"""

from collections.abc import Mapping
from typing import Any, Final

from mprelay.core.texts import CONTROL

_COLOURS: Final = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
"""Select Graphic Rendition of each level (ECMA-48): faint, green, yellow, red, bold red."""

_ASIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "config.invalid": ("problem",),
    "timer.unavailable": ("detail",),
    "platform.init_failed": ("error", "detail"),
    "platform.unsupported": ("detail",),
    "listener.socket_failed": ("error",),
    "listener.bind_failed": ("error", "detail"),
    "listener.listen_failed": ("error",),
    "pool.start_failed": ("error", "detail"),
    "connection.accept_failed": ("error",),
    "worker.exited": ("signal",),
    "worker.start_failed": ("error",),
    "relay.expired": ("expires_at",),
    "relay.draining": ("signal",),
    "relay.stopped": ("reason",),
}
"""Fields that a line of text adds in brackets because the sentence leaves them out. JSON has all fields."""


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
        if record["event"] == "target.resolved":
            return ", ".join(record["addresses"])
        if record["event"] == "control.command":
            return ", ".join(f"{name} {value}" for name, value in record["arguments"].items())
        said = [record.get(name) for name in _ASIDE.get(record["event"], ())]
        if record.get("exitcode"):
            said.append(f"exit code {record['exitcode']}")
    return ", ".join(part for part in said if part and part not in record["message"])


def _who(record: Mapping[str, Any]) -> str:
    """Say who it was, and by which entry: of a connection whose other records are left out."""
    said = [f"{name} {record[f'{name}_ip']}" for name in ("client", "target", "proxy") if f"{name}_ip" in record]
    if "acl" in record:
        said.append(f"by {record['acl']}")
    return ", ".join(said)


def line(record: Mapping[str, Any], *, alone: bool = False, coloured: bool = False) -> bytes:
    """Return a record as one line: TIMESTAMP LEVEL message.

    `alone`: little is recorded of a session, so the line also says what other lines would have said.
    `coloured`: the level has its colour.
    """
    aside = _aside(record)
    if alone and "client_ip" in record:
        aside = ", ".join(filter(None, (aside, _who(record))))
    message = f"{record['message']} ({aside})" if aside else record["message"]
    level = record["level"].upper()
    if coloured:
        level = f"\x1b[{_COLOURS[level]}m{level}\x1b[0m"
    return f"{record['timestamp']} {level} {message.translate(CONTROL)}\n".encode()
