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
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Final

from mprelay import reading
from mprelay.channel.build import BUILD
from mprelay.config.rules import Loaded, Reread, Rules, Wrong
from mprelay.core.acl import Acl
from mprelay.core.ledger import Session
from mprelay.core.protocol import CloseReason
from mprelay.core.texts import PROBLEM_LIMIT, cut, quoted, shown
from mprelay.core.unexpected import describe
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.supervisor.book import Book
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.orders import Orders
from mprelay.system import oneway, signals, spawning

_LIMIT: Final = 60.0  # seconds for one reading
_PART: Final = 256 * 1024  # bytes of one read
_SESSIONS_IN_TURN: Final = 1000  # judged again in one turn: a millisecond or two


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
        self._process: _Process | None = None
        self._judging = False  # sessions are judged by the new list, in several turns
        self._too_long = loop.unset_alarm(self._give_up)

    def is_meant(self, number: int) -> bool:
        """Tell whether a signal asks for a reading. A terminal that hangs up sends the same one."""
        return number == signals.HANGUP and not (self._had_terminal and not signals.has_terminal())

    def begin(self) -> None:
        """Read the rules, or once more if they are being read."""
        if self._process is not None or self._judging:
            self._again = True
            return
        self._again = False
        try:
            self._process = _Process(self._loop, self._rules, self._digests.tobytes(), self._on_end)
        except OSError as failure:
            self._failed(f"no process could be started to read it: {failure.strerror}")
            return
        self._too_long.move(self._loop.now + _LIMIT)

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

    def _on_end(self, answer: bytes, how: str) -> None:
        """Act on what the process answered before its end."""
        self._process = None
        self._too_long.cancel()
        build, newline, found = answer.partition(b"\n")
        if not newline:
            self._failed(f"the process that reads it {how}")
        elif build != BUILD.encode():
            other = shown(build.decode(errors="replace"))
            self._failed(f"the process that reads it is of another build: {other}, this relay is {BUILD}")
        else:
            try:
                given = pickle.loads(found)  # noqa: S301 - our own process, of this build
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
            return
        self._digests = found.loaded.digests
        acl = found.loaded.acl
        self._on_read(acl)
        sessions = self._book.ledger.all_active() if self._ends_sessions else []
        self._judging = True
        self._end_sessions(acl, sessions, found, 0)

    def _end_sessions(self, acl: Acl, sessions: list[Session], found: Reread, count: int) -> None:
        """End the sessions whose clients are no longer allowed, a part in each turn; then record the reading."""
        now, later = sessions[:_SESSIONS_IN_TURN], sessions[_SESSIONS_IN_TURN:]
        revoked = [session for session in now if not acl.decide(session.client_ip).allowed]
        self._orders.end(revoked, CloseReason.ACL_REVOKED)
        count += len(revoked)
        if later:
            self._loop.after(0, partial(self._end_sessions, acl, later, found, count))
            return
        self._recorder.write(
            catalogue.ACL_RELOADED, entries=len(acl), added=found.added, removed=found.removed, ended=count
        )
        self._judging = False
        self._next()

    def _failed(self, why: str) -> None:
        self._record(None, None, why)

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


class _Process:
    """One reading: the process, what it still has to be told, and what it has answered so far."""

    def __init__(self, loop: Loop, rules: Rules, digests: bytes, on_end: Callable[[bytes, str], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        # Not with the arguments: spawn writes those to a pipe, and would wait for ever for a child that died.
        self._untold = memoryview(pickle.dumps(rules, pickle.HIGHEST_PROTOCOL) + digests)
        self._answer = bytearray()
        self._trouble: str | None = None
        with ExitStack() as undo:
            theirs_in, ours_out = oneway.pipe()
            undo.callback(ours_out.close)
            with theirs_in:
                ours_in, theirs_out = oneway.pipe()
                undo.callback(ours_in.close)
                with theirs_out:
                    self._words = spawning.FirstWords()
                    undo.callback(self._words.close)
                    process: BaseProcess = spawning.start(
                        reading.main, (theirs_in, theirs_out), "mprelay: rules", self._words
                    )
            self._process = process
            for step in (process.close, process.join, process.kill):  # undone from the last
                undo.callback(step)
            spawning.tie(process)
            self._sentinel = spawning.Sentinel(process)
            undo.callback(self._sentinel.close)
            self._reader = oneway.Reader(ours_in)
            self._writer: oneway.Writer | None = oneway.Writer(ours_out)
            undo.callback(self._writer.close)
            loop.watch(self._reader.fileno(), self._hear)
            undo.callback(loop.unwatch, self._reader.fileno())
            loop.watch(self._sentinel.fileno(), self._bury)
            undo.callback(loop.unwatch, self._sentinel.fileno())
            loop.watch(self._writer.fileno(), self._tell, oneway.Writer.ROOM)
            undo.pop_all()
        self._tell()

    def _tell(self) -> None:
        """Send as much of the question as there is room for, and the end after it."""
        writer = self._writer
        if writer is None:
            return
        try:
            while self._untold:
                sent = writer.write(bytes(self._untold[: oneway.ATOMIC]))
                self._untold = self._untold[sent:]
            writer.check_room()  # where a write may be pending, its end would be lost with it
        except BlockingIOError:
            return
        except OSError:
            pass  # it is gone, or will be
        self._end_telling()

    def _end_telling(self) -> None:
        if self._writer is not None:
            self._loop.unwatch(self._writer.fileno())
            self._writer.close()
            self._writer = None

    def _hear(self) -> None:
        """Take what the process has answered so far."""
        with suppress(BlockingIOError):
            part = self._reader.read(_PART)
            if not part:
                self._loop.unwatch(self._reader.fileno())
            self._answer += part

    def kill(self, trouble: str) -> None:
        """End the process, because of `trouble`."""
        self._trouble = trouble
        with suppress(OSError):
            self._process.kill()

    def _bury(self) -> None:
        """Take the rest of the answer of a process that has ended, and give everything back."""
        self._process.kill()  # the sentinel may be readable slightly before its end
        self._process.join()
        self._reader.expect_end()
        with suppress(BlockingIOError):
            while part := self._reader.read(_PART):
                self._answer += part
        code = self._process.exitcode or 0
        self._close()
        self._process.close()
        answer = b"" if code or self._trouble else bytes(self._answer)
        how = f"exit code {code}" if code >= 0 else signals.name(-code)
        why = f": {self._words.last}" if self._words.last else ""
        self._on_end(answer, self._trouble or f"ended with {how}{why}")

    def abandon(self) -> bool:
        """Kill the process, and wait for nothing. True: it is still there."""
        self.kill("")
        self._close()
        self._process.join(0.1)
        return self._process.exitcode is None

    def _close(self) -> None:
        self._end_telling()
        self._loop.unwatch(self._reader.fileno())
        self._loop.unwatch(self._sentinel.fileno())
        self._reader.close()
        self._sentinel.close()
        self._words.end()
