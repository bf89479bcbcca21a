"""Finds the workers that do not answer for their sessions.

Rules:

1. No worker is asked whether it lives. The roster knows by when each session must have been reported, and the
   loop wakes up for that only if the report has not come. So an idle relay sleeps.
2. Nobody is judged before all that was reported has been heard. After the loop itself stood still, the workers
   get the time in which those that had no room in their queues report.
"""

from math import inf
from typing import Final

from mprelay.core.roster import PROGRESS_AFTER, SLACK, Roster
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.reports import EVENTS_IN_PIPE, Reports

_HEARING: Final = PROGRESS_AFTER + SLACK  # seconds until workers that had no room in their queues have reported


class Watchdog:
    """Wakes the loop when a report is overdue."""

    def __init__(self, loop: Loop, roster: Roster, reports: Reports) -> None:
        self._loop = loop
        self._roster = roster
        self._reports = reports
        self._judge_from = -inf
        """Before this moment no worker is judged; infinity: never."""
        self._alarm = loop.alarm(self._fall_due)
        """Not later than the moment at which a report is overdue: reports only ever put that off."""
        self.due = False
        """Whether a report is overdue now."""
        self.hasty = False
        """Whether the alarm is set for sessions that may have been reported since: see :meth:`put_off`."""

    def expect(self, now: float) -> None:
        """Expect the first report of sessions that were admitted now."""
        due = now + self._roster.first_report
        if not self._alarm.pending or self._alarm.when > due:
            self._alarm.move(due)
            self.hasty = True

    def put_off(self) -> None:
        """Wake nobody for sessions that have been reported since. Call it before each wait."""
        if not self._roster.unreported:
            self.hasty = False
            self._sleep()

    @property
    def judges_from(self) -> float:
        """The moment before which nobody is judged; infinity: never."""
        return max(self._judge_from, self._loop.late_at + _HEARING)

    def judge(self, now: float) -> None:
        """Hear all workers, and end those that have been late for too long. Call it when it is :attr:`due`."""
        self.due = False
        if now < self.judges_from:
            self._alarm.move(self.judges_from)
            return
        self._reports.hear_all(EVENTS_IN_PIPE)
        if self._judge_from == inf:  # what they said has ended the run
            return
        for silent in self._roster.judge(now):
            self._reports.end_silent(silent)
        self._sleep()

    def _sleep(self) -> None:
        """Wake when the next report is due, if any is."""
        due = self._roster.due()
        if due == inf:
            self._alarm.cancel()
        else:
            self._alarm.move(due)

    def stop(self) -> None:
        """Judge nobody any more."""
        self._judge_from = inf
        self._alarm.cancel()

    def _fall_due(self) -> None:
        self.due = True
