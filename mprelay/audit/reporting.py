"""``mprelayctl report``: reads the files once, and tells what they add up to.

    files ── lines ──▶ pieces ──┬─▶ verify ──▶ verdicts ──┐
                                └─▶ records ─▶ Totals ────┴─▶ report ─▶ page, text, JSON

Rules:

1. Every line that can be read is used, whatever is wrong with others. What is no record is named.
2. The page is written beside its place and then renamed: nobody ever sees a half of it.
3. Exit codes: 0 whole, 3 open, 1 broken, 2 usage. A log that is not sealed is whole if no record is missing and
   all figures agree. Lines that are no records break a sealed log. In another one they are only named.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mprelay.audit import report, seals
from mprelay.audit.forms import NotRecord, parsed, place_of, read
from mprelay.audit.lines import STDIN, Block, Piece, Trouble, Unreadable
from mprelay.audit.lines import read as read_lines
from mprelay.audit.output import complain, store
from mprelay.audit.page import page
from mprelay.audit.run import Word
from mprelay.audit.totals import Totals
from mprelay.audit.verify import CODES, Verifier
from mprelay.core.exits import Exit
from mprelay.core.texts import missing

TROUBLES: Final = 25
"""Of all that is no record, so many are named."""


class NotWritten(Exception):  # noqa: N818 - as the others are named
    """The page cannot be written; the text says why."""


class Reading:
    """The files of one report, read once."""

    def __init__(self, verifier: Verifier, *, sealed: bool = False) -> None:
        """Read with a verifier that has taken nothing yet; `sealed`: the log must be sealed."""
        self.totals = Totals()
        self._verifier = verifier
        self._sealed = sealed
        self._sealing = False  # whether a run is sealed
        self._files: list[dict[str, Any]] = []
        self._troubles: list[dict[str, Any]] = []
        self._count = 0  # of troubles
        self._verdict: Word = "whole"  # on the files as such

    def read(self, files: Sequence[str]) -> None:
        """Read files, in the order given. One that cannot be read does not keep others from it."""
        for file in files:
            name = "standard input" if file == STDIN else file
            self._files.append({"file": name, "records": 0, "other_lines": 0})
            try:
                for piece in read_lines([file]):
                    self._take(piece)
            except Unreadable as failure:
                self._verdict = "broken"
                self._note(name, None, str(failure).removeprefix(f"{file}: "))

    def report(self) -> dict[str, Any]:
        """Return the report of all that was read."""
        what = {"files": self._files, "troubles": self._troubles, "troubles_count": self._count, "hints": []}
        verdict = self._verifier.end()
        told = {
            one.relay_id: seals.told(one)
            for one in verdict.runs
            if self._sealed or ((run := self.totals.runs.get(one.relay_id)) is not None and run.door.sealed)
        }
        if not told and not self._sealed:
            return report.make(self.totals, {}, what, [self._verdict])
        what["hints"] = verdict.hints
        words: list[Word] = ["open" if fault.what == "cut" else "broken" for fault in verdict.faults]
        return report.make(self.totals, told, what, [self._verdict, *words])

    def _take(self, piece: Piece) -> None:
        if isinstance(piece, Block):
            for number, line in enumerate(piece.lines, piece.number):
                self._take_line(piece.file, number, line)
        else:
            self._take_trouble(piece)
        # The first line of a sealed run says that it is. Without one the verifier would have nothing to do.
        if self._sealed or self._is_sealed():
            self._verifier.take(piece)

    def _is_sealed(self) -> bool:
        self._sealing = self._sealing or any(run.door.sealed for run in self.totals.runs.values())
        return self._sealing

    def _take_trouble(self, trouble: Trouble) -> None:
        self._verdict = report.worst(self._verdict, "open" if trouble.kind == "cut" else "broken")
        self._note(trouble.file, trouble.number, trouble.problem)
        if trouble.text:  # a last line without a newline may be whole all the same
            with suppress(NotRecord):
                self._count_record(trouble.text)

    def _take_line(self, file: str, number: int, line: bytes) -> None:
        try:
            self._count_record(line)
        except NotRecord as wrong:
            self._files[-1]["other_lines"] += 1
            self._note(file, number, str(wrong))

    def _count_record(self, line: bytes) -> None:
        shaped = parsed(line)
        if "relay_id" in shaped and "severity" not in shaped:
            place_of(shaped)
            record = shaped
        else:
            record = read(shaped)
        self.totals.add(record)
        self._files[-1]["records"] += 1

    def _note(self, file: str, number: int | None, problem: str) -> None:
        self._count += 1
        if len(self._troubles) < TROUBLES:
            self._troubles.append({"file": file, "line": number, "problem": problem})


def run(files: Sequence[str], html: str | None, verifier: Verifier, *, sealed: bool, as_json: bool) -> int:
    """Report; return the exit code. `sealed`: the log must be."""
    reading = Reading(verifier, sealed=sealed)
    reading.read(files)
    made = reading.report()
    if html is not None:
        try:
            write(made, html, files)
        except NotWritten as failure:
            return complain(f"--html {failure}", Exit.USAGE)
    if as_json or not _show(made):
        print(json.dumps(made))  # noqa: T201 - ASCII, so that nothing in it is an order to a terminal
    word: Word = made["verdict"]
    return CODES[word]


def _show(made: dict[str, Any]) -> bool:
    """Show a report to a person. False: rich is not there, which makes the tables."""
    try:
        from mprelay.audit import printed  # noqa: PLC0415 - only for a person, and only where it is installed
    except ImportError as failure:
        complain(f"a report as text {missing('top', failure)}", Exit.OK)
        return False
    printed.show(made)
    return True


def write(made: dict[str, Any], out: str, files: Sequence[str]) -> None:
    """Write the page of a report. Raises NotWritten."""
    try:
        place = Path(out).resolve()  # a link stays one
        if place.exists():
            if not place.is_file():
                raise NotWritten(f"{out}: is no regular file")
            if any(file != STDIN and Path(file).exists() and place.samefile(file) for file in files):
                raise NotWritten(f"{out}: is one of the files that are to be reported")
        store(place, page(made))
    except OSError as failure:
        raise NotWritten(f"{out}: {failure.strerror or failure}") from None
