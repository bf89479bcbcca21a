"""The catalogue: every record that mprelay can write, once.

Rules:

1. An :class:`Entry` holds a record's name, level, number and sentence. Journal, README and tests read them
   here; they stand nowhere else.
2. `msg_id` 1..39 is the number in the manual of TCPRELAY.EXE and `sentence` is the manual's own, two blanks
   after a full stop included; where the manual writes <rqst IP addr> there stands the field that fills it.
   `msg_id` None is a record of ours.
3. `fields` are the names of what the record carries beyond the common fields and those of its connection.
4. A session ends by exactly one :class:`~mprelay.events.CloseReason`, and each reason has exactly one entry.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

from mprelay.events import CloseReason

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]


class Entry(NamedTuple):
    """One kind of record."""

    event: str
    level: Level
    msg_id: int | None
    sentence: str
    fields: tuple[str, ...] = ()


# -- the start (manual messages 1 to 15) ---------------------------------------------------------------------

TIMER_UNAVAILABLE: Final = Entry(
    "timer.unavailable",
    "critical",
    1,
    "Error: This system does not provide a high resolution timer.",
    ("resolution_s",),
)


def _config(msg_id: int | None, sentence: str) -> Entry:
    return Entry("config.invalid", "error", msg_id, sentence, ("parameter", "value", "problem"))


FWD_PORT_INVALID: Final = _config(2, "Error: <fwd port> must be between 1 and 65535 inclusive.")
TRG_HOST_INVALID: Final = _config(3, "Error: Invalid IP address specified for <trg host>.")
TRG_PORT_INVALID: Final = _config(4, "Error: <trg port> must be between 1 and 65535 inclusive.")
ACL_INVALID: Final = _config(5, "Error: <ACL> needs to be keyword ANY, or dotted decimal IP/mask notation.")
CONNECT_TIMEOUT_INVALID: Final = _config(6, "Error: <c t/o> must be between 1 and 3 inclusive.")
IDLE_TIMEOUT_INVALID: Final = _config(7, "Error: <i t/o> must be between 1 and 1800 inclusive.")
BUFFER_INVALID: Final = _config(8, "Error: <buf> must be between 100 and 4000 inclusive.")
CONFIG_INVALID: Final = _config(None, "Error: {problem}")

PLATFORM_INIT_FAILED: Final = Entry(
    "platform.init_failed", "critical", 9, "Error: WinSock initialization failure.", ("error", "detail")
)
PLATFORM_UNSUPPORTED: Final = Entry(
    "platform.unsupported", "critical", 10, "Error: WinSock version must be at least 2.0.", ("detail",)
)
LISTENER_SOCKET_FAILED: Final = Entry(
    "listener.socket_failed", "critical", 11, "Error: Listener socket creation failure.", ("error",)
)
LISTENER_BIND_FAILED: Final = Entry(
    "listener.bind_failed", "critical", 12, "Error: Could not bind listener port to socket.", ("error",)
)
LISTENER_LISTEN_FAILED: Final = Entry(
    "listener.listen_failed", "critical", 13, "Error: Listener failed to initialize.", ("error",)
)
POOL_START_FAILED: Final = Entry(
    "pool.start_failed",
    "critical",
    14,
    "Error: Unable to start the maintenance thread.",
    ("error", "detail"),
)
RELAY_ACTIVE: Final = Entry(
    "relay.active",
    "info",
    15,
    "The relayer is now active.  Data received on TCP port {listen_port} will be forwarded to {target_ip} "
    "port {target_port}...",
    (
        "listen_ip",
        "listen_port",
        "target_ip",
        "target_port",
        "acl",
        "workers",
        "max_sessions",
        "expires_at",
        "pid",
    ),
)

# -- connections (16 to 22) ----------------------------------------------------------------------------------

CONNECTION_ATTEMPT: Final = Entry(
    "connection.attempt",
    "info",
    16,
    "Connection attempt made from {client_ip}.",
)
CONNECTION_REJECTED: Final = Entry(
    "connection.rejected",
    "warning",
    17,
    "Connection from {client_ip} rejected due to ACL mismatch.",
    ("acl",),
)
CONNECTION_ACCEPTED: Final = Entry(
    "connection.accepted",
    "info",
    18,
    "Connection from {client_ip} was accepted.  Allocating a session handler.",
)
CONNECTION_POOL_EXHAUSTED: Final = Entry(
    "connection.pool_exhausted",
    "warning",
    21,
    "Session pool exhausted.  Connection from {client_ip} was dropped.",
    ("active",),
)
CONNECTION_ACCEPT_FAILED: Final = Entry(
    "connection.accept_failed",
    "error",
    22,
    "Error number {errno} was returned during requester connection attempt.",
    ("error", "errno", "count"),
)
CONNECTION_ABANDONED: Final = Entry(
    "connection.abandoned",
    "warning",
    None,
    "Connection from {client_ip} was dropped because the client had given up, or had waited for too long.",
    ("waited_ms",),
)
CONNECTION_REFUSED_MORE: Final = Entry(
    "connection.refused_more",
    "warning",
    None,
    "{count} more connections were refused ({refused}).",
    ("client_ip", "refused", "count", "first_at", "last_at"),
)
ADMISSION_PAUSED: Final = Entry(
    "admission.paused",
    "warning",
    None,
    "New connections wait because the reader of the records does not keep up.",
)
ADMISSION_RESUMED: Final = Entry(
    "admission.resumed",
    "info",
    None,
    "New connections are accepted again after {paused_s} seconds.",
    ("paused_s", "waiting"),
)

# -- the life of a session (23, 26, 28, 31, 33, 37) ----------------------------------------------------------

RELAY_EXPIRED: Final = Entry(
    "relay.expired", "warning", 23, "Absolute timeout expired.  This process will now terminate."
)
SESSION_ALLOCATED: Final = Entry(
    "session.allocated",
    "info",
    26,
    "Session handler serial number {session} was allocated for request from {client_ip}.  "
    "Connecting to target {target_ip}.",
)
SESSION_CONNECTED: Final = Entry(
    "session.connected",
    "info",
    28,
    "Session handler serial number {session} made a successful connection to the target.  "
    "Starting the relay threads.",
    ("connect_ms",),
)
SESSION_RELAYING: Final = Entry(
    "session.relaying",
    "info",
    31,
    "Session handler serial number {session} successfully started both relay threads.",
)
SESSION_REQUESTER_CHANNEL_ACTIVE: Final = Entry(
    "session.requester_channel_active",
    "info",
    33,
    "Session handler serial number {session} requester-to-target channel is now active.",
)
SESSION_TARGET_CHANNEL_ACTIVE: Final = Entry(
    "session.target_channel_active",
    "info",
    37,
    "Session handler serial number {session} target-to-requester channel is now active.",
)

# -- the end of a session (19, 20, 24, 25, 27, 29, 30, 32, 34 to 36, 38, 39) ---------------------------------

CLOSED_FIELDS: Final = (
    "reason",
    "error",
    "error_from",
    "client_end",
    "target_end",
    "bytes_from_client",
    "bytes_from_target",
    "bytes_to_client",
    "bytes_to_target",
    "connect_ms",
    "duration_ms",
    "inbound_ip",
    "outbound_port",
)


def _closed(level: Level, msg_id: int | None, sentence: str) -> Entry:
    return Entry("session.closed", level, msg_id, sentence, CLOSED_FIELDS)


_SERIAL = "Session handler serial number {session} "
_CONNECTING = _SERIAL + "connecting {client_ip} to {target_ip} "

SESSION_CLOSED: Final[dict[CloseReason, Entry]] = {
    CloseReason.TARGET_SOCKET_FAILED: _closed(
        "error",
        19,
        "Could not allocate a socket to target {target_ip}.  Request from {client_ip} aborted.",
    ),
    CloseReason.HANDOFF_FAILED: _closed(
        "error",
        20,
        "Connection from {client_ip} was dropped because the session handler thread failed to start.",
    ),
    CloseReason.IDLE_TIMEOUT: _closed(
        "warning", 24, _CONNECTING + "exceeded the idle timeout and has been terminated."
    ),
    CloseReason.CONNECT_TIMEOUT: _closed(
        "warning", 25, _CONNECTING + "has been terminated due to an expired target connection attempt."
    ),
    CloseReason.CONNECT_REFUSED: _closed(
        "warning",
        27,
        "The target refused the connection attempt for session handler serial number {session}.",
    ),
    CloseReason.CONNECT_FAILED: _closed(
        "warning",
        27,
        "The target refused the connection attempt for session handler serial number {session}.",
    ),
    CloseReason.REQUESTER_CHANNEL_FAILED: _closed(
        "error", 29, _SERIAL + "could not start the requester relay thread."
    ),
    CloseReason.TARGET_CHANNEL_FAILED: _closed("error", 30, _SERIAL + "could not start the target relay thread."),
    CloseReason.REQUESTER_BUFFER_FAILED: _closed(
        "error", 32, _SERIAL + "failed to allocate a requester transfer buffer."
    ),
    CloseReason.REQUESTER_READ_CLOSED: _closed("info", 34, _SERIAL + "terminated due to requester read closure."),
    CloseReason.TARGET_WRITE_CLOSED: _closed("info", 35, _SERIAL + "terminated due to target write closure."),
    CloseReason.TARGET_BUFFER_FAILED: _closed(
        "error", 36, _SERIAL + "failed to allocate a target transfer buffer."
    ),
    CloseReason.TARGET_READ_CLOSED: _closed("info", 38, _SERIAL + "terminated due to target read closure."),
    CloseReason.REQUESTER_WRITE_CLOSED: _closed(
        "info", 39, _SERIAL + "terminated due to requester write closure."
    ),
    CloseReason.RELAY_EXPIRED: _closed(
        "warning", None, _CONNECTING + "was terminated because the absolute timeout expired."
    ),
    CloseReason.DRAINED: _closed(
        "warning", None, _CONNECTING + "was terminated because the time to drain was over."
    ),
    CloseReason.WORKER_LOST: _closed("warning", None, _CONNECTING + "was lost with its worker."),
    CloseReason.KILLED: _closed("warning", None, _CONNECTING + "was terminated by the operator."),
}

# -- the relay and its workers (ours) ------------------------------------------------------------------------

WORKER_STARTED: Final = Entry("worker.started", "info", None, "Worker {worker} is ready.", ("worker", "pid"))
WORKER_EXITED: Final = Entry(
    "worker.exited",
    "info",
    None,
    "Worker {worker} has ended.",
    ("worker", "pid", "exitcode", "signal"),
)
WORKER_DIED: Final = WORKER_EXITED._replace(
    level="warning", sentence="Worker {worker} died; its sessions are lost."
)
WORKER_START_FAILED: Final = Entry(
    "worker.start_failed",
    "error",
    None,
    "Worker {worker} {detail}.  The relay goes on without it, and tries again in {again_in_s} seconds.",
    ("worker", "error", "detail", "tries", "again_in_s"),
)
WORKER_UNRESPONSIVE: Final = Entry(
    "worker.unresponsive",
    "error",
    None,
    "Worker {worker} has not answered for {silent_s} seconds, and is killed.",
    ("worker", "pid", "silent_s"),
)
RELAY_DRAINING: Final = Entry(
    "relay.draining",
    "info",
    None,
    "No new connections are accepted; sessions may finish.",
    ("signal", "active", "drain_timeout"),
)
RELAY_STATS: Final = Entry(
    "relay.stats",
    "info",
    None,
    "{active} of {max_sessions} sessions are in use.",
    (
        "active",
        "max_sessions",
        "attempts",
        "rejected",
        "abandoned",
        "exhausted",
        "admitted",
        "supervisor",
        "workers",
    ),
)
INTERNAL_ERROR: Final = Entry(
    "internal.error",
    "critical",
    None,
    "Unexpected {error} at {place}.",
    ("error", "place", "worker"),
)
RELAY_STOPPED: Final = Entry(
    "relay.stopped",
    "info",
    None,
    "The relayer has stopped.",
    (
        "reason",
        "uptime_s",
        "attempts",
        "rejected",
        "abandoned",
        "exhausted",
        "admitted",
        "closed",
        "bytes_from_client",
        "bytes_from_target",
    ),
)

ENTRIES: Final[tuple[Entry, ...]] = tuple(
    [value for value in list(globals().values()) if isinstance(value, Entry)] + list(SESSION_CLOSED.values())
)
"""Every entry, in the order above."""
