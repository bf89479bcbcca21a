"""The vocabulary between supervisor and worker: tickets and orders go down, events come up.

Rules:

1. Everything here is an immutable tuple of plain values. No socket, no clock, no behaviour.
2. A ticket travels with a socket. The holder of the ticket owns that socket (see :mod:`mprelay.channel.down`).
3. For each ticket that a worker receives it reports :class:`Connected` at most once and :class:`Closed`
   exactly once, unless the worker dies; then the supervisor closes the session in its place.
   A connection whose PROXY header is awaited comes by a ticket too, with a number in the place of a serial
   (:data:`AWAITED_FROM`). The worker reports :class:`Announced` or :class:`NotAnnounced` once. After
   :class:`Announced` the supervisor says by an order what becomes of the connection.
4. An order has no answer. Its effect shows in the events.
5. Moments: ``at`` is Unix time in seconds (for a record's timestamp); durations were measured on the
   monotonic clock, which parent and child share on Linux (``CLOCK_MONOTONIC`` counts from boot).
"""

from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypeAlias


class CloseReason(StrEnum):
    """Why a session ended, as `reason` on its ``session.closed`` record."""

    TARGET_SOCKET_FAILED = "target_socket_failed"
    HANDOFF_FAILED = "handoff_failed"
    IDLE_TIMEOUT = "idle_timeout"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_FAILED = "connect_failed"
    REQUESTER_CHANNEL_FAILED = "requester_channel_failed"
    TARGET_CHANNEL_FAILED = "target_channel_failed"
    REQUESTER_BUFFER_FAILED = "requester_buffer_failed"
    TARGET_BUFFER_FAILED = "target_buffer_failed"
    REQUESTER_READ_CLOSED = "requester_read_closed"
    TARGET_READ_CLOSED = "target_read_closed"
    TARGET_WRITE_CLOSED = "target_write_closed"
    REQUESTER_WRITE_CLOSED = "requester_write_closed"
    LINGER_TIMEOUT = "linger_timeout"
    RELAY_EXPIRED = "relay_expired"
    DRAINED = "drained"
    WORKER_LOST = "worker_lost"
    KILLED = "killed"
    ACL_REVOKED = "acl_revoked"
    SESSION_TIMEOUT = "session_timeout"


Side: TypeAlias = Literal["client", "target"]
PeerEnd: TypeAlias = Literal["end", "reset"]
"""How a peer ended its own sending, as far as the kernel has reported it: by a FIN or by a reset."""

Address: TypeAlias = tuple[str, int]
"""IPv4 or IPv6 address, as :func:`ipaddress.ip_address` shows it, without a zone; and TCP port."""

IP_LENGTH_LIMIT: Final = 45
"""Characters of an address, at most: INET6_ADDRSTRLEN (netinet/in.h) without its NUL."""

PORTS_END: Final = 2**16
"""Every port is below this."""

ADDRESSES_LIMIT: Final = 32
"""Addresses of the target, at most: one record lists them all, and a connect timeout has time to try twelve."""

ERROR_LIMIT: Final = 32
"""Characters of the name of an errno, or of another word for an error, at most."""

AWAITED_FROM: Final = 2**63
"""From here on a serial is the number of a connection that is no session yet: its PROXY header is awaited."""

HEADER_TIME: Final = 3.0
"""Seconds that a PROXY header may take."""


class Settings(NamedTuple):
    """The settings of a worker (down, once, with the arguments of its process)."""

    targets: "Targets"
    target_port: int
    connect_timeout: float  # seconds, from admission
    idle_timeout: float  # seconds without a byte moved
    session_timeout: float | None  # seconds, from admission; None: never
    source: str | None  # the address to connect from; None: the system's choice
    proxy_protocol: Literal["v1", "v2"] | None  # how the target is told who the client is; None: not at all
    awaits_headers: bool  # whether there are connections whose PROXY header is awaited
    keepalive: int | None  # seconds without a word, after which a side is asked whether it lives; None: never
    tcp_info: bool  # whether Measured is reported
    buffer: int | None  # bytes for each direction; None: the worker chooses
    pipes: int  # pipes that it may lend to flows, at most
    any_address: bool  # whether clients can reach the relay at more than one address
    expiry: "Expiry | None"  # when the relay closes itself; None: never


