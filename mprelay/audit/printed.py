"""The report as text: tables and block characters, by rich. What a log holds is shown escaped."""

from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mprelay.audit import sections, story
from mprelay.audit.sections import FIGURES, UTC, Bad, Bytes, Cell, Lasted, Link, Named, Section, Serial, Time
from mprelay.audit.times import SECOND, briefly, moment, width_shown
from mprelay.audit.words import VERDICTS
from mprelay.ctl.figures import escaped

_GAP: Final = 2  # columns of a terminal around a cell
_STYLES: Final = {"whole": "green", "open": "yellow", "broken": "bold red"}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = " .:-=+*#@"  # where the terminal has no blocks


def show(report: Mapping[str, Any], stream: IO[str] | None = None) -> None:
    """Show a report to a person."""
    console = Console(file=stream, highlight=False)
    runs = report["runs"]
    said, extent = story.of_verdict(report)
    _say(console, said, _STYLES[report["verdict"]])
    for sentence in (extent, *story.of_files(report)):
        _say(console, sentence)
    if len(runs) > 1:
        _show(console, sections.of_runs(runs))
    for run in runs:
        _run(console, run, alone=len(runs) == 1)
    for section in sections.of_files(report):
        _show(console, section)


def _run(console: Console, run: Mapping[str, Any], *, alone: bool) -> None:
    console.print()
    _say(console, f"Run {run['relay_id'] or '?'}", "bold")
    if not alone:
        _say(console, VERDICTS[run["verdict"]], _STYLES[run["verdict"]])
    for sentence in (*story.of_seal(run["seal"]), *story.of_run(run)):
        _say(console, sentence)
    for one in run["findings"]:
        _say(console, f"! {one['text']}", "bold red" if one["grave"] else "yellow")
    console.print()
    door = Table(show_header=False, box=None)
    for name, value in story.of_door(run):
        door.add_row(Text(escaped(name), style="bold"), Text(escaped(value), overflow="fold"))
    console.print(door)
    _picture(console, run["timeline"])
    for section in sections.of_run(run):
        _show(console, section)


def _say(console: Console, sentence: str, style: str = "") -> None:
    console.print(Text(escaped(sentence), style=style))


def _picture(console: Console, timeline: Mapping[str, Any]) -> None:
    """Draw a line of blocks for each of what happened, each block one interval or several."""
    intervals = timeline["intervals"]
    if not intervals:
        return
    width = round(timeline["interval_s"] * SECOND)
    begin = moment(intervals[0]["begins"]) or 0
    room = max(10, min(console.width, 100))
    group = -(-len(intervals) // room)  # intervals to a block
    blocks = _ASCII if console.encoding.lower().replace("-", "") not in {"utf8", "utf16"} else _BLOCKS
    console.print()
    each = width_shown(width)
    for title, field in (("Sessions open within", "present"), ("Refused in", "refused"), ("Bytes in", "bytes")):
        counts = [one[field] for one in intervals]
        taken = [max(counts[place : place + group]) for place in range(0, len(counts), group)]
        peak = max(taken)
        amount = story.moved(peak) if field == "bytes" else f"{peak:,}"
        _say(console, f"{title} each {each}: " + (f"at most {amount}" if peak else "none"), "dim")
        if peak:
            console.print(Text("".join(blocks[-(-(len(blocks) - 1) * count // peak)] for count in taken)))
    end = begin + width * len(intervals)
    _say(console, f"{briefly(begin, width)} UTC to {briefly(end, width)} UTC", "dim")


def _show(console: Console, section: Section) -> None:
    console.print()
    _say(console, section.title, "bold")
    rows: list[Sequence[Cell]] = [*section.rows, *filter(None, [section.others])]
    widths = _widths([section.head, *rows], console.width)
    if widths is not None:
        console.print(_table(section, rows, widths))
    else:
        for row in rows:
            _listed(console, section.head, row)
    if section.more:
        _say(console, section.more, "dim")


def _widths(rows: Sequence[Sequence[Cell]], room: int) -> list[int] | None:
    """Return the widths of the columns of a table, in columns of the terminal. None: words would be torn."""
    columns = [*zip(*rows, strict=True)]
    widths = [max(map(_narrowest, column)) for column in columns]
    left = room - sum(widths) - _GAP * len(widths)
    if left < 0:
        return None
    wanted = [
        max(_cell(cell).cell_len for cell in column) - width
        for column, width in zip(columns, widths, strict=True)
    ]
    places = sorted(range(len(widths)), key=wanted.__getitem__)  # those that want little get all of it
    for done, place in enumerate(places):
        given = min(wanted[place], left // (len(places) - done))
        widths[place] += given
        left -= given
    return widths


def _table(section: Section, rows: Sequence[Sequence[Cell]], widths: Sequence[int]) -> Table:
    table = Table(box=None)
    for place, title in enumerate(section.head):
        figure = all(isinstance(row[place], FIGURES) for row in rows)
        table.add_column(title, justify="right" if figure else "left", overflow="fold", width=widths[place])
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row), style="dim" if row is section.others else None)
    return table


def _listed(console: Console, head: Sequence[str], row: Sequence[Cell]) -> None:
    """Show a row of a table that is too wide: each value behind its name. What is empty or 0 is left out."""
    line = Text(" ")
    for title, cell in zip(head, row, strict=True):
        if cell in {"", 0}:
            continue
        item = Text.assemble((f"{title.removesuffix(UTC)}:", "dim"), " ", _cell(cell))
        if isinstance(cell, Time):
            item.append(UTC.strip(" ()").rjust(4))
        if len(line) > 1 and line.cell_len + 2 + item.cell_len > console.width:
            console.print(line)
            line = Text("  ")
        line.append("  " if line.plain.strip() else "").append_text(item)
    console.print(line)


def _narrowest(cell: Cell) -> int:
    """Return how wide a cell must be, so that no word of it is torn. A figure and a time are one word."""
    text = _cell(cell)
    words = [text.plain] if isinstance(cell, (*FIGURES, Time)) else text.plain.split()
    return max(map(cell_len, words), default=0)


def _cell(cell: Cell) -> Text:
    style = ""
    match cell:
        case Time(stamp):
            shown = story.clock_of_column(stamp)
        case Bytes(count):
            shown = story.briefly_moved(count)
        case Lasted(seconds):
            shown = story.lasted(seconds)
        case Named(text, name):
            shown = f"{text} ({name})"
        case Bad(text):
            shown, style = text, "bold red"
        case Link(_, text):
            shown = text
        case Serial(number):
            shown = str(number)
        case int():
            shown = f"{cell:,}"
        case _:
            shown = str(cell)
    return Text(escaped(shown), style=style)
