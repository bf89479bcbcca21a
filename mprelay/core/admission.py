"""Every decision about a new connection: whether it is admitted, and when.

Rules:

1. One verdict for each connection. The ACL is asked first, then how often the client has come and how many
   sessions it has, then whether it still waits, then whether there is a slot. A rejection names the entry that
   decided, and a limit its name. Every attempt that the ACL allows takes a token of the client's rate.
2. At the limit a connection stays in the backlog for a moment. If one session ends just when the next connection
   arrives, the supervisor sees the connection before the worker has reported the end. Only connections that have
   waited for the whole moment are refused.
3. While there is no local port towards the target, sessions are admitted one by one, until one has found a port.
4. No clock, no socket: facts about the system are arguments.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Literal, NamedTuple

from mprelay.core.acl import Acl
from mprelay.core.rates import Client, Rate, Rates, client_of


class Outcome(Enum):
    """What becomes of a connection."""

    ADMITTED = auto()
    REJECTED = auto()  # by the ACL
    LIMITED = auto()  # its client came too often, or has too many sessions
    ABANDONED = auto()  # by its client, or after too long a wait
    EXHAUSTED = auto()  # no slot is free
    PROXY_INVALID = auto()  # no PROXY header came, or a wrong one


class Verdict(NamedTuple):
    """The decision about one connection."""

    outcome: Outcome
    entry: str | None = None  # of the ACL, if it rejects or admits
    limit: Literal["rate", "per_client"] | None = None  # if that decided
    problem: str | None = None  # with the PROXY header


_ADMITTED: Final = Outcome.ADMITTED
ABANDONED: Final = Verdict(Outcome.ABANDONED)
EXHAUSTED: Final = Verdict(Outcome.EXHAUSTED)
TOO_OFTEN: Final = Verdict(Outcome.LIMITED, limit="rate")
TOO_MANY: Final = Verdict(Outcome.LIMITED, limit="per_client")


_new: Final = tuple.__new__  # the constructor of a named tuple takes twice as long


class Policy:
    """Decides which connections are admitted.

    Args:
        acl: Who may come.
        rate: How often a client may come; None: as often as it likes.
        most: Sessions that a client may have at once; 0: as many as it likes.
        sessions_of: Counts the sessions that a client has.

    """

    def __init__(
        self,
        acl: Acl,
        rate: Rate | None = None,
        most: int = 0,
        sessions_of: Callable[[Client], int] = lambda _client: 0,
    ) -> None:
        self.acl = acl
        """The list in force."""
        self._rates = None if rate is None else Rates(rate)
        self._most = most
        self._sessions_of = sessions_of
        self._has_limits = rate is not None or most > 0

    def decide(
        self, client_ip: str, now: float, *, free: bool, given_up: bool = False, proxy: str | None = None
    ) -> Verdict:
        """Decide about a connection from `client_ip`.

        Args:
            client_ip: As :func:`ipaddress.ip_address` shows it.
            now: Monotonic, in seconds.
            free: Whether a slot is free.
            given_up: Whether the client is known to have given up.
            proxy: The address of the proxy that has announced the client.

        """
        allowed, entry = self.acl.decide(client_ip)
        if not allowed:
            return Verdict(Outcome.REJECTED, entry)
        if self._has_limits:
            client = client_of(client_ip)
            bucket = client if proxy is None else (proxy, client)
            if self._rates is not None and not self._rates.take(bucket, now):
                return TOO_OFTEN
            if self._most and self._sessions_of(client) >= self._most:
                return TOO_MANY
        if given_up:
            return ABANDONED
        return _new(Verdict, (_ADMITTED, entry, None, None)) if free else EXHAUSTED


class Patience:
    """The moment for which connections wait in the backlog when no slot is free."""

    def __init__(self) -> None:
        self.waiting = False
        """Whether the moment runs. No connection is refused meanwhile."""
        self.queued = 0
        """Connections in the backlog since the moment began."""
        self.counted = True
        """Whether that number is known. If not, it is the most that there may be."""

    @property
    def refusable(self) -> bool:
        """Whether the next connection of the backlog has waited for the whole moment."""
        return self.queued > 0 and not self.waiting

    def begin(self, queued: int, *, counted: bool = True) -> None:
        """Begin the moment of the `queued` connections that are in the backlog now."""
        self.waiting = True
        self.queued = queued
        self.counted = counted

    def lapse(self) -> None:
        """Note that the moment is over."""
        self.waiting = False

    def forget(self) -> None:
        """Note that nobody in the backlog has waited yet."""
        self.waiting = False
        self.queued = 0


class PortSearch:
    """Whether local ports towards the target are free. TIME_WAIT keeps each for a minute after its session."""

    def __init__(self) -> None:
        self.running = False
        """Whether sessions are admitted one by one."""
        self._probe: int | None = None  # serial of the first session admitted since one found no port

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
        """Whether the last session has found a port. connect(2) reports a lack of ports at once."""
        return self._probe is not None

    def tells(self, serial: int) -> bool:
        """Tell whether the session `serial`, which has a port, shows that ports are free again."""
        return self._probe is not None and serial >= self._probe

    def end(self) -> None:
        """Note that ports are free again."""
        self.running = False
        self._probe = None
