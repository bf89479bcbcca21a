"""What `mprelayctl top` shows, made of the relay's answers. Pure: no terminal, no clock, no connection.

    status, sessions ──▶ Sample ──▶ lines ──▶ chosen (filter, order) ──▶ cells ──▶ changes since the last sample

The first sample of a session or of a worker gives no rate: that takes two.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, TypeAlias

from mprelay.ctl.figures import address, escaped, size, span

SAMPLES: Final = 4
"""How many samples a rate is made of, the first and the last of them. Workers report once a second, so from one
sample to the next there may be no report, or two."""

Cells: TypeAlias = tuple[str, ...]
"""What stands in the columns of a row."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    width: int  # characters, at least; a longer value makes the column wider
    figures: bool = True
    largest_first: bool = False  # that is what somebody looks for in it


COLUMNS: Final = {
    "session": Column("no.", 6),
    "client": Column("client", 15, figures=False),
    "worker": Column("worker", 8),
    "age": Column("age", 7, largest_first=True),
    "idle": Column("idle", 7, largest_first=True),
    "from_client": Column("up", 8, largest_first=True),
    "from_target": Column("down", 8, largest_first=True),
    "rate": Column("per s", 8, largest_first=True),
    "target": Column("target", 15, figures=False),
}
"""The columns of the sessions. Most have the same target, so that is what a narrow terminal leaves out."""

WORKER_COLUMNS: Final = {
    "worker": Column("worker", 6),
    "pid": Column("pid", 7),
    "cpu": Column("CPU", 5),
    "rss": Column("RSS", 8),
    "sessions": Column("sessions", 8),
}
"""The columns of the workers."""

KEYS: Final = ("1-9 sort", "r reverse", "/ filter", "k kill", "q quit")
"""What the footer says. The number of a column stands in its title."""

_REFUSALS: Final = ("rejected", "limited", "abandoned", "proxy_invalid", "exhausted")
_SEPARATOR: Final = " · "


class Usage(NamedTuple):
    """What a process has used."""

    cpu_s: float
    rss: int  # bytes


class Sample(NamedTuple):
    """What the relay said at one moment."""

    at: float  # monotonic seconds
    status: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]
    usages: Mapping[int, Usage]  # by pid; of workers that can be seen from here


class Line(NamedTuple):
    """A session."""

    session: int
    client_ip: str
    client_port: int
    target_ip: str | None
    target_port: int
    worker: int | None
    age: float  # seconds
    idle: float  # seconds
    from_client: int  # bytes
    from_target: int
    rate: float | None  # bytes a second, both ways; None: not known yet

    @property
    def client(self) -> str:
        """Show the client's address and port."""
        return escaped(address(self.client_ip, self.client_port))

    @property
    def target(self) -> str:
        """Show the target's address and port."""
        return escaped(address(self.target_ip, self.target_port))


class Changes(NamedTuple):
    """How the rows of a table differ from those that it shows."""

    gone: list[str]
    come: dict[str, Cells]
    changed: list[tuple[str, int, str]]  # key of the row, number of the column, text


def lines_of(samples: Sequence[Sample]) -> list[Line]:
    """Make a line of each session of the last sample. Its rate is that since the first sample in which it was."""
    now = samples[-1]
    first: dict[int, tuple[float, int]] = {}
    for sample in samples:
        for one in sample.sessions:
            first.setdefault(one["session"], (sample.at, _moved(one)))
    return [
        Line(
            session=one["session"],
            client_ip=one["client_ip"],
            client_port=one["client_port"],
            target_ip=one["target_ip"],
            target_port=one["target_port"],
            worker=one.get("worker"),
            age=one["age_s"],
            idle=one["idle_s"],
            from_client=one["bytes_from_client"],
            from_target=one["bytes_from_target"],
            rate=rate(*first[one["session"]], now.at, _moved(one)),
        )
        for one in now.sessions
    ]


def _moved(session: Mapping[str, Any]) -> int:
    total: int = session["bytes_from_client"] + session["bytes_from_target"]
    return total


def rate(since: float, before: float, at: float, after: float) -> float | None:
    """Return the growth for each second between two moments, or None if they are one."""
    return (after - before) / (at - since) if at > since else None


def chosen(lines: Iterable[Line], words: str, column: str, *, reverse: bool) -> list[Line]:
    """Return the lines that match each of the words, in the order of a column, and of their numbers in it."""
    wanted = words.casefold().split()
    found = [line for line in lines if all(_matches(line, word) for word in wanted)]
    found.sort(key=lambda line: line.session)
    found.sort(key=lambda line: _rank(line, column), reverse=reverse)
    return found


