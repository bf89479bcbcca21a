"""When the relay closes itself, and how far an operator may put that off.

Rules:

1. The moment is made once, and moved by :meth:`Lifetime.extend` only. All extensions together are bounded by what
   was allowed at the start.
2. A worker acts on the moment that it was told last. So an extension must come while there is time to tell them
   all, and a worker that could not be told may end its sessions at an earlier moment.
"""

import time
from collections.abc import Callable
from typing import Final

from mprelay.config.parsers import LAST_MOMENT
from mprelay.config.validation import Config
from mprelay.core.protocol import Expiry
from mprelay.supervisor.loop import Loop
from mprelay.system import boottime
from mprelay.system.boottime import Deadline

_ROUNDING: Final = 1e-6  # seconds: more than Unix times lose as floats, a quarter of a microsecond each
_MICROSECONDS: Final = 1_000_000  # of a second
_TOO_LATE: Final = 0.5  # seconds before the expiry from which on it is no longer put off


class Lifetime:
    """How long one run lives. `started` is monotonic, in seconds."""

    def __init__(self, config: Config, loop: Loop, started: float) -> None:
        self._loop = loop
        self._begun_at = boottime.now()
        self._extensible = round(config.max_extend * _MICROSECONDS)  # whole, because floats would lose some
        self.deadline: Deadline | None = None
        """The moment of the expiry; None: never."""
        self.expires_at: float | None = None
        """The same in Unix time, as far as that is known."""
        if config.expires_at is not None:
            self.expires_at = config.expires_at
            self.deadline = Deadline(config.expires_at, wall=True)
        elif config.absolute_timeout:
            # The wall clock is read first here, and last for the expiry's record: none is stamped before
            # `expires_at`.
            left = config.absolute_timeout - (time.monotonic() - started)  # reading a long list takes seconds
            self.expires_at = loop.wall + left
            self.deadline = Deadline(boottime.now() + left + _ROUNDING)
        self._first = self.told

    @property
    def extensible(self) -> float:
        """Seconds by which the expiry may still be put off."""
        return self._extensible / _MICROSECONDS

    @property
    def told(self) -> Expiry | None:
        """The moment as workers are told of it."""
        return None if self.deadline is None else Expiry(self.deadline.at, self.deadline.wall)

    @property
    def left(self) -> float | None:
        """Seconds until the expiry; None: it never comes."""
        return None if self.deadline is None else -self.deadline.late()

    def start(self, expire: Callable[[], None]) -> None:
        """Have `expire` called when the moment has come. Raises Failure."""
        if self.deadline is not None:
            self._expire = expire
            self._loop.at_deadline(self.deadline, expire)

    def reached(self) -> bool:
        """Tell whether the moment has come."""
        return self.deadline is not None and self.deadline.reached()

    def may_seem_reached(self) -> bool:
        """Tell whether a worker may have found that the moment has come, or had come.

        It may not have heard of an extension, and the wall clock may have been set back since.
        """
        if self._first is None:
            return False
        return self._first.wall or boottime.now() >= self._first.at

    def late(self) -> float:
        """Seconds that have passed since the moment, as far as this run was there."""
        if self.deadline is None:
            return 0.0
        late = self.deadline.late()
        if self.deadline.wall:  # it may have passed before the start, or been set
            late = max(0.0, min(late, boottime.now() - self._begun_at))
        return late

    def refusal(self, seconds: float) -> str | None:
        """Say why the expiry cannot be put off by so many seconds; None: it can."""
        if self.deadline is None or self.expires_at is None:
            return "the relay never expires"
        if round(seconds * _MICROSECONDS) > self._extensible:
            return f"{self.extensible:g} seconds are left of --max-extend"
        if self.expires_at + seconds > LAST_MOMENT:
            return "the expiry must be before the year 10000"
        if self.deadline.late() > -_TOO_LATE:
            return "the relay is about to close itself"
        return None

    def extend(self, seconds: float) -> None:
        """Put the expiry off. There must be no :meth:`refusal`. Raises Failure."""
        if self.deadline is None or self.expires_at is None:
            return
        self._extensible -= round(seconds * _MICROSECONDS)
        self.expires_at += seconds
        self.deadline = Deadline(self.deadline.at + seconds, wall=self.deadline.wall)
        self._loop.at_deadline(self.deadline, self._expire)
