"""How records are written: one renderer for each format of ``--log-format``, chosen once at the start."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import orjson

from mprelay.core.texts import CONTROL

Renderer: TypeAlias = Callable[[Mapping[str, Any]], bytes]
"""Returns a record as one whole line."""

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


def _text(record: Mapping[str, Any], *, alone: bool = False) -> bytes:
    aside = _aside(record)
    if alone and "client_ip" in record:
        aside = ", ".join(filter(None, (aside, _who(record))))
    message = f"{record['message']} ({aside})" if aside else record["message"]
    return f"{record['timestamp']} {record['level'].upper()} {message.translate(CONTROL)}\n".encode()


RENDERERS: Final[Mapping[Literal["json", "text", "text alone"], Renderer]] = {
    "json": partial(orjson.dumps, option=orjson.OPT_APPEND_NEWLINE),
    "text": _text,
    "text alone": partial(_text, alone=True),
}


def renderer(log_format: str, *, terminal: bool, log_detail: str = "full") -> Renderer:
    """Choose the renderer for ``--log-format``; ``auto`` depends on `terminal`: whether stdout is one.

    If little is recorded of a session, a line of text also says what the lines left out would have said.
    """
    if log_format == "text" or (log_format == "auto" and terminal):
        return RENDERERS["text alone" if log_detail == "session" else "text"]
    return RENDERERS["json"]
