"""The report as one HTML file: no script, nothing from elsewhere, fit for a printer and a telephone. Pure.

Rules:

1. All that a log holds passes :mod:`mprelay.audit.markup`, which shows it as text.
2. The policy lets a browser use the style that is in the file, by its hash, and nothing else.
3. The picture has no text of its own, so it can be of any width. A table below has its figures.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from itertools import starmap
from typing import Final

from mprelay.audit import sections, story
from mprelay.audit.markup import Html, tag, together
from mprelay.audit.sections import FIGURES, Bad, Bytes, Cell, Lasted, Link, Named, Section, Serial, Thing, Time
from mprelay.audit.times import SECOND, briefly, moment, width_shown
from mprelay.audit.words import VERDICTS, WHAT_IT_MEANS

_STYLE: Final = resources.files(__package__).joinpath("page.css").read_text("utf-8")
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of the page."""

_MARKS: Final = {"whole": "✓", "open": "…", "broken": "✗"}
_LONG: Final = 40  # characters of a text that gets more room
_WORD: Final = 24  # characters of one that is not broken: an IPv4 address and a port, for example
_HEIGHT: Final = 100  # of a picture, in its own units


def page(report: Thing) -> bytes:
    """Return the whole file."""
    runs = report["runs"]
    several = len(runs) > 1
    body = together(
        tag("a", "To the report", class_="skip", href="#report"),
        tag("h1", "What went through the door"),
        _verdict(report),
        tag(
            "main",
            _overview(runs) if several else None,
            *(_run(number, run, several=several) for number, run in enumerate(runs, 1)),
            _read(report),
            id="report",
        ),
        _footer(report),
    )
    head = together(
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="referrer" content="no-referrer">'),
        tag("title", f"mprelay report: {report['verdict']}"),
        Html(f"<style>{_STYLE}</style>"),
    )
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n".encode()


def _verdict(report: Thing) -> Html:
    verdict = report["verdict"]
    alone = len(report["runs"]) == 1
    said, extent = story.of_verdict(report)
    return tag(
        "div",
        tag("strong", f"{_MARKS[verdict]} {said}"),
        tag("p", extent),
        *(tag("p", sentence) for sentence in story.of_files(report)),
        *(tag("p", sentence) for run in report["runs"][:1] for sentence in story.of_seal(run["seal"]) if alone),
        class_=f"verdict {verdict}",
    )


def _overview(runs: Sequence[Thing]) -> Html:
    section = sections.of_runs(runs)
    return together(tag("h2", section.title, id="runs"), _table("runs", section))


def _run(number: int, run: Thing, *, several: bool) -> Html:
    name = f"run-{number}"
    title = f"Run {run['relay_id'] or '?'}" if several else f"The run {run['relay_id'] or '?'}"
    return tag(
        "section",
        tag("h2", title, id=name),
        tag("div", *_of_verdict(run), class_=f"verdict {run['verdict']}") if several else None,
        *(tag("p", sentence) for sentence in story.of_run(run)),
        *_findings(run),
        _door(run),
        _picture(name, run),
        *(_section(name, section) for section in sections.of_run(run)),
        aria_labelledby=name,
    )


def _of_verdict(run: Thing) -> Iterator[Html]:
    yield tag("strong", f"{_MARKS[run['verdict']]} {VERDICTS[run['verdict']]}")
    for sentence in story.of_seal(run["seal"]):
        yield tag("p", sentence)


def _findings(run: Thing) -> Iterator[Html]:
    if run["findings"]:
        yield tag(
            "ul",
            *(tag("li", one["text"], class_="bad" if one["grave"] else "open") for one in run["findings"]),
        )


def _door(run: Thing) -> Html:
    return together(
        tag("h3", "The door"),
        tag(
            "dl",
            *(
                tag("div", tag("dt", name), tag("dd", value), class_="long" if len(value) > _LONG else None)
                for name, value in story.of_door(run)
            ),
        ),
    )


# -- the picture ---------------------------------------------------------------------------------------------


