"""Whether the figures of a run agree, and what else somebody should look at. Pure.

Rules:

1. A figure that the relay states is set beside what the log's records add up to. Both are told where they differ.
2. `grave` is what the whole log of a run cannot have: a record that is missing or was added, or figures that
   contradict each other. All else is a remark.
3. A run without ``relay.stopped`` has no totals of its own. Then the records are held against each other only.
"""

from itertools import islice
from typing import Final, NamedTuple

from mprelay.audit.fields import counts, flag, text, whole
from mprelay.audit.serials import Numbers
from mprelay.audit.times import SECOND, moment, shown
from mprelay.audit.totals import Run
from mprelay.audit.traffic import FROM_CLIENT, FROM_TARGET, KINDS, SESSIONS

_GAPS: Final = 5  # that are named
_LATE: Final = 2 * SECOND  # docs/contract.md: an expiry takes a second


class Check(NamedTuple):
    """Two figures that must be the same."""

    what: str
    stated: int
    stated_by: str
    counted: int
    counted_by: str

    @property
    def agrees(self) -> bool:
        """Whether they are."""
        return self.stated == self.counted


class Finding(NamedTuple):
    """Something that a reader of the report must know."""

    grave: bool
    text: str


def checks(run: Run) -> list[Check]:
    """Return all pairs of figures of a run."""
    return [*_within(run), *_against_the_end(run)]


def _within(run: Run) -> list[Check]:
    """Return what the records of a log say of each other."""
    traffic = run.traffic
    made = [Check("records", run.seqs.largest, "the highest seq", run.seqs.count, "different seq in the log")]
    if run.full and run.door.stopped is not None:  # a log that is cut may be cut between two records of a moment
        refused = sum(traffic.outcomes.values())
        made.append(
            Check(
                *(
                    "connections",
                    traffic.attempts + traffic.summed_up,
                    "connection.attempt, and sums of refusals",
                ),
                *(refused + traffic.accepted.count, "connections that were admitted or refused"),
            )
        )
        begun, ended = traffic.accepted.count, traffic.closed.count
        made.append(Check("sessions", begun, "connection.accepted", ended, "session.closed"))
    return made


def _against_the_end(run: Run) -> list[Check]:
    """Return what ``relay.stopped`` says, and what was counted."""
    stopped, traffic = run.door.stopped, run.traffic
    if stopped is None:
        return []
    total = traffic.reasons.total()
    refused = sum(traffic.outcomes.values())
    stated_closed = counts(stopped, "closed")
    counted = {
        "attempts": refused + total[SESSIONS],
        **traffic.outcomes,
        "admitted": total[SESSIONS],
        "bytes_from_client": total[FROM_CLIENT],
        "bytes_from_target": total[FROM_TARGET],
    }
    by = "relay.stopped"
    made = [
        Check(name, whole(stopped, name) or 0, by, count, "counted in the log") for name, count in counted.items()
    ]
    reasons = {**dict.fromkeys(stated_closed, 0), **{key: row.counts[0] for key, row in traffic.reasons.rows()}}
    made += [
        Check(
            f"closed: {reason}",
            stated_closed.get(reason, 0),
            by,
            traffic.reasons[reason][0],
            "counted in the log",
        )
        for reason in reasons
    ]
    outcomes = sum(whole(stopped, name) or 0 for name in (*KINDS, "admitted"))
    made.append(Check("attempts", whole(stopped, "attempts") or 0, by, outcomes, "sum of its own outcomes"))
    closed = sum(stated_closed.values())
    made.append(Check("admitted", whole(stopped, "admitted") or 0, by, closed, "sum of its own reasons"))
    return made


def findings(run: Run, made: list[Check]) -> list[Finding]:
    """Return what somebody should look at, the grave first. `made` are the checks of the run."""
    found = [*_of_records(run), *_of_sessions(run)]
    found += [
        Finding(
            grave=True,
            text=f"{one.what}: {one.stated:,} ({one.stated_by}), but {one.counted:,} ({one.counted_by}).",
        )
        for one in made
        if not one.agrees and one.what != "records"  # that has been said
    ]
    found += _of_the_door(run)
    return sorted(found, key=lambda one: not one.grave)