def _matches(line: Line, word: str) -> bool:
    """Tell whether a word is part of an address, or names the worker: 2, or w2 as its process is named."""
    if word in line.client.casefold() or word in line.target.casefold():
        return True
    return line.worker is not None and word in {f"{line.worker}", f"w{line.worker}"}


def _rank(line: Line, column: str) -> tuple[float, ...]:
    """Return where a line stands in the order of a column. What is not known is less than anything."""
    if column == "client":
        return _address_rank(line.client_ip, line.client_port)
    if column == "target":
        return _address_rank(line.target_ip, line.target_port)
    value = getattr(line, column)
    return () if value is None else (value,)


def _address_rank(ip: str | None, port: int) -> tuple[float, ...]:
    if ip is None:
        return (0, 0, port)
    found = ip_address(ip)
    return (found.version, int(found), port)


def cells(line: Line) -> Cells:
    """Return what stands in the columns of a session."""
    return (
        str(line.session),
        line.client,
        "-" if line.worker is None else str(line.worker),
        span(line.age),
        span(line.idle),
        size(line.from_client),
        size(line.from_target),
        "-" if line.rate is None else size(line.rate),
        line.target,
    )


def titles(column: str, *, reverse: bool) -> list[str]:
    """Return the titles of the sessions' columns: the key to sort by each, and which way the chosen one goes."""
    mark = "▼" if reverse else "▲"
    return [
        f"{number}{mark if name == column else ' '}{one.title}"
        for number, (name, one) in enumerate(COLUMNS.items(), 1)
    ]


def widths(before: Iterable[int], rows: Iterable[Sequence[str]]) -> list[int]:
    """Return how wide columns must be for these rows. They never become narrower."""
    found = [*before]
    for row in rows:
        found = [max(width, len(text)) for width, text in zip(found, row, strict=True)]
    return found


def worker_rows(samples: Sequence[Sample]) -> dict[str, Cells]:
    """Return what stands in the columns of each worker, by its number."""
    now = samples[-1]
    first: dict[int, tuple[float, float]] = {}
    for sample in samples:
        for pid, usage in sample.usages.items():
            first.setdefault(pid, (sample.at, usage.cpu_s))
    rows: dict[str, Cells] = {}
    for worker in now.status["workers"]:
        seen = now.usages.get(worker["pid"])
        share = None if seen is None else rate(*first[worker["pid"]], now.at, seen.cpu_s)
        rows[str(worker["worker"])] = (
            str(worker["worker"]),
            str(worker["pid"]),
            "-" if share is None else f"{share:.0%}",
            "-" if seen is None else size(seen.rss),
            str(worker["sessions"]),
        )
    return rows


def changes(shown: Mapping[str, Cells], wanted: Mapping[str, Cells]) -> Changes:
    """Compare the rows that a table shows with those that it shall show."""
    return Changes(
        gone=[key for key in shown if key not in wanted],
        come={key: row for key, row in wanted.items() if key not in shown},
        changed=[
            (key, number, text)
            for key, row in wanted.items()
            if (old := shown.get(key)) is not None and old != row
            for number, text in enumerate(row)
            if text != old[number]
        ],
    )


def facts(status: Mapping[str, Any]) -> list[str]:
    """Return what the relay does, the most important first."""
    phase = status["phase"]
    if status["paused_by"] is not None:
        phase += f", paused by {status['paused_by']}"
    left = status["expires_in_s"]
    return [
        escaped(phase),
        f"{status['active']}/{status['max_sessions']} sessions",
        "never expires" if left is None else f"expires in {span(max(0, left))}",
        f"attempts {status['attempts']}",
        f"refused {sum(status[kind] for kind in _REFUSALS)}",
        f"from clients {size(status['bytes_from_client'])}",
        f"from target {size(status['bytes_from_target'])}",
    ]


def origin(status: Mapping[str, Any]) -> list[str]:
    """Return which relay this is: where it listens, where it leads, and its labels."""
    listener = address(status["listen_ip"], status["listen_port"])
    target = address(status["target_host"], status["target_port"])
    return [
        escaped(f"{listener} → {target}"),
        *(escaped(f"{key}={value}") for key, value in status["labels"].items()),
    ]


def packed(parts: Iterable[str], width: int, height: int) -> str:
    """Put whole parts into lines of a width. The last line of the height has the rest, cut at the width."""
    lines: list[str] = []
    for part in parts:
        if lines and (len(lines) == height or len(lines[-1]) + len(_SEPARATOR) + len(part) <= width):
            lines[-1] += _SEPARATOR + part
        else:
            lines.append(part)
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)