def _picture(name: str, run: Thing) -> Html | None:
    timeline = run["timeline"]
    intervals = timeline["intervals"]
    if not intervals:
        return None
    width = round(timeline["interval_s"] * SECOND)
    each = width_shown(width)
    lanes = (
        (f"Sessions that were open within each {each}", "present", "sessions", lambda most: f"{most:,}"),
        (f"Connections that were refused in each {each}", "refused", "refused", lambda most: f"{most:,}"),
        (f"Bytes of the sessions that ended in each {each}", "bytes", "bytes", story.moved),
    )
    begins = [moment(one["begins"]) or 0 for one in intervals]
    ends = (begins[0], begins[len(begins) // 2], begins[-1] + width)
    return tag(
        "div",
        tag("h3", "When", id=f"{name}-when"),
        *starmap(
            lambda title, field, kind, most: _lane(title, [one[field] for one in intervals], kind, most), lanes
        ),
        _marks(run, begins[0], width * len(intervals)),
        tag("p", *(tag("span", f"{briefly(end, width)} UTC") for end in ends), class_="axis dim"),
        tag(
            "details",
            tag("summary", "The figures of this picture"),
            _table(f"{name}-when", sections.of_picture(run)),
        ),
        class_="picture",
    )


def _lane(title: str, counts: Sequence[int], kind: str, most: Callable[[int], str]) -> Html:
    peak = max(counts)
    said = f"{title}: at most {most(peak)}" if peak else f"{title}: none"
    bars = "".join(
        f"M{place} {_HEIGHT}V{_HEIGHT - _height(count, peak)}h.92V{_HEIGHT}z"
        for place, count in enumerate(counts)
        if count
    )
    return tag(
        "figure",
        tag("figcaption", f"{said}."),
        tag(
            "svg",
            tag("path", d=bars, class_=kind) if bars else None,
            viewBox=f"0 0 {len(counts)} {_HEIGHT}",
            preserveAspectRatio="none",
            role="img",
            aria_label=said,
        ),
    )


def _height(count: int, peak: int) -> int:
    """Return the height of a bar: one that is not empty can be seen."""
    return max(3, _HEIGHT * count // peak)


def _marks(run: Thing, begin: int, width: int) -> Html | None:
    """Mark what the relay recorded of itself."""
    happened = run["door"]["happenings"]
    if not happened:
        return None
    paths = []
    for kind, levels in (("calm", {"info", "warning"}), ("grave", {"error", "critical"})):
        places = {
            1000 * (when - begin) // width
            for one in happened
            if one["level"] in levels and (when := moment(one["timestamp"])) is not None
        }
        bars = "".join(f"M{min(max(place, 0), 996)} 0h3V10h-3z" for place in sorted(places))
        if bars:
            paths.append(tag("path", d=bars, class_=kind))
    said = "What the relay recorded of itself (listed below), errors in red"
    return tag(
        "figure",
        tag("figcaption", f"{said}."),
        tag(
            "svg",
            *paths,
            viewBox="0 0 1000 10",
            preserveAspectRatio="none",
            role="img",
            aria_label=said,
            class_="marks",
        ),
    )


# -- the tables ----------------------------------------------------------------------------------------------


def _section(name: str, section: Section) -> Html:
    """Return a table with its title."""
    own = f"{name}-{''.join(char if char.isalnum() else '-' for char in section.title.lower())}"
    return together(
        tag("h3", section.title, id=own),
        _table(own, section),
        tag("p", section.more, class_="dim") if section.more else None,
    )


def _table(labelled_by: str, section: Section) -> Html:
    """Make a table. Columns of figures stand to the right."""
    rows = [*section.rows, *filter(None, [section.others])]
    figures = [all(isinstance(row[place], FIGURES) for row in rows) for place in range(len(section.head))]
    titles = zip(section.head, figures, strict=True)
    head = (tag("th", title, scope="col", class_="n" if figure else None) for title, figure in titles)
    body = (_row(row, figures, None) for row in section.rows)
    others = None if section.others is None else _row(section.others, figures, "others")
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body, others)),
        class_="wide",
        tabindex=0,
        role="region",
        aria_labelledby=labelled_by,
    )


def _row(row: Sequence[Cell], figures: Sequence[bool], kind: str | None) -> Html:
    cells = (
        tag("td", _cell(cell), class_="n" if figure else _kind_of(cell))
        for cell, figure in zip(row, figures, strict=True)
    )
    return tag("tr", *cells, class_=kind)


def _kind_of(cell: Cell) -> str | None:
    if isinstance(cell, Time):
        return "t"
    if isinstance(cell, Named):
        return "long"
    if isinstance(cell, Link) and len(cell.text) <= _WORD:
        return "word"
    if isinstance(cell, str) and len(cell) <= _WORD and " " not in cell:
        return "word"
    return "long" if isinstance(cell, str) and len(cell) > _LONG else None


def _cell(cell: Cell) -> object:
    match cell:
        case Time(stamp):
            return "not known" if stamp is None else tag("time", story.clock_of_column(stamp), datetime=stamp)
        case Bytes(count):
            exact, _, rough = story.moved(count).partition(" (")
            return together(exact, tag("small", rough.removesuffix(")")) if rough else None)
        case Lasted(seconds):
            return story.lasted(seconds)
        case Named(text, name):
            return together(text, tag("small", tag("code", name)))
        case Bad(text):
            return tag("span", text, class_="bad")
        case Link(number, text):
            return tag("a", text, href=f"#run-{number}")
        case Serial(number):
            return number
        case int():
            return f"{cell:,}"
    return cell


# -- the end -------------------------------------------------------------------------------------------------


def _read(report: Thing) -> Html:
    first, *others = sections.of_files(report)
    return tag(
        "section",
        tag("h2", first.title, id="read"),
        _table("read", first),
        *(_section("read", section) for section in others),
        aria_labelledby="read",
    )


def _footer(report: Thing) -> Html:
    said = (*WHAT_IT_MEANS, f"Made by {report['made_by']}.")
    return tag("footer", *(tag("p", paragraph) for paragraph in said))
