"""What a person sees of an answer: tables, by rich. What labels and rules hold is shown escaped."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mprelay.ctl.figures import address, escaped, size, span

_STATUS: Final = {
    "phase": "phase",
    "paused_by": "admission paused by",
    "relay_id": "relay",
    "pid": "pid",
    "version": "version",
    "listen_ip": "listens on",
    "listen_port": "port",
    "target_host": "target",
    "target_port": "port of the target",
    "acl": "ACL",
    "uptime_s": "up for",
    "expires_at": "expires at",
    "expires_in_s": "expires in",
    "extensible_s": "can be extended by",
    "active": "sessions",
    "max_sessions": "sessions at most",
    "attempts": "connections",
    "admitted": "admitted",
    "rejected": "rejected",
    "limited": "limited",
    "abandoned": "abandoned",
    "exhausted": "without a slot",
    "proxy_invalid": "without a PROXY header",
    "bytes_from_client": "from clients",
    "bytes_from_target": "from the target",
    "backlog": "records that wait",
}
_SIZES: Final = {"bytes_from_client", "bytes_from_target", "backlog", "rss"}
_TIMES: Final = {"uptime_s", "expires_in_s", "extensible_s", "age_s", "idle_s"}
_COLUMNS: Final = {
    "session": "session",
    "client": "client",
    "target": "target",
    "worker": "worker",
    "age_s": "age",
    "idle_s": "idle",
    "bytes_from_client": "from client",
    "bytes_from_target": "from target",
}


def show(command: str, answer: Any) -> None:  # noqa: ANN401 - as the command has it
    """Show the answer to a command that looks."""
    _show_status(answer) if command == "status" else _show_sessions(answer)


def _show_status(status: Mapping[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name, title in _STATUS.items():
        if status.get(name) is not None:
            table.add_row(Text(title, style="bold"), plain(shown(name, status[name])))
    for key, value in status["labels"].items():
        table.add_row(plain(f"label {key}"), plain(value))
    for reason, count in status["closed"].items():
        table.add_row(plain(f"closed: {reason}"), plain(count))
    for worker in status["workers"]:
        table.add_row(
            plain(f"worker {worker['worker']}"), plain(f"sessions: {worker['sessions']}, pid {worker['pid']}")
        )
    Console(highlight=False).print(table)


def _show_sessions(sessions: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None)
    for name, title in _COLUMNS.items():
        table.add_column(title, justify="left" if name in {"client", "target"} else "right", overflow="fold")
    for session in sessions:
        table.add_row(*(plain(cell) for cell in cells(session)))
    console = Console(highlight=False)
    console.print(table)
    console.print(plain(f"sessions: {len(sessions)}"))


def cells(session: Mapping[str, Any]) -> list[str]:
    """Return the cells of a session, as its row shows them."""
    ends = {
        "client": address(session["client_ip"], session["client_port"]),
        "target": address(session["target_ip"], session["target_port"]),
    }
    return [ends.get(name) or shown(name, session.get(name)) for name in _COLUMNS]


def shown(name: str, value: object) -> str:
    """Show a value as a person reads it: bytes with a unit, seconds as a time."""
    if value is None:
        return "-"
    if name in _SIZES and isinstance(value, int):
        return size(value)
    if name in _TIMES and isinstance(value, int | float):
        return span(value)
    return str(value)


def plain(value: object) -> Text:
    """Make a cell that nothing in it can turn into markup, or into an order to the terminal."""
    return Text(escaped(str(value)))
