"""The rules are read again while the relay runs: by a process of their own, and swapped in one step.

    SIGHUP ─▶ begin ─▶ process reads and builds ─▶ its end ─┬─ a list: swapped; acl.reloaded
                                                            └─ anything else: the old one stays; acl.reload_failed

Rules:

1. The loop waits for nothing. What goes to the process is sent when there is room, what comes is taken when it is
   there, and nothing is judged before the process has ended.
2. A list with a wrong entry, a process that died, hung, or is of another build: the list in force stays, and a
   record says why.
3. A call during a reading begins another one after it. What changed meanwhile is not missed.
"""

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from mprelay import reading
from mprelay.config.rules import Loaded, Reread, Rules, Wrong
from mprelay.core.acl import Acl
from mprelay.core.protocol import CloseReason
from mprelay.core.texts import PROBLEM_LIMIT, cut, quoted, shown
from mprelay.core.unexpected import describe
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.supervisor.book import Book
from mprelay.supervisor.helper import Helper
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.orders import Orders
from mprelay.system import signals

_LIMIT: Final = 60.0  # seconds for one reading

Told: TypeAlias = Callable[[dict[str, Any]], None]
"""Is told what came of a reading: `ok` and the figures of ``acl.reloaded``, or `error`."""


class Reload:
    """Reads the rules again. `on_read` puts the new list in force."""

    def __init__(
        self,
        loop: Loop,
        rules: tuple[Rules, Loaded],
        *,
        recorder: Recorder,
        book: Book,
        orders: Orders,
        on_read: Callable[[Acl], None],
        ends_sessions: bool,
    ) -> None:
        self._loop = loop
        self._rules, loaded = rules
        self._digests = loaded.digests
        self._recorder = recorder
        self._book = book
        self._orders = orders
        self._on_read = on_read
        self._ends_sessions = ends_sessions
        self._had_terminal = signals.has_terminal()
        self._again = False
        self._process: Helper | None = None
        self._answer = bytearray()  # what the process has answered so far
        self._judging = False  # sessions are judged by the new list, in several turns
        self._asking: list[Told] = []  # who asked for the reading that is under way
        self._asking_again: list[Told] = []  # … for the next one
        self._too_long = loop.unset_alarm(self._give_up)

    @property
    def busy(self) -> bool:
        """Whether the rules are being read, or sessions are judged by them."""
        return self._process is not None or self._judging

    def is_meant(self, number: int) -> bool:
        """Tell whether a signal asks for a reading. A terminal that hangs up sends the same one."""
        return number == signals.HANGUP and not (self._had_terminal and not signals.has_terminal())

    def begin(self, then: Told | None = None) -> None:
        """Read the rules, or once more if they are being read; then tell what came of it."""
        if then is not None:
            self._asking_again.append(then)
        if self.busy:
            self._again = True
            return
        self._again = False
        self._asking, self._asking_again = self._asking_again, []
        self._answer.clear()
        question = pickle.dumps(self._rules, pickle.HIGHEST_PROTOCOL) + self._digests.tobytes()
        try:
            self._process = Helper(
                self._loop,
                reading.main,
                "mprelay: rules",
                question,
                on_part=self._answer.extend,
                on_end=self._on_end,
            )
        except OSError as failure:
            self._failed(f"no process could be started to read it: {failure.strerror}")
            return
        self._too_long.move(self._loop.now + _LIMIT)

    def disappoint(self) -> None:
        """Tell those who have asked for a reading that the relay ends first."""
        self._asking += self._asking_again
        self._asking_again = []
        self._tell({"ok": False, "error": "the relay ended before the ACL was read"})

    def stop(self) -> bool:
        """Read no more. True: the process is still there, though it was killed."""
        self._again = False
        self._too_long.cancel()
        if self._process is None:
            return False
        process, self._process = self._process, None
        return process.abandon()

    def _give_up(self) -> None:
        if self._process is not None:
            self._process.kill(f"has not ended after {_LIMIT:g} seconds")

    def _on_end(self, how: str, good: bool) -> None:  # noqa: FBT001 - called by the helper
        """Act on what the process answered before its end."""
        self._process = None
        self._too_long.cancel()
        if not good:
            self._failed(f"the process that reads it {how}")
        else:
            try:
                given = pickle.loads(self._answer)  # noqa: S301 - our own process, of this build
            except Exception as unexpected:  # noqa: BLE001 - of this build, but perhaps not of this code
                self._failed(f"the process that reads it gave no list: {describe(unexpected)}")
            else:
                self._judge(given)
        if not self._judging:
            self._next()

    def _next(self) -> None:
        if self._again:
            self.begin()

    def _judge(self, found: Reread) -> None:
        if found.loaded is None:
            for wrong in found.wrong:
                self._record(wrong.file, wrong.line, _problem(wrong))
            self._tell({"ok": False, "error": cut(_problem(found.wrong[0]), PROBLEM_LIMIT)})
            return
        self._digests = found.loaded.digests
        acl = found.loaded.acl
        self._on_read(acl)
        self._judging = True
        self._orders.end_those(
            self._book.ledger.all_active() if self._ends_sessions else [],
            lambda session: not acl.decide(session.client_ip).allowed,
            CloseReason.ACL_REVOKED,
            partial(self._reloaded, len(acl), found),
        )

    def _reloaded(self, entries: int, found: Reread, ended: int) -> None:
        """Record the reading. The sessions of clients that are no longer allowed have been ended."""
        figures = {"entries": entries, "added": found.added, "removed": found.removed, "ended": ended}
        self._recorder.write(catalogue.ACL_RELOADED, None, **figures)
        self._tell({"ok": True, **figures})
        self._judging = False
        self._next()

    def _failed(self, why: str) -> None:
        self._record(None, None, why)
        self._tell({"ok": False, "error": cut(why, PROBLEM_LIMIT)})

    def _tell(self, outcome: dict[str, Any]) -> None:
        """Tell those who asked what came of the reading."""
        asking, self._asking = self._asking, []
        for told in asking:
            told(outcome)

    def _record(self, file: str | None, line: int | None, problem: str) -> None:
        self._recorder.write(
            catalogue.ACL_RELOAD_FAILED,
            file=None if file is None else shown(file),
            line=line,
            problem=cut(problem, PROBLEM_LIMIT),
        )


def _problem(wrong: Wrong) -> str:
    place = f" in {wrong.place}" if wrong.place else ""
    return f"{'the entry' if wrong.text is None else quoted(wrong.text)}{place} {wrong.problem}"
