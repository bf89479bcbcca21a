"""Asks the supervisor for snapshots, for all connections together.

Rules:

1. One question at most is under way. Whoever asks meanwhile is served by the next one, because the answer under
   way may have been made before.
2. A question that was not answered within :data:`PATIENCE` is lost, and those who wait for it get nothing.
"""

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeAlias

PATIENCE: Final = 1.0
"""Seconds in which the supervisor must have answered."""

Snapshot: TypeAlias = dict[str, Any]
"""What the supervisor says of the relay (:mod:`mprelay.supervisor.metrics`)."""


class Source:
    """Gets snapshots. `ask` writes a question, and waits for nothing."""

    def __init__(self, ask: Callable[[bytes], bool]) -> None:
        self._ask = ask
        self._change = threading.Condition()
        self._wanted = 0  # questions so far
        self._wanted_with_sessions = 0  # the last one that wants the sessions
        self._asked_at = -inf  # when the question under way was written
        self._snapshot: Snapshot = {}
        self._answered = 0
        self._with_sessions: Snapshot = {}
        self._answered_with_sessions = 0

    def get(self, *, sessions: bool = False) -> Snapshot | None:
        """Return a snapshot that is made from now on. None: the supervisor has not answered in time."""
        until = time.monotonic() + PATIENCE
        with self._change:
            self._wanted += 1
            mine = self._wanted
            if sessions:
                self._wanted_with_sessions = mine
            if time.monotonic() - self._asked_at >= PATIENCE:
                self._write()
            while mine > (self._answered_with_sessions if sessions else self._answered):
                if not self._change.wait(until - time.monotonic()):
                    return None
            return self._with_sessions if sessions else self._snapshot

    def take(self, snapshot: Snapshot) -> None:
        """Hand an answer on to those who wait for it, and ask for the others."""
        with self._change:
            self._answered, self._snapshot = snapshot["question"], snapshot
            if "sessions" in snapshot:
                self._answered_with_sessions, self._with_sessions = self._answered, snapshot
            self._asked_at = -inf
            if self._wanted > self._answered or self._wanted_with_sessions > self._answered_with_sessions:
                self._write()
            self._change.notify_all()

    def _write(self) -> None:
        sessions = self._wanted_with_sessions > self._answered_with_sessions
        self._asked_at = time.monotonic()
        self._ask(b"%d%s\n" % (self._wanted, b" sessions" if sessions else b""))
