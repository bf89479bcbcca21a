"""What the records of a log add up to, run by run. Pure, and in bounded memory.

    records, in the order of the files ──▶ Totals ──▶ one Run for each relay_id ──▶ its Door, its Traffic

Rules:

1. Records may come in any order, and the runs interleaved: all figures are sums, sets, or the first and the last.
2. A record may be anything that JSON can say. A field that is not of its type counts as absent.
3. A record whose `seq` was there before is counted as `twice`, and as nothing else.
4. Tables, lists and the number of runs have limits. What does not fit is counted, so that sums stay exact.
"""

from typing import Final

from mprelay.audit.door import Door
from mprelay.audit.fields import Record, text, texts, whole
from mprelay.audit.serials import Numbers
from mprelay.audit.times import SECOND, Moment, moment
from mprelay.audit.traffic import Traffic

RUNS: Final = 1_000
"""Runs that are told apart."""

_AT_WORK: Final = 16  # runs that have large tables
_BACK: Final = SECOND  # by how much times may step back in the order of seq (docs/contract.md: milliseconds)
_LABELS: Final = 50
_OF_TRAFFIC: Final = ("connection.", "session.")
_ENDS: Final = {"relay.active", "relay.stopped"}  # the picture reaches from the one to the other
_BEHIND_THE_END: Final = {"log.checkpoint", "log.key"}  # may follow relay.stopped


class Run:
    """The figures of one run."""

    def __init__(self, relay_id: str | None) -> None:
        self.relay_id = relay_id
        """None: its lines name no run, so they may be of several."""
        self.door = Door()
        self.traffic = Traffic()
        self.labels: dict[str, str] = {}
        self.records = 0
        self.seqs = Numbers()
        self.twice = 0
        """Records whose `seq` was there before."""
        self.first: Moment | None = None
        self.last: Moment | None = None
        self.timeless = 0
        """Records without a time that can be read."""
        self.steps_back = 0
        """How often the time stepped back by more than a second."""
        self.furthest_back = 0
        """Microseconds."""
        self._before: tuple[int, Moment] = (0, 0)  # seq and time of the record before
        self._end: int | None = None  # the seq of relay.stopped
        self._furthest = 0  # the largest seq of a record that must not stand behind it

    def add(self, record: Record) -> None:
        """Count a record."""
        seq = whole(record, "seq")
        if seq is not None and not self.seqs.add(seq):
            self.twice += 1
            return
        self.records += 1
        event = text(record, "event") or ""
        when = moment(record.get("timestamp"))
        if when is None:
            self.timeless += 1
        else:
            self._note_time(seq, when)
        if seq is not None:
            if event == "relay.stopped":
                self._end = seq
            if event not in _BEHIND_THE_END and seq > self._furthest:
                self._furthest = seq
        if not self.labels and "labels" in record:
            self.labels = texts(record, "labels", _LABELS)
        if event.startswith(_OF_TRAFFIC) and event != "connection.accept_failed":
            self.traffic.add(record, event, when)
        else:
            self.door.add(record, event, when)
            if event in _ENDS and when is not None:
                self.traffic.timeline.add(when)

    def _note_time(self, seq: int | None, when: Moment) -> None:
        if self.first is None or when < self.first:
            self.first = when
        if self.last is None or when > self.last:
            self.last = when
        if seq is not None:
            before, then = self._before
            if seq == before + 1 and when < then - _BACK:
                self.steps_back += 1
                self.furthest_back = max(self.furthest_back, then - when)
            self._before = seq, when

    @property
    def behind_the_end(self) -> bool:
        """Whether a record stands behind ``relay.stopped`` that must not be there."""
        return self._end is not None and self._furthest > self._end

    @property
    def full(self) -> bool:
        """Whether the log has every message, so that each session has a beginning of its own."""
        detail = None if self.door.active is None else text(self.door.active, "log_detail")
        return bool(self.traffic.accepted.count or self.traffic.attempts) if detail is None else detail == "full"


class Totals:
    """The runs of a log."""

    def __init__(self) -> None:
        self.runs: dict[str | None, Run] = {}
        """By their relay_id, in the order of their first records."""
        self.records = 0
        self.left_out = 0
        """Records of runs beyond :data:`RUNS`."""
        self._at_work: dict[str | None, Run] = {}

    def add(self, record: Record) -> None:
        """Count a record."""
        self.records += 1
        relay_id = text(record, "relay_id")
        run = self.runs.get(relay_id)
        if run is None:
            if len(self.runs) >= RUNS:
                self.left_out += 1
                return
            run = self.runs[relay_id] = self._at_work[relay_id] = Run(relay_id)
            if len(self._at_work) > _AT_WORK:
                self._at_work.pop(next(iter(self._at_work))).traffic.shrink()
        run.add(record)
