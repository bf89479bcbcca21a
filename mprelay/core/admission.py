"""Who may come in, and when: every decision about a new connection.

Rules:

1. One verdict for each connection. The ACL is asked first, then whether the client still waits, then whether
   there is a slot. A rejection names the entry that decided.
2. At the limit a connection is left in the backlog for a moment. The end of the session before it reaches its
   worker at the moment at which the connection reaches the supervisor, and the worker has yet to report that.
   Only those who waited for the whole moment are refused.
3. While there is no local port towards the target, sessions are admitted one by one, until one has found a port.
4. No clock, no socket: what the system says is an argument.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from mprelay.core.acl import Acl


class Outcome(Enum):
    """What becomes of a connection."""

    ADMITTED = auto()
    REJECTED = auto()  # by the ACL
    ABANDONED = auto()  # by its client, or it has waited for too long
    EXHAUSTED = auto()  # there is no slot


class Verdict(NamedTuple):
    """The decision about one connection."""

    outcome: Outcome
    entry: str | None = None  # of the ACL; None: the ACL does not decide it


ADMITTED: Final = Verdict(Outcome.ADMITTED)
ABANDONED: Final = Verdict(Outcome.ABANDONED)
EXHAUSTED: Final = Verdict(Outcome.EXHAUSTED)


class Policy:
    """Decides who may come in."""

    def __init__(self, acl: Acl) -> None:
        self._acl = acl

    def decide(self, client_ip: str, *, free: bool, given_up: bool = False) -> Verdict:
        """Decide about a connection from `client_ip`.

        Args:
            client_ip: As :func:`ipaddress.ip_address` shows it.
            free: Whether there is a slot.
            given_up: Whether the client is known to wait no longer.

        """
        allowed, entry = self._acl.decide(client_ip)
        if not allowed:
            return Verdict(Outcome.REJECTED, entry)
        if given_up:
            return ABANDONED
        return ADMITTED if free else EXHAUSTED


class Patience:
    """The moment for which connections wait in the backlog when there is no slot."""

    def __init__(self) -> None:
        self.waiting = False
        """Whether the moment runs. Nobody is refused meanwhile."""
        self.queued = 0
        """Connections that were in the backlog when the moment began, and still are."""

    @property
    def refusable(self) -> bool:
        """Whether the next connection of the backlog has waited for the whole moment."""
        return self.queued > 0 and not self.waiting

    def begin(self, queued: int) -> None:
        """Give those who are in the backlog now a moment."""
        self.waiting = True
        self.queued = queued

    def lapse(self) -> None:
        """Note that the moment is over."""
        self.waiting = False

    def forget(self) -> None:
        """Note that there is another listener: its backlog is a new one."""
        self.waiting = False
        self.queued = 0


class PortSearch:
    """What is known of local ports towards the target. TIME_WAIT keeps each for a minute after its session."""

    def __init__(self) -> None:
        self.running = False
        """Whether sessions are admitted one by one."""
        self._probe: int | None = None  # the first of these since the last one that found none

    def begin(self) -> None:
        """Note that a session found no port."""
        self.running = True
        self._probe = None

    def admitted(self, serial: int) -> None:
        """Note that a session was admitted."""
        if self._probe is None:
            self._probe = serial

    @property
    def found(self) -> bool:
        """Whether the last session has found a port. connect(2) tells at once where there is none."""
        return self._probe is not None

    def tells(self, serial: int) -> bool:
        """Tell whether the session `serial`, which has a port, shows that there are ports again."""
        return self._probe is not None and serial >= self._probe

    def end(self) -> None:
        """Note that there are ports again."""
        self.running = False
        self._probe = None
