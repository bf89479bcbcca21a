"""Whether a log is whole: one state machine for each run in it. Pure. See docs/seal.md, "What a verifier does".

    piece ── its lines ──▶ run, by relay_id ──▶ seq as expected? ── any record ──────▶ into the tree
                                                   │                 log.key ────────▶ signed for this place?
                                                   │                 log.checkpoint ─▶ hash, signature, root
                                                   └ no ─▶ the first fault of this run; the rest tells more of it

Rules:

1. Runs are independent of each other: they may follow each other, or be mixed, in one file or in several.
2. A line that is no record is a fault, because no run has written it.
3. The last line of a file that has no newline counts for nothing. Somebody may be writing it, so the log is open.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from orjson import loads

from mprelay.audit.forms import NotRecord, parsed, place_of
from mprelay.audit.lines import Piece, Trouble
from mprelay.audit.run import CHECKPOINT, KEY, Check, Fault, Place, Run, RunVerdict, What, Word
from mprelay.seal.notes import Note, origin_of

RUNS_LIMIT: Final = 10_000
"""How many runs may be verified at once: each takes memory until the end."""

FAULTS_LIMIT: Final = 100
"""How many faults that belong to no run are kept."""

CODES: Final[Mapping[Word, int]] = {"whole": 0, "open": 3, "broken": 1}
"""The exit code of each verdict."""

_TOO_MANY: Final = f"is of one run more than {RUNS_LIMIT}: verify fewer at once"
_WORST: Final[tuple[Word, ...]] = ("broken", "open", "whole")
_SHOWN: Final = 5  # runs, of many
_SEALS: Final = {KEY, CHECKPOINT}
_MARKS: Final = {b"\xef\xbb\xbf": "a byte order mark", b"\xff\xfe": "the byte order mark of UTF-16"}


class Verdict(NamedTuple):
    """What is known of all that was read."""

    verdict: Word
    """The worst of all."""
    runs: list[RunVerdict]
    faults: list[Fault]
    """What belongs to no run: the first few."""
    hints: list[str]
    """What may have happened."""


class Verifier:
    """Takes what :func:`mprelay.audit.lines.read` gives, and tells what it is worth."""

    def __init__(
        self,
        check: Check,
        keys: Collection[bytes] = (),
        notes: Iterable[Note] | None = None,
        anchored: Iterable[Note] = (),
    ) -> None:
        """Expect runs whose keys were signed by one of `keys` (none: by anybody), and that notes agree.

        `notes` were kept elsewhere, and are meant for these runs (None: there are none). Those of `anchored` may
        be of others.
        """
        self._check = check
        self._keys = frozenset(keys)
        self._notes: dict[str, list[Note]] = {}
        for note in notes or ():
            self._notes.setdefault(note.checkpoint.origin, []).append(note)
        self._noted = None if notes is None else dict.fromkeys(self._notes)  # origins, in their order
        for note in anchored:
            self._notes.setdefault(note.checkpoint.origin, []).append(note)
        self._runs: dict[str, Run] = {}
        self._faults: list[Fault] = []
        self._words: set[Word] = set()
        self._file = ""
        self._begun = 0  # files

    def take(self, piece: Piece) -> None:
        """Take what comes next."""
        if piece.file != self._file or piece.number == 1:
            self._file = piece.file
            self._begun += 1
        if isinstance(piece, Trouble):
            self._trouble(piece)
            return
        run: Run | None = None
        relay_id, expected, event = "", 0, ""  # of that run; 0: a line of any seq is looked at
        start = 0  # where those lines begin that are as expected, and not in its tree yet
        for index, line in enumerate(piece.lines):
            # A line as most are takes little time here, and no call of ours if its format has our own names.
            try:
                shaped = loads(line)
                if expected and shaped.get("seq") == expected:
                    seq, of, kind = expected, shaped["relay_id"], shaped["event"]
                else:
                    of, seq, kind = place_of(shaped)
                if of == relay_id and seq == expected and kind not in _SEALS:
                    event = kind
                    expected += 1
                    continue
            except (ValueError, KeyError, TypeError, AttributeError):
                pass
            if run is not None and index > start:
                run.extend(piece.lines[start:index], expected, event)
            start = index + 1
            run = self._take_line(Place(piece.file, piece.number + index), line)
            if run is None:
                expected = 0
            else:
                relay_id, expected, event = run.relay_id, run.expected, run.event
        if run is not None and len(piece.lines) > start:
            run.extend(piece.lines[start:], expected, event)

    def _take_line(self, place: Place, line: bytes) -> Run | None:
        """Take a line that something is special about. Return its run; None: it is of none."""
        try:
            shaped = parsed(line)
            relay_id, seq, event = place_of(shaped)
        except NotRecord as wrong:
            self._no_record(place, line, str(wrong))
            return None
        run = self._run(relay_id)
        if run is None:
            self._fail(Fault("too many", _TOO_MANY, place, seq))
            return None
        run.enter(self._begun, place.file, seq)
        run.take(place, line, shaped, seq, event)
        return run

    def run_of(self, relay_id: str) -> Run | None:
        """Return a run as it is now; None: it has not begun."""
        return self._runs.get(relay_id)

    def end(self) -> Verdict:
        """Say what all that is worth."""
        for run in self._runs.values():
            run.end()
        runs = [run.verdict() for run in self._runs.values()]
        faults = self._faults
        if not runs:
            faults = [*faults, Fault("unsealed", "nothing in it is sealed")]
        words = {run.verdict for run in runs} | self._words | ({"broken"} if not runs else set())
        return Verdict(
            next(word for word in _WORST if word in words),
            runs,
            faults,
            [*self._hints(), *self._hints_of_notes()],
        )

    def _hints(self) -> Iterator[str]:
        """Say what may have happened to files rather than to lines."""
        for run in self._runs.values():
            if run.fault is None or len(run.files) == 1:
                continue
            in_order = sorted(run.files, key=lambda file: file[1])
            follow = all(left[2] + 1 == right[1] for left, right in pairwise(in_order))
            if follow and in_order != run.files:
                names = ", ".join(file for file, _, _ in in_order)
                yield f"Run {run.relay_id} needs its files in another order: {names}."
            elif run.fault.what == "twice" and run.fault.seq in {first for _, first, _ in run.files[1:]}:
                yield f"Lines of run {run.relay_id} are in two files: was one given twice?"

    def _hints_of_notes(self) -> Iterator[str]:
        """Say which runs are in the files, or in the notes, alone: there nothing was compared."""
        if self._noted is None:
            return
        seen = {origin_of(relay_id): relay_id for relay_id in self._runs}
        if alone := [relay_id for origin, relay_id in seen.items() if origin not in self._noted]:
            its = "its" if len(alone) == 1 else "their"
            yield f"The notes have no checkpoint of {_some(alone)}: they cannot show that {its} end is missing."
        if others := [origin.removeprefix(origin_of("")) for origin in self._noted if origin not in seen]:
            yield f"The notes also have checkpoints of {_some(others)}, of which these files have no line."

    def _run(self, relay_id: str) -> Run | None:
        """Return the run that a line belongs to; None: there are too many."""
        run = self._runs.get(relay_id)
        if run is None and len(self._runs) < RUNS_LIMIT:
            run = self._runs[relay_id] = Run(
                relay_id, self._check, self._keys, self._notes.pop(origin_of(relay_id), ())
            )
        return run

    def _fail(self, fault: Fault) -> None:
        self._words.add("open" if fault.what == "cut" else "broken")
        if len(self._faults) < FAULTS_LIMIT:
            self._faults.append(fault)

    def _trouble(self, trouble: Trouble) -> None:
        what: What = "cut" if trouble.kind == "cut" else "file"
        self._fail(Fault(what, trouble.problem, Place(trouble.file, trouble.number)))

    def _no_record(self, place: Place, line: bytes, problem: str) -> None:
        for mark, name in _MARKS.items():
            if line.startswith(mark):
                problem = f"{problem}: it begins with {name}, so a program has rewritten the file"
        self._fail(Fault("no record", problem, place))


def _some(relay_ids: Sequence[str]) -> str:
    """Name runs, or the first of many."""
    shown, more = ", ".join(relay_ids[:_SHOWN]), len(relay_ids) - _SHOWN
    return (
        f"run {shown}" if len(relay_ids) == 1 else f"the runs {shown}" + (f" and {more} more" if more > 0 else "")
    )
