"""The tables of a report: what stands in them, for the page and for the terminal alike. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from mprelay.audit import story
from mprelay.audit.words import REASONS, REFUSALS

Thing: TypeAlias = Mapping[str, Any]


class Serial(NamedTuple):
    """A number that names something and counts nothing: a session's, a uid."""

    number: int


class Bytes(NamedTuple):
    """A number of bytes."""

    number: int


class Lasted(NamedTuple):
    """How long something lasted, in seconds."""

    seconds: float


class Time(NamedTuple):
    """A timestamp of a record; None: not known. The title of its column says UTC."""

    stamp: str | None


class Named(NamedTuple):
    """A text for people, and the name that stands in records."""

    text: str
    name: str


class Bad(NamedTuple):
    """A text that must not be missed."""

    text: str


class Link(NamedTuple):
    """The name of a run, which leads to it."""

    number: int
    text: str


Cell: TypeAlias = str | int | Serial | Bytes | Lasted | Time | Named | Bad | Link


FIGURES: Final = (int, Serial, Bytes, Lasted)
"""The cells of a column that stands to the right."""

UTC: Final = " (UTC)"
"""Ends the title of a column of times."""


class Section(NamedTuple):
    """A table with its title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    others: Sequence[Cell] | None = None
    """The row of what has no row."""
    more: str | None = None
    """What else is to be said."""


_SPAN: Final = (f"first{UTC}", f"last{UTC}")
_SUMS: Final = ("sessions", "from clients", "from the target", "time in all", "with an error", *_SPAN)
_SESSION: Final = (
    "session",
    "client",
    "target",
    f"began{UTC}",
    "lasted",
    "from client",
    "from target",
    "why it ended",
)


def of_runs(runs: Sequence[Thing]) -> Section:
    """Return the table of all runs."""
    head = ("run", "verdict", "opened by", "labels", f"from{UTC}", f"to{UTC}", "sessions", "refused", "bytes")
    return Section("The runs", head, [_run(number, run) for number, run in enumerate(runs, 1)])


def of_run(run: Thing) -> Iterator[Section]:
    """Return the tables of a run, those without a row left out."""
    return (section for section in _of_run(run) if section.rows)


def of_files(report: Thing) -> Iterator[Section]:
    """Return what was read, and what could not be."""
    files = [(one["file"], one["records"], one["other_lines"]) for one in report["files"]]
    yield Section("What was read", ("file", "records", "other lines"), files)
    troubles = [
        (one["file"], Serial(one["line"]) if one["line"] else "", one["problem"]) for one in report["troubles"]
    ]
    if troubles:
        more = _more(report["troubles_count"], troubles)
        yield Section("What could not be read", ("file", "line", "what"), troubles, more=more)


def of_picture(run: Thing) -> Section:
    """Return the figures of the picture."""
    fields = ("present", "begun", "ended", "refused", "bytes")
    rows = [
        (Time(one["begins"]), *(one[field] for field in fields[:-1]), Bytes(one["bytes"]))
        for one in run["timeline"]["intervals"]
        if any(one[field] for field in fields)
    ]
    return Section("When", (f"from{UTC}", "sessions open", "begun", "ended", "refused", "bytes"), rows)


def _of_run(run: Thing) -> Iterator[Section]:
    door, unended, odd = run["door"], run["unended"], run["odd"]
    yield _checks(run)
    yield _sums("Why sessions ended", "why", run["reasons"], _reason)
    yield _sums("Clients", "client", run["clients"], lambda row: row["client_ip"])
    yield _refused(run["refused"])
    yield _causes(run["causes"])
    if len(run["targets"]["rows"]) > 1:
        yield _sums("Targets", "target", run["targets"], lambda row: row["target_ip"])
    yield _sums(
        "Rules that let clients in", "entry of the ACL", run["rules"], lambda row: row["acl"] or "not told"
    )
    yield _sums("Errors", "error", run["errors"], _error)
    yield Section("The longest sessions", (*_SESSION, "error"), [_session(one) for one in run["longest"]])
    yield Section("The sessions that moved most", (*_SESSION, "error"), [_session(one) for one in run["largest"]])
    yield Section(
        "Sessions that were killed, or lost by the relay",
        (*_SESSION, "error"),
        [_session(one) for one in odd["sessions"]],
        more=_more(odd["count"], odd["sessions"]),
    )
    yield Section(
        "Sessions without an end",
        _SESSION[:4],
        [_session(one)[:4] for one in unended["sessions"]],
        more=_more(unended["count"], unended["sessions"]),
    )
    yield Section(
        "Who steered the relay",
        (f"when{UTC}", "uid", "pid", "command", "result"),
        [_command(one) for one in door["commands"]],
        more=_left_out(door["commands_left_out"]),
    )
    yield Section(
        "What the relay recorded of itself",
        (f"when{UTC}", "level", "what"),
        [_happening(one) for one in door["happenings"]],
        more=_left_out(door["happenings_left_out"]),
    )


def _run(number: int, run: Thing) -> tuple[Cell, ...]:
    totals = run["totals"]
    verdict = run["verdict"]
    return (
        Link(number, run["relay_id"] or "?"),
        Bad(verdict) if verdict == "broken" else str(verdict),
        run["door"]["opened_by"] or "?",
        story.shortened(", ".join(f"{key}={value}" for key, value in run["door"]["labels"].items())),
        Time(run["first"]),
        Time(run["last"]),
        totals["sessions"],
        totals["refused"],
        Bytes(totals["bytes_from_client"] + totals["bytes_from_target"]),
    )


def _checks(run: Thing) -> Section:
    rows = [
        (
            one["what"],
            "agree" if one["agrees"] else Bad("DO NOT AGREE"),
            one["stated"],
            one["stated_by"],
            one["counted"],
            one["counted_by"],
        )
        for one in sorted(run["checks"], key=lambda one: bool(one["agrees"]))
    ]
    return Section("Do the figures agree?", ("figure", "result", "stated", "where", "counted", "what"), rows)


def _sums(title: str, name: str, table: Thing, key: Callable[[Thing], Cell]) -> Section:
    def row(first: Cell, one: Thing) -> tuple[Cell, ...]:
        return (
            first,
            one["sessions"],
            Bytes(one["bytes_from_client"]),
            Bytes(one["bytes_from_target"]),
            Lasted(one["duration_s"]),
            one["with_error"],
            Time(one["first"]),
            Time(one["last"]),
        )

    rows = [row(_at_least(key(one), one), one) for one in table["rows"]]
    return Section(title, (name, *_SUMS), rows, _others(table, row))


def _refused(table: Thing) -> Section:
    def row(first: Cell, one: Thing) -> tuple[Cell, ...]:
        return first, one["count"], *(one[kind] for kind in REFUSALS), Time(one["first"]), Time(one["last"])

    head = ("address", "refused", *REFUSALS.values(), *_SPAN)
    rows = [row(_at_least(one["client_ip"] or "several, summed up", one), one) for one in table["rows"]]
    return Section("Refused connections, by address", head, rows, _others(table, row))


def _causes(table: Thing) -> Section:
    def row(first: Cell, one: Thing) -> tuple[Cell, ...]:
        return first, one.get("cause") or "-", one["count"], Time(one["first"]), Time(one["last"])

    head = ("why", "what decided", "refused", *_SPAN)
    rows = [row(_at_least(REFUSALS.get(one["refused"], one["refused"]), one), one) for one in table["rows"]]
    return Section("Refused connections, by cause", head, rows, _others(table, row))


def _others(table: Thing, row: Callable[[Cell, Thing], tuple[Cell, ...]]) -> tuple[Cell, ...] | None:
    others = table["others"]
    if not others["rows"]:
        return None
    return row(f"{'at most ' if others['at_most'] else ''}{story.amount(others['rows'], 'other')}", others)


def _at_least(name: Cell, row: Thing) -> Cell:
    if not row["at_least"]:
        return name
    return Named(name.text if isinstance(name, Named) else str(name), "at least")


def _session(one: Thing) -> tuple[Cell, ...]:
    return (
        _serial(one["session"]),
        story.place(one["client_ip"], one["client_port"]),
        one["target_ip"],
        Time(one["begun"]),
        Lasted(one["duration_s"]),
        Bytes(one["bytes_from_client"]),
        Bytes(one["bytes_from_target"]),
        _reason(one),
        _error(one) if one["error"] else "",
    )


def _serial(number: int | None) -> Cell:
    return "?" if number is None else Serial(number)


def _reason(row: Thing) -> Cell:
    reason = row["reason"]
    return Named(REASONS[reason], reason) if reason in REASONS else str(reason)


def _error(row: Thing) -> str:
    return f"{row['error']}, {row['error_from']}" if row["error_from"] else str(row["error"])


def _command(one: Thing) -> tuple[Cell, ...]:
    return (
        Time(one["timestamp"]),
        _serial(one["peer_uid"]),
        _serial(one["peer_pid"]),
        one["command"],
        "done" if one["ok"] else f"refused: {one['problem'] or 'not told'}",
    )


def _happening(one: Thing) -> tuple[Cell, ...]:
    level = one["level"]
    return (
        Time(one["timestamp"]),
        Bad(level) if level in {"error", "critical"} else level,
        Named(one["message"], one["event"]),
    )


def _more(count: int, shown: Sequence[object]) -> str | None:
    return f"and {count - len(shown)} more" if count > len(shown) else None


def _left_out(count: int) -> str | None:
    return f"{count} between the first and the last hundred are left out." if count else None
