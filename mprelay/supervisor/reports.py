"""What the workers say: heard, believed as far as it can be true, and acted on.

Rules:

1. At most so many events of one worker are heard in a turn: one that reports faster than we hear must not hold
   up the others.
2. What a worker says about its own sessions is believed, and nothing else is. A worker that tells what cannot be
   true is believed no more, and killed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from mprelay.core.protocol import Closed, Connected, Crashed, Event, Progress, Ready
from mprelay.core.roster import Roster, Silent
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.member import GRACE, Member

EVENTS_IN_TURN: Final = 1536
"""Events of one worker: 64 full frames, more than a pipe of 64 KiB holds."""

EVENTS_IN_PIPE: Final = 8192
"""Events of the shortest kind, one a frame: more than any pipe of 64 KiB holds."""

Report: TypeAlias = Connected | Progress | Closed
"""What a worker says about one of its sessions."""


class Reports:
    """Hears workers. `on_report` tells whether a report can be true, and does what it means."""

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
        """Hear what all workers have reported, up to about `most` events of each."""
        for member in self._members.values():
            self.hear(member, most)

    def hear(self, member: Member, most: int = EVENTS_IN_TURN) -> None:
        """Hear what a worker has reported, up to about `most` events."""
        reader = member.reader
        while most > 0:
            events = reader.take()
            if events:
                most -= len(events)
                self._believe(member, events)
            if events is None or reader.garbled:
                self._loop.unwatch(reader.fileno())  # the process is about to be gone
                return
            if not reader.more:
                return

    def _believe(self, member: Member, events: list[Event]) -> None:
        """Do what a worker's events mean, as long as they can be true."""
        on_report, number = self._on_report, member.number
        now = time.monotonic()  # later than each of these reports, however long this turn takes
        for event in events:
            match event:
                case Connected() | Closed() | Progress() if on_report(number, event, now):
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
        """Believe that a worker crashed, or that it lies. Either is its last report: nothing is read after it.

        A worker that crashed ends by itself, so that its exit code tells it; one that does not is killed.
        """
        self._roster.close(member.number)
        if not member.reader.garbled:
            member.reader.stop()
            member.trouble = f"crashed before it was ready: {event.error}"
            member.cancel_alarm()
            member.alarm = self._loop.after(GRACE, member.kill)
        else:
            member.kill()
            if not member.ready:
                member.trouble = f"is perhaps of another build, its first report was none: {event.error}"
                return
        self._recorder.unexpected(event.at, event.error, event.place, member.number)

    def end_silent(self, silent: Silent) -> None:
        """Record that a worker does not answer, and kill it; its burial does the rest."""
        member = self._members[silent.worker]
        self._roster.close(member.number)
        silent_s = round(self._loop.now - silent.since, 3)
        self._recorder.write(
            catalogue.WORKER_UNRESPONSIVE, worker=member.number, pid=member.pid, silent_s=silent_s
        )
        member.kill()
