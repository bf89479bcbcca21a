"""The workers' reports: read, checked, and acted on.

Rules:

1. The number of events read from one worker in a turn is limited. A worker that reports faster than we read must
   not hold up the others.
2. A worker is believed about its own sessions and nothing else. A worker that reports something that cannot be
   true is no longer believed, and is killed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from mprelay.core.protocol import (
    Announced,
    Closed,
    Connected,
    Crashed,
    Event,
    Measured,
    NotAnnounced,
    Progress,
    Ready,
    Trying,
)
from mprelay.core.roster import Roster, Silent
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.member import GRACE, Member
from mprelay.system import oneway

EVENTS_IN_TURN: Final = 1536
"""Events read from one worker in a turn: more than a pipe of 64 KiB holds in full frames."""

EVENTS_IN_PIPE: Final = oneway.HOLDS // 8
"""More events than a worker's pipe holds, even of the shortest kind in a frame each."""

Report: TypeAlias = Trying | Connected | Progress | Measured | Closed | Announced | NotAnnounced
"""An event about one of a worker's sessions, or connections that are not judged yet."""


class Reports:
    """Reads what workers report. `on_report` acts on a report, and returns False if it cannot be true."""

    def __init__(
        self,
        loop: Loop,
        recorder: Recorder,
        roster: Roster,
        members: Mapping[int, Member],
        *,
        on_report: Callable[[int, Report, float], bool],
        on_ready: Callable[[Member, Ready], None],
    ) -> None:
        self._loop = loop
        self._recorder = recorder
        self._roster = roster
        self._members = members
        self._on_report = on_report
        self._on_ready = on_ready

    def hear_all(self, most: int = EVENTS_IN_TURN) -> None:
        """Read the reports of all workers, up to about `most` events of each."""
        for member in self._members.values():
            self.hear(member, most)

    def hear(self, member: Member, most: int = EVENTS_IN_TURN) -> None:
        """Read the reports of a worker, up to about `most` events."""
        reader = member.reader
        while most > 0:
            events = reader.take()
            most -= 1
            if events:
                most -= len(events)
                self._believe(member, events)
            if events is None or reader.garbled:
                self._loop.unwatch(reader.fileno())  # the process is ending, or about to be killed
                return
            if not reader.more:
                return

    def _believe(self, member: Member, events: list[Event]) -> None:
        """Act on a worker's events, as long as they can be true."""
        on_report, number = self._on_report, member.number
        now = time.monotonic()  # later than each of these reports, however long this turn takes
        for event in events:
            match event:
                case Connected() | Closed() | Progress() if on_report(number, event, now):
                    pass
                case Trying() | Measured() | Announced() | NotAnnounced() if on_report(number, event, now):
                    pass
                case Ready() if not member.ready:
                    self._on_ready(member, event)
                    if not member.ready:
                        return
                case Crashed():
                    self._on_crash(member, event)
                    return
                case _:
                    self._on_crash(member, member.reader.distrust(f"report that cannot be true: {event}"))
                    return

    def _on_crash(self, member: Member, event: Crashed) -> None:
        """Note that a worker crashed, or that it lies. Either is its last report: nothing is read after it.

        A worker that crashed exits by itself, so that its exit code shows it. A worker that does not is killed.
        """
        self._roster.close(member.number)
        if not member.reader.garbled:
            member.reader.stop()
            member.trouble = f"crashed before it was ready: {event.error}"
            member.cancel_alarm()
            self._loop.after(GRACE, member.kill)
        else:
            member.kill()
            if not member.ready:
                member.trouble = f"is perhaps of another build, its first report was none: {event.error}"
                return
        self._recorder.unexpected(event.at, event.error, event.place, member.number)

    def end_silent(self, silent: Silent) -> None:
        """Record that a worker is unresponsive, and kill it. Its burial does the rest."""
        member = self._members[silent.worker]
        self._roster.close(member.number)
        silent_s = round(self._loop.now - silent.since, 3)
        self._recorder.write(
            catalogue.WORKER_UNRESPONSIVE, worker=member.number, pid=member.pid, silent_s=silent_s
        )
        member.kill()