def _of_records(run: Run) -> list[Finding]:
    found = []
    missing = run.seqs.largest - run.seqs.count
    if missing > 0:
        where = ranges(run.seqs) if run.seqs.exact else "in more places than can be told"
        found.append(Finding(grave=True, text=f"{_of(missing, 'record')} missing: seq {where}."))
    if run.twice:
        found.append(
            Finding(grave=True, text=f"{_of(run.twice, 'record')} there twice, and counted once (by their seq).")
        )
    if run.door.stops > 1:
        found.append(Finding(grave=True, text=f"relay.stopped is there {run.door.stops} times."))
    if run.behind_the_end:
        found.append(Finding(grave=True, text="There are records behind relay.stopped, which is the last one."))
    if run.timeless:
        found.append(Finding(grave=True, text=f"{_of(run.timeless, 'record')} without a time."))
    if run.steps_back:
        back = run.furthest_back / SECOND
        found.append(
            Finding(
                grave=False,
                text=f"The clock was set back {run.steps_back} times, by {back:.3f} s at most. Times before and "
                "after that do not compare.",
            )
        )
    return found


def _of_sessions(run: Run) -> list[Finding]:
    traffic = run.traffic
    found = []
    if traffic.closed_twice:
        found.append(
            Finding(
                grave=True, text=f"{_of(traffic.closed_twice, 'session.closed')} for a session that was closed."
            )
        )
    if traffic.nameless:
        found.append(Finding(grave=True, text=f"{_of(traffic.nameless, 'session.closed')} without a session."))
    unclosed = traffic.closed.largest - traffic.closed.count
    if unclosed > 0 and run.door.stopped is not None and traffic.closed.exact:
        found.append(
            Finding(grave=True, text=f"{_of(unclosed, 'session')} without an end: {ranges(traffic.closed)}.")
        )
    return found


def _of_the_door(run: Run) -> list[Finding]:
    door = run.door
    found = []
    if door.stopped is None and not door.never_opened:
        found.append(
            Finding(
                grave=False,
                text="There is no relay.stopped: the relay still runs, or it was killed, or the end of the log "
                "is missing. So the relay's own totals are not known.",
            )
        )
    if door.active is None and not door.never_opened:
        found.append(Finding(grave=False, text="There is no relay.active: who opened the door is not known."))
    if door.active is not None and flag(door.active, "clock_synchronised") is False:
        found.append(
            Finding(grave=False, text="The machine's clock was not synchronised, so all times may be wrong.")
        )
    until = moment(door.until)
    end = None if door.stopped is None else moment(door.stopped.get("timestamp"))
    if until is not None and end is not None and end > until + _LATE:
        found.append(
            Finding(
                grave=False,
                text=f"The door was open until {shown(end)}, and was to close at {shown(until)}.",
            )
        )
    if door.stopped is not None and text(door.stopped, "reason") == "failed" and not door.never_opened:
        found.append(Finding(grave=False, text="The relay has failed: its own records say why."))
    return found


def stays_open(run: Run) -> bool:
    """Whether the log of a run ends before the run does."""
    return run.door.stopped is None and not run.door.never_opened


def ranges(numbers: Numbers) -> str:
    """Name the gaps: 3, 5 to 9, and 17 more places."""
    gaps = list(islice(numbers.gaps(), _GAPS + 1))
    named = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in gaps[:_GAPS])
    return named if len(gaps) <= _GAPS else f"{named}, and more"


def _of(count: int, what: str) -> str:
    """Say how many there are: 1 record is, 2 records are."""
    return (
        f"{count} {what} is"
        if count == 1
        else f"{count:,} {what}s are"
        if "." not in what
        else f"{count:,} {what} are"
    )
