"""Finds unresponsive workers: those that do not report their sessions in time.

Rules:

1. No worker is asked whether it lives. The roster knows when the next report of each session is due, and the loop
   wakes up only if a report is missing then. So an idle relay sleeps.
2. No worker is judged before all its reports have been read. After the loop itself stood still, workers first get
   the time to report what had no room in their queues.
"""

from math import inf
from typing import Final

from mprelay.core.roster import PROGRESS_AFTER, SLACK, Roster
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.reports import EVENTS_IN_PIPE, Reports

_CATCH_UP_TIME: Final = PROGRESS_AFTER + SLACK  # seconds in which workers report what had no room in their queues


class Watchdog:
    """Wakes the loop when a report is overdue."""

    def __init__(self, loop: Loop, roster: Roster, reports: Reports) -> None:
        self._loop = loop
        self._roster = roster
        self._reports = reports
        self._judge_from = -inf
        """Before this moment (monotonic) no worker is judged. Infinity: none is judged any more."""
        self._alarm = loop.unset_alarm(self._fall_due)
        """Never set later than the moment at which a report is overdue. Reports only put that moment off."""
        self.due = False
        """Whether a report is overdue now."""
        self.may_be_early = False
        """Whether the alarm waits for sessions that may have been reported since: see :meth:`postpone`."""

    def expect(self, now: float) -> None:
        """Expect the first report of sessions admitted at `now` (monotonic, seconds)."""
        due = now + self._roster.first_report
        if not self._alarm.pending or self._alarm.when > due:
            self._alarm.move(due)
            self.may_be_early = True

    def postpone(self) -> None:
        """Put the alarm off if the sessions it waits for have been reported. Call it before each wait."""
        if not self._roster.unreported:
            self.may_be_early = False
            self._sleep()

    @property
    def judges_from(self) -> float:
        """The moment (monotonic) before which no worker is judged. Infinity: none is judged any more."""
        return max(self._judge_from, self._loop.late_at + _CATCH_UP_TIME)

    def judge(self, now: float) -> None:
        """Read all reports, and kill the workers that have been late for too long. Call it if :attr:`due`."""
        self.due = False
        if now < self.judges_from:
            self._alarm.move(self.judges_from)
            return
        self._reports.hear_all(EVENTS_IN_PIPE)
        if self._judge_from == inf:  # a report has ended the run
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
        """Judge no worker any more."""
        self._judge_from = inf
        self._alarm.cancel()

    def _fall_due(self) -> None:
        self.due = True