class Targets(NamedTuple):
    """Where to connect to (down: with the settings, and by itself when the target's name stands for others)."""

    ips: tuple[str, ...]  # to be tried in turn
    error: str | None = None  # why there is none
    named: bool = False  # whether they are of a name, so that the supervisor must hear which one is tried


class Expiry(NamedTuple):
    """When the relay closes itself."""

    at: float  # seconds, as mprelay.system.boottime counts them
    wall: bool = False  # seconds of Unix time instead


class Ticket(NamedTuple):
    """One admitted session (down, with the client's socket)."""

    serial: int
    admitted_at: float  # monotonic, seconds
    client: Address | None = None  # the client's own address; None: not sent


class Kill(NamedTuple):
    """End these sessions now (down). A session that has ended in the meantime is passed over."""

    serials: tuple[int, ...]
    reason: CloseReason


class NewExpiry(NamedTuple):
    """The relay will close itself at another moment (down)."""

    expiry: Expiry | None  # None: never


class Admit(NamedTuple):
    """An awaited connection becomes a session (down)."""

    number: int
    ticket: Ticket


class Refuse(NamedTuple):
    """An awaited connection is refused (down)."""

    number: int


Order: TypeAlias = Kill | NewExpiry | Targets | Admit | Refuse


class Ready(NamedTuple):
    """The worker can take tickets (up, once).

    `build` names the program that it runs. The supervisor may run an older one, because the package can be
    upgraded under a running relay. This event keeps its shape in all versions, so that each can read it from any
    other.
    """

    at: float
    build: str


class Trying(NamedTuple):
    """The session connects to this address of the target's name (up, before each try)."""

    serial: int
    target_ip: str


class Connected(NamedTuple):
    """The target answered and both directions are running (up)."""

    serial: int
    at: float
    connect_ms: float
    outbound_port: int  # the relay's own, of the connection to the target


class Progress(NamedTuple):
    """The byte counts so far, which stay known if the worker dies (up, at most one a second)."""

    serial: int
    bytes_from_client: int
    bytes_from_target: int
    bytes_to_client: int
    bytes_to_target: int


class Closed(NamedTuple):
    """The session is over and both its sockets are closed (up).

    `reason` is None if the worker closed the session because it was told to stop. The supervisor, which told it,
    knows the reason. `error` is an errno's name, or None.
    """

    serial: int
    at: float
    duration_ms: float
    reason: CloseReason | None
    error: str | None
    error_from: Side | None  # whose connection gave the error
    client_end: PeerEnd | None  # how the client ended its own sending; None: not yet
    target_end: PeerEnd | None
    inbound_ip: str | None  # the address that the client reached; None: not asked for, or no longer known
    bytes_from_client: int
    bytes_from_target: int
    bytes_to_client: int  # without unacknowledged bytes, if the session was cut
    bytes_to_target: int


class Measured(NamedTuple):
    """What TCP has measured on the two connections of a session (up, right before Closed, if that was asked for).

    None: not known. It is not a part of Closed because without the option its fields would travel for nothing.
    """

    serial: int
    client_rtt_ms: float | None  # smoothed round-trip time
    target_rtt_ms: float | None
    client_retransmits: int | None  # segments sent again, each time counted
    target_retransmits: int | None


class Crashed(NamedTuple):
    """An unexpected exception ends this worker (up, its last event)."""

    at: float
    place: str  # file:line function
    error: str  # exception type and text, shortened


class Announced(NamedTuple):
    """The PROXY header of an awaited connection is whole (up, once). The worker waits for the answer."""

    number: int
    at: float
    client_ip: str | None  # None: the header names nobody
    client_port: int


class NotAnnounced(NamedTuple):
    """An awaited connection has no PROXY header, and is closed (up, once)."""

    number: int
    at: float
    problem: str  # of at most PROBLEM_LIMIT characters, ASCII


PROBLEM_LIMIT: Final = 100
"""Characters of a problem, at most."""

Event: TypeAlias = Ready | Trying | Connected | Progress | Measured | Closed | Crashed | Announced | NotAnnounced
