"""The target's name is looked up again and again, by a helper. What it stands for goes to the workers.

    start ─▶ process looks up ── an answer ─▶ what does it change? ─▶ workers, records
               │ ends, or hangs: the same as a resolver that fails
               └─▶ another one, after a while

The loop waits for nothing. The answer in force stays there until there is another one.
"""

import pickle
from typing import Final

import orjson

from mprelay import resolving
from mprelay.config.targets import Target
from mprelay.core.answers import Answer, Answers, answer_of
from mprelay.core.protocol import Targets
from mprelay.core.texts import PROBLEM_LIMIT, cut
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.helper import Helper
from mprelay.supervisor.loop import Loop
from mprelay.system import names

_LATE: Final = names.PATIENCE + 25.0  # seconds behind the interval in which an answer must come
_TELL_PAUSE: Final = 1.0  # seconds between two changes that are told
_PAUSE: Final = 10.0  # seconds until another process is started in the place of one that has ended


class Resolver:
    """Keeps the addresses of the target's name up to date."""

    def __init__(
        self,
        loop: Loop,
        target: Target,
        first: Answer,
        interval: float,
        *,
        recorder: Recorder,
        writer: Writer,
        book: Book,
        crew: Crew,
    ) -> None:
        self._loop = loop
        self._target = target
        self._interval = interval
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self._crew = crew
        self._answers = Answers(first)
        book.target_ip = first.addresses[0]
        self._process: Helper | None = None
        self._part = b""  # the beginning of an answer
        self._begin_again = loop.unset_alarm(self._begin)
        self._tell_later = loop.unset_alarm(self._tell)
        self._too_long = loop.unset_alarm(self._give_up)

    def start(self) -> None:
        """Record what the name stands for, and look it up from now on."""
        self._tell()
        self._begin(self._interval)

    def stop(self) -> bool:
        """Look up no more. True: the process is still there, though it was killed."""
        self._begin_again.cancel()
        self._tell_later.cancel()
        self._too_long.cancel()
        if self._process is None:
            return False
        process, self._process = self._process, None
        return process.abandon()

    def _begin(self, pause: float = 0.0) -> None:
        self._part = b""
        question = pickle.dumps((self._target, self._interval, pause), pickle.HIGHEST_PROTOCOL)
        try:
            self._process = Helper(
                self._loop,
                resolving.main,
                "mprelay: resolver",
                question,
                on_part=self._hear,
                on_end=self._on_end,
            )
        except OSError as failure:
            self._no_process(f"no process could be started for it: {failure.strerror}")
            return
        self._expect()

    def _expect(self) -> None:
        self._too_long.move(self._loop.now + self._interval + _LATE)

    def _give_up(self) -> None:
        if self._process is None:
            return
        self._process.hear()  # if this loop stood still, an answer may wait
        if not self._too_long.pending:
            self._process.kill(f"has not answered for {self._interval + _LATE:g} seconds")

    def _on_end(self, how: str, _good: bool) -> None:  # noqa: FBT001 - called by the helper
        self._process = None
        self._too_long.cancel()
        self._no_process(f"the process that looks it up {how}")

    def _no_process(self, why: str) -> None:
        self._take(Answer(None, None, None, why))
        self._begin_again.move(self._loop.now + _PAUSE)

    def _hear(self, part: bytes) -> None:
        *whole, self._part = (self._part + part).split(b"\n")
        for line in whole:
            try:
                answer = answer_of(orjson.loads(line))
            except ValueError as wrong:
                if self._process is not None:
                    self._process.kill(f"gave no answer: {wrong}")
                return
            self._take(answer)
            self._expect()

    def _take(self, answer: Answer) -> None:
        if self._answers.take(answer):
            addresses = self._answers.addresses
            self._book.target_ip = next(iter(addresses), None)
            targets = Targets(addresses, self._answers.error, named=True)
            self._crew.settings = self._crew.settings._replace(targets=targets)
            self._crew.orders.give_all(targets)
        if not self._tell_later.pending:
            self._tell()

    def _tell(self) -> None:
        """Record what has changed: once a second at most, and not while too many records wait."""
        resolved, problem = self._answers.news
        if not (resolved or problem):
            return
        self._tell_later.move(self._loop.now + _TELL_PAUSE)
        if self._writer.congested:
            return
        host, last = self._target.host, self._answers.last
        if resolved:
            self._recorder.write(
                catalogue.TARGET_RESOLVED, target_host=host, addresses=[*self._answers.addresses]
            )
        if problem:
            self._recorder.write(
                catalogue.TARGET_RESOLVE_FAILED,
                target_host=host,
                error=last.error,
                problem=cut(last.problem or "", PROBLEM_LIMIT),
            )
        self._answers.tell()
