"""What a relay says of itself in its records: who opened it, for whom, who steered it, how it ended. Pure."""

from collections import deque
from typing import Any, Final, NamedTuple

from mprelay.audit.fields import LIMIT, Record, flag, text, whole
from mprelay.audit.tables import Table
from mprelay.audit.times import Moment

_EVENTS: Final = 100  # from the beginning, and as many from the end
_USUAL: Final = {"worker.started", "relay.stats", "log.checkpoint", "log.key", ""}  # tell nothing to a person


class Happening(NamedTuple):
    """One record of the relay's own."""

    when: Moment | None
    level: str
    event: str
    message: str


class Command(NamedTuple):
    """What an operator has asked for."""

    when: Moment | None
    uid: int | None
    pid: int | None
    what: str
    done: bool
    problem: str | None


class Some:
    """The first and the last of many."""

    def __init__(self) -> None:
        self.first: list[Any] = []
        self.last: deque[Any] = deque(maxlen=_EVENTS)
        self.count = 0

    def add(self, one: object) -> None:
        """Add one."""
        self.count += 1
        (self.first if len(self.first) < _EVENTS else self.last).append(one)

    @property
    def left_out(self) -> int:
        """How many stand between the first and the last, and are not kept."""
        return self.count - len(self.first) - len(self.last)


class Door:
    """One run's own records."""

    def __init__(self) -> None:
        self.active: Record | None = None
        """``relay.active``."""
        self.stopped: Record | None = None
        """``relay.stopped``, the last that was read."""
        self.stops = 0
        """How many of them there are."""
        self.invalid = 0
        """Wrong values on the command line."""
        self.extension = (0, "")
        """When the absolute timeout was put off the last time, and until when."""
        self.commands = Some()
        self.steered: Table[tuple[int | None, str, bool]] = Table(1, _EVENTS)
        """Commands by uid, name, and whether they were done."""
        self.happenings = Some()
        self.keys = 0
        """``log.key``: the log is sealed."""
        self.checkpoints = 0

    def add(self, record: Record, event: str, when: Moment | None) -> None:
        """Take a record."""
        match event:
            case "relay.active":
                self.active = record
            case "relay.stopped":
                self.stopped = record
                self.stops += 1
            case "config.invalid":
                self.invalid += 1
            case "relay.extended":
                self.extension = max(self.extension, (when or 0, text(record, "expires_at") or ""))
            case "control.command":
                self._commanded(record, when)
            case "log.key":
                self.keys += 1
            case "log.checkpoint":
                self.checkpoints += 1
        level = text(record, "level") or ""
        if event not in _USUAL and (event, level) != ("worker.exited", "info"):
            self.happenings.add(Happening(when, level, event, text(record, "message") or ""))

    @property
    def sealed(self) -> bool:
        """Whether it was meant to be sealed."""
        return bool(self.keys or self.checkpoints)

    @property
    def never_opened(self) -> bool:
        """Whether it could not start."""
        failed = self.stopped is not None and text(self.stopped, "reason") == "failed"
        return self.active is None and bool(self.invalid or failed)

    @property
    def until(self) -> str | None:
        """When it was to close itself, after all extensions. None: never, or not known."""
        if self.extension[1]:
            return self.extension[1]
        return None if self.active is None else text(self.active, "expires_at")

    def _commanded(self, record: Record, when: Moment | None) -> None:
        name, uid, done = text(record, "command") or "?", whole(record, "peer_uid"), flag(record, "ok") is True
        self.steered.add((uid, name, done), (1,), when)
        given = record.get("arguments")
        pairs = given.items() if isinstance(given, dict) else ()
        arguments = [f"{key} {value}" for key, value in pairs if isinstance(value, str | int | float)]
        what = ", ".join((name, *arguments))[:LIMIT]
        self.commands.add(Command(when, uid, whole(record, "peer_pid"), what, done, text(record, "problem")))
