"""The catalogue: every record that mprelay can write, once.

Rules:

1. A :class:`Message` holds a record's name, level, number and sentence. They stand nowhere else: the recorder,
   docs/records.md and the tests read them here.
2. `msg_id` 1 to 39 is the message's number in the manual of TCPRELAY.EXE. `sentence` is the manual's own, two
   blanks after a full stop included. In place of the manual's <rqst IP addr> stands the name of the field that
   fills it. `msg_id` None marks a record of ours.
3. `fields` names the record's own fields, which are neither common to all records nor those of its connection.
   :data:`FIELDS` gives the meaning and the JSON type of each name, once. A name has one type in all records,
   because collectors (Elasticsearch, ClickHouse, pyarrow) infer a column's type from its first value, and refuse
   any other.
4. A session ends by exactly one :class:`~mprelay.core.protocol.CloseReason`. Each reason has exactly one message.
5. Planned events are info, timeouts included. Events that the operator did not want are warnings. Error and
   critical mean that somebody should look.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

from mprelay.core.protocol import CloseReason

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]


class Message(NamedTuple):
    """One kind of record."""

    event: str
    level: Level
    msg_id: int | None
    sentence: str
    fields: tuple[str, ...] = ()


# -- the start (manual messages 1 to 15) ---------------------------------------------------------------------

TIMER_UNAVAILABLE: Final = Message(
    "timer.unavailable",
    "critical",
    1,
    "Error: This system does not provide a high resolution timer.",
    ("resolution_s", "detail"),
)


def _config(msg_id: int | None, sentence: str) -> Message:
    return Message("config.invalid", "error", msg_id, sentence, ("parameter", "value", "problem"))


FWD_PORT_INVALID: Final = _config(2, "Error: <fwd port> must be between 1 and 65535 inclusive.")
TRG_HOST_INVALID: Final = _config(3, "Error: Invalid IP address specified for <trg host>.")
TRG_PORT_INVALID: Final = _config(4, "Error: <trg port> must be between 1 and 65535 inclusive.")
ACL_INVALID: Final = _config(5, "Error: <ACL> needs to be keyword ANY, or dotted decimal IP/mask notation.")
CONNECT_TIMEOUT_INVALID: Final = _config(6, "Error: <c t/o> must be between 1 and 3 inclusive.")
IDLE_TIMEOUT_INVALID: Final = _config(7, "Error: <i t/o> must be between 1 and 1800 inclusive.")
BUFFER_INVALID: Final = _config(8, "Error: <buf> must be between 100 and 4000 inclusive.")
CONFIG_INVALID: Final = _config(None, "Error: {problem}")

PLATFORM_INIT_FAILED: Final = Message(
    "platform.init_failed", "critical", 9, "Error: WinSock initialization failure.", ("error", "detail")
)
PLATFORM_UNSUPPORTED: Final = Message(
    "platform.unsupported", "critical", 10, "Error: WinSock version must be at least 2.0.", ("detail",)
)
LISTENER_SOCKET_FAILED: Final = Message(
    "listener.socket_failed", "critical", 11, "Error: Listener socket creation failure.", ("error",)
)
LISTENER_BIND_FAILED: Final = Message(
    "listener.bind_failed", "critical", 12, "Error: Could not bind listener port to socket.", ("error", "detail")
)
LISTENER_LISTEN_FAILED: Final = Message(
    "listener.listen_failed", "critical", 13, "Error: Listener failed to initialize.", ("error",)
)
POOL_START_FAILED: Final = Message(
    "pool.start_failed",
    "critical",
    14,
    "Error: Unable to start the maintenance thread.",
    ("error", "detail"),
)
RELAY_ACTIVE: Final = Message(
    "relay.active",
    "info",
    15,
    "The relayer is now active.  Data received on TCP port {listen_port} will be forwarded to {target_ip} "
    "port {target_port}...",
    (
        "listen_ip",
        "listen_port",
        "target_host",
        "target_ip",
        "target_port",
        "acl",
        "workers",
        "max_sessions",
        "log_detail",
        "expires_at",
        "options",
        "pid",
        "version",
        "host",
        "opened_by",
        "clock_synchronised",
    ),
)

# -- the seal ------------------------------------------------------------------------------------------------

LOG_KEY: Final = Message(
    "log.key",
    "info",
    None,
    "The records that follow are sealed with the key {public_key}.",
    ("public_key", "signed_by", "signature"),
)
LOG_CHECKPOINT: Final = Message(
    "log.checkpoint",
    "info",
    None,
    "The {size} records before this one are sealed.",
    ("size", "root", "signature"),
)
LOG_NOTES_LOST: Final = Message(
    "log.notes_lost",
    "error",
    None,
    "No more checkpoints can be written to {file}.",
    ("file",),
)

# -- connections (16 to 22) ----------------------------------------------------------------------------------

CONNECTION_ATTEMPT: Final = Message(
    "connection.attempt",
    "info",
    16,
    "Connection attempt made from {client_ip}.",
)
CONNECTION_REJECTED: Final = Message(
    "connection.rejected",
    "warning",
    17,
    "Connection from {client_ip} rejected due to ACL mismatch.",
    ("acl",),
)
CONNECTION_ACCEPTED: Final = Message(
    "connection.accepted",
    "info",
    18,
    "Connection from {client_ip} was accepted.  Allocating a session handler.",
    ("acl",),
)
CONNECTION_POOL_EXHAUSTED: Final = Message(
    "connection.pool_exhausted",
    "warning",
    21,
    "Session pool exhausted.  Connection from {client_ip} was dropped.",
    ("active",),
)
CONNECTION_ACCEPT_FAILED: Final = Message(
    "connection.accept_failed",
    "error",
    22,
    "Error number {errno} was returned during requester connection attempt.",
    ("error", "errno", "count"),
)
CONNECTION_LIMITED: Final = Message(
    "connection.limited",
    "warning",
    None,
    "Connection from {client_ip} was dropped because of the limit for its client ({limit}).",
    ("limit", "active"),
)
CONNECTION_ABANDONED: Final = Message(
    "connection.abandoned",
    "warning",
    None,
    "Connection from {client_ip} was dropped because the client had given up, or had waited for too long.",
    ("waited_ms",),
)
CONNECTION_PROXY_INVALID: Final = Message(
    "connection.proxy_invalid",
    "warning",
    None,
    "Connection from {client_ip} was dropped because it {problem}.",
    ("problem",),
)
CONNECTION_REFUSED_MORE: Final = Message(
    "connection.refused_more",
    "warning",
    None,
    "{count} more connections from {client_ip} were refused ({refused}) since {first_at}.",
    ("client_ip", "refused", "count", "first_at", "last_at"),
)
CONNECTION_REFUSED_OF_MANY: Final = CONNECTION_REFUSED_MORE._replace(
    sentence="{count} more connections from further clients were refused ({refused}) since {first_at}."
)
ADMISSION_PAUSED: Final = Message(
    "admission.paused",
    "warning",
    None,
    "New connections wait because the reader of the records does not keep up.",
)
ADMISSION_RESUMED: Final = Message(
    "admission.resumed",
    "info",
    None,
    "New connections are accepted again after {paused_s} seconds.",
    ("paused_s", "waiting"),
)

# -- the life of a session (23, 26, 28, 31, 33, 37) ----------------------------------------------------------

RELAY_EXPIRED: Final = Message(
    "relay.expired", "info", 23, "Absolute timeout expired.  This process will now terminate.", ("expires_at",)
)
SESSION_ALLOCATED: Final = Message(
    "session.allocated",
    "info",
    26,
    "Session handler serial number {session} was allocated for request from {client_ip}.  "
    "Connecting to target {target_ip}.",
)
SESSION_CONNECTED: Final = Message(
    "session.connected",
    "info",
    28,
    "Session handler serial number {session} made a successful connection to the target.  "
    "Starting the relay threads.",
    ("connect_ms",),
)
SESSION_RELAYING: Final = Message(
    "session.relaying",
    "info",
    31,
    "Session handler serial number {session} successfully started both relay threads.",
)
SESSION_REQUESTER_CHANNEL_ACTIVE: Final = Message(
    "session.requester_channel_active",
    "info",
    33,
    "Session handler serial number {session} requester-to-target channel is now active.",
)
SESSION_TARGET_CHANNEL_ACTIVE: Final = Message(
    "session.target_channel_active",
    "info",
    37,
    "Session handler serial number {session} target-to-requester channel is now active.",
)

SESSION_PROGRESS: Final = Message(
    "session.progress",
    "info",
    None,
    "Session handler serial number {session} connecting {client_ip} to {target_ip} has received "
    "{bytes_from_client} bytes from the client and {bytes_from_target} from the target.",
    ("bytes_from_client", "bytes_from_target", "bytes_to_client", "bytes_to_target", "idle_s"),
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
    "acl",
)
PATH_FIELDS: Final = ("client_rtt_ms", "target_rtt_ms", "client_retransmits", "target_retransmits")
"""Further fields, with ``--tcp-info`` only."""


def _closed(level: Level, msg_id: int | None, sentence: str) -> Message:
    return Message("session.closed", level, msg_id, sentence, CLOSED_FIELDS + PATH_FIELDS)


_SERIAL = "Session handler serial number {session} "
_CONNECTING = _SERIAL + "connecting {client_ip} to {target_ip} "

SESSION_CLOSED: Final[dict[CloseReason, Message]] = {
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
        "info", 24, _CONNECTING + "exceeded the idle timeout and has been terminated."
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
    CloseReason.LINGER_TIMEOUT: _closed(
        "info", None, _CONNECTING + "was terminated because its last data was not acknowledged."
    ),
    CloseReason.RELAY_EXPIRED: _closed(
        "info", None, _CONNECTING + "was terminated because the absolute timeout expired."
    ),
    CloseReason.DRAINED: _closed(
        "info", None, _CONNECTING + "was terminated because the relay was told to stop."
    ),
    CloseReason.WORKER_LOST: _closed("error", None, _CONNECTING + "was lost with its worker."),
    CloseReason.KILLED: _closed("info", None, _CONNECTING + "was terminated by the operator."),
    CloseReason.SESSION_TIMEOUT: _closed(
        "info", None, _CONNECTING + "exceeded the session timeout and has been terminated."
    ),
    CloseReason.ACL_REVOKED: _closed(
        "info", None, _CONNECTING + "was terminated because the ACL no longer allows its client."
    ),
}

# -- the relay and its workers (ours) ------------------------------------------------------------------------

WORKER_STARTED: Final = Message("worker.started", "info", None, "Worker {worker} is ready.", ("worker", "pid"))
WORKER_EXITED: Final = Message(
    "worker.exited",
    "info",
    None,
    "Worker {worker} has ended.",
    ("worker", "pid", "exitcode", "signal"),
)
WORKER_DIED: Final = WORKER_EXITED._replace(
    level="error", sentence="Worker {worker} died; its sessions are lost."
)
WORKER_START_FAILED: Final = Message(
    "worker.start_failed",
    "error",
    None,
    "Worker {worker} {detail}.  The relay goes on without it, and tries again in {again_in_s} seconds.",
    ("worker", "error", "detail", "tries", "again_in_s"),
)
WORKER_UNRESPONSIVE: Final = Message(
    "worker.unresponsive",
    "error",
    None,
    "Worker {worker} has not answered for {silent_s} seconds, and is killed.",
    ("worker", "pid", "silent_s"),
)
RELAY_DRAINING: Final = Message(
    "relay.draining",
    "info",
    None,
    "No new connections are accepted; sessions may finish.",
    ("signal", "active", "drain_timeout"),
)
RELAY_STATS: Final = Message(
    "relay.stats",
    "info",
    None,
    "{active} of {max_sessions} sessions are in use.",
    (
        "active",
        "max_sessions",
        "attempts",
        "rejected",
        "limited",
        "abandoned",
        "proxy_invalid",
        "exhausted",
        "admitted",
        "bytes_from_client",
        "bytes_from_target",
        "supervisor",
        "worker_stats",
    ),
)
INTERNAL_ERROR: Final = Message(
    "internal.error",
    "critical",
    None,
    "Unexpected {error} at {place}.",
    ("error", "place", "worker"),
)
RELAY_STOPPED: Final = Message(
    "relay.stopped",
    "info",
    None,
    "The relayer has stopped.",
    (
        "reason",
        "uptime_s",
        "attempts",
        "rejected",
        "limited",
        "abandoned",
        "proxy_invalid",
        "exhausted",
        "admitted",
        "bytes_from_client",
        "bytes_from_target",
        "closed",
    ),
)

ACL_RELOADED: Final = Message(
    "acl.reloaded",
    "info",
    None,
    "The ACL was read again.  Entries: {entries}, new: {added}, gone: {removed}; sessions ended: {ended}.",
    ("entries", "added", "removed", "ended"),
)
ACL_RELOAD_FAILED: Final = Message(
    "acl.reload_failed",
    "error",
    None,
    "The ACL stays as it was: {problem}.",
    ("file", "line", "problem"),
)
TARGET_RESOLVED: Final = Message(
    "target.resolved",
    "info",
    None,
    "The target's name {target_host} was looked up.",
    ("target_host", "addresses"),
)
TARGET_RESOLVE_FAILED: Final = Message(
    "target.resolve_failed",
    "warning",
    None,
    "The target's name {target_host} was looked up, but {problem}.",
    ("target_host", "error", "problem"),
)
CONTROL_COMMAND: Final = Message(
    "control.command",
    "info",
    None,
    "The command {command} was given by uid {peer_uid}.",
    ("command", "arguments", "peer_uid", "peer_pid", "ok", "problem"),
)
CONTROL_REFUSED: Final = CONTROL_COMMAND._replace(
    sentence="The command {command} was given by uid {peer_uid}, and refused: {problem}."
)
RELAY_EXTENDED: Final = Message(
    "relay.extended",
    "info",
    None,
    "The absolute timeout was put off by {seconds} seconds, until {expires_at}.",
    ("seconds", "expires_at"),
)
METRICS_FAILED: Final = Message(
    "metrics.failed",
    "warning",
    None,
    "The metrics process {detail}.  The relay goes on without it, and starts another in {again_in_s} seconds.",
    ("error", "detail", "again_in_s"),
)
RELAY_FAILED: Final = RELAY_STOPPED._replace(level="error")

MESSAGES: Final[tuple[Message, ...]] = tuple(
    [value for value in list(globals().values()) if isinstance(value, Message)] + list(SESSION_CLOSED.values())
)
"""Every message, in the order above."""


# -- the fields ----------------------------------------------------------------------------------------------

Type: TypeAlias = Literal["string", "integer", "number", "boolean", "object", "array"]
"""JSON types, by their names in JSON Schema. An integer is written without a fraction, a number always with one
(or an exponent): 10.0, never 10. JSON does not tell them apart, but collectors do."""


class Field(NamedTuple):
    """Type and meaning of a field. They are the same in every record."""

    type: Type
    meaning: str
    nullable: bool = False
    values: "Type | tuple[str, ...] | None" = None
    """The type of an object's values, if its keys vary; else the names of the fields within it, or within each
    object of an array."""


_FIGURES: Final = ("pid", "cpu_percent", "rss", "fds")

FIELDS: Final[dict[str, Field]] = {
    # On every record.
    "timestamp": Field("string", "when it happened, not when it was written: RFC 3339, UTC, microseconds"),
    "level": Field("string", "debug, info, warning, error or critical"),
    "event": Field("string", "the name of what happened"),
    "message": Field("string", "the same in a sentence: the manual's, with its values filled in, or ours"),
    "msg_id": Field("integer", "the manual's number of the message; null: a record of ours", nullable=True),
    "seq": Field("integer", "1, 2, 3 … over this run, without a gap"),
    "relay_id": Field("string", "one run of the relay"),
    "labels": Field("object", "what the user gave with --label, where it was given", values="string"),
    # The rules.
    "entries": Field("integer", "how many entries the ACL has"),
    "added": Field("integer", "entries that only the new list has"),
    "removed": Field("integer", "entries that only the old list had"),
    "ended": Field("integer", "sessions that were ended because their clients are no longer allowed"),
    "file": Field(
        "string",
        "a file of rules, or for checkpoints; null: the list itself, or no file in particular",
        nullable=True,
    ),
    "line": Field("integer", "the line, counted from 1; null: the whole file, or no file", nullable=True),
    # The target.
    "target_host": Field("string", "the target as it was typed: its address or its name"),
    "addresses": Field("array", "the addresses of the target's name, in the order of trying", values="string"),
    # The operator.
    "command": Field("string", "what the operator asked for"),
    "arguments": Field("object", "with what", values=("session", "client", "seconds")),
    "client": Field("string", "an address or a network of clients, as given"),
    "seconds": Field("number", "by how much the absolute timeout is put off"),
    "peer_uid": Field("integer", "who asked: the uid, as the kernel knows it"),
    "peer_pid": Field("integer", "the process that asked; 0: not to be seen from here"),
    "ok": Field("boolean", "whether it was done"),
    # The seal. Binary values are Base64 (docs/seal.md).
    "public_key": Field("string", "the Ed25519 key that seals the records from here on"),
    "signed_by": Field("string", "the key that vouches for it; null: none does", nullable=True),
    "signature": Field("string", "by that key, or by the one that seals; null: nobody has signed", nullable=True),
    "size": Field("integer", "how many records the checkpoint covers: all before it"),
    "root": Field("string", "the root of the tree over them"),
    # A connection.
    "client_ip": Field("string", "the client's address; null: of several clients", nullable=True),
    "client_port": Field("integer", "the client's port"),
    "proxy_ip": Field("string", "the address of the proxy that announced the client"),
    "proxy_port": Field("integer", "the proxy's port"),
    "session": Field("integer", "the serial number of an admitted session: 1, 2, 3 …"),
    "target_ip": Field(
        "string", "the target's address, the one that was tried last; null: its name has none", nullable=True
    ),
    "target_port": Field("integer", "the target's port"),
    "worker": Field("integer", "the number of a worker, from 1; null: it was the supervisor", nullable=True),
    "connect_ms": Field(
        "number", "milliseconds from the admission to the target's answer; null: there was none", nullable=True
    ),
    "duration_ms": Field("number", "milliseconds from the admission to the end"),
    "reason": Field("string", "why the session, or the relay, ended"),
    "error": Field(
        "string",
        "the name of an errno, or of a look-up's failure (NXDOMAIN, NODATA, TIMEOUT, SERVFAIL, REFUSED …); of "
        "internal.error the exception; null: none",
        nullable=True,
    ),
    "errno": Field("integer", "the number of that errno"),
    "count": Field("integer", "how many there were since the last such record"),
    "waited_ms": Field("number", "milliseconds from the handshake until the relay took the connection"),
    "refused": Field(
        "string", "why connections were refused: rejected, limited, abandoned, proxy_invalid or exhausted"
    ),
    "first_at": Field("string", "when the first of them was refused"),
    "last_at": Field("string", "when the last of them was refused"),
    "paused_s": Field("number", "seconds for which nobody was admitted"),
    "waiting": Field("integer", "connections that wait to be admitted; null: not known", nullable=True),
    "error_from": Field("string", "whose connection gave `error`: client, target or null", nullable=True),
    "client_end": Field("string", "how the client ended its own sending: end, reset, or null", nullable=True),
    "target_end": Field("string", "how the target ended its own sending: end, reset, or null", nullable=True),
    "bytes_from_client": Field(
        "integer",
        "bytes received from the client; in totals those of all sessions, the open ones as last reported",
    ),
    "bytes_from_target": Field(
        "integer",
        "bytes received from the target; in totals those of all sessions, the open ones as last reported",
    ),
    "bytes_to_client": Field("integer", "bytes that the client has got, as far as that is known"),
    "bytes_to_target": Field("integer", "bytes that the target has got, as far as that is known"),
    "idle_s": Field(
        "number", "seconds since the worker reported that bytes had moved, which it does once a second"
    ),
    "inbound_ip": Field("string", "the relay's address that the client reached", nullable=True),
    "outbound_port": Field("integer", "the relay's own port towards the target", nullable=True),
    "client_rtt_ms": Field(
        "number",
        "milliseconds to the client and back, smoothed by TCP, as last measured (`--tcp-info`); null: not known",
        nullable=True,
    ),
    "target_rtt_ms": Field(
        "number", "the same to the target; null: not known, or never connected", nullable=True
    ),
    "client_retransmits": Field(
        "integer", "segments sent to the client again (`--tcp-info`); null: not known", nullable=True
    ),
    "target_retransmits": Field(
        "integer", "the same to the target; null: not known, or never connected", nullable=True
    ),
    # The relay.
    "listen_ip": Field("string", "the address that the relay listens on"),
    "listen_port": Field("integer", "the port that the relay listens on"),
    "acl": Field(
        "string",
        "of relay.active: who may connect, as typed, its first 1024 bytes; of a connection or a session: the "
        "entry that decided, as written, or `no entry`",
    ),
    "workers": Field("integer", "how many workers the relay has"),
    "max_sessions": Field("integer", "how many sessions there may be at once"),
    "expires_at": Field("string", "when the relay will close itself; null: never", nullable=True),
    "options": Field(
        "object",
        "the other parameters, by their names, as typed or by default; without those that are not given and have "
        "no default; … ends a long one that is cut",
        values="string",
    ),
    "pid": Field("integer", "a process"),
    "log_detail": Field("string", "full, or session: how much is recorded of a session"),
    "version": Field("string", "of mprelay"),
    "host": Field("string", "the machine's name; null: not known", nullable=True),
    "opened_by": Field(
        "string",
        "who started the relay: the kernel's login uid, else whom sudo(8) names, else the real uid, by name; "
        "null: not known",
        nullable=True,
    ),
    "clock_synchronised": Field(
        "boolean", "whether something keeps the machine's clock right; null: not known", nullable=True
    ),
    "parameter": Field("string", "which parameter is wrong"),
    "value": Field("string", "what was typed; null: nothing", nullable=True),
    "problem": Field("string", "what is wrong, and what would be right; null: nothing", nullable=True),
    "detail": Field("string", "what happened, in words"),
    "place": Field("string", "where in the program"),
    "resolution_s": Field("number", "seconds that the clock can tell apart"),
    "exitcode": Field("integer", "of a process that ended by itself", nullable=True),
    "signal": Field(
        "string", "the name of the signal that ended the process, or drains the relay", nullable=True
    ),
    "tries": Field("integer", "how often in a row it did not succeed"),
    "again_in_s": Field("number", "seconds until the next try"),
    "silent_s": Field("number", "seconds since the worker's last report"),
    "drain_timeout": Field("number", "seconds that sessions have to finish"),
    "uptime_s": Field("number", "seconds from the start to the end"),
    "active": Field(
        "integer", "sessions that hold a slot now; of connection.pool_exhausted: slots that are taken"
    ),
    "attempts": Field("integer", "connections so far"),
    "rejected": Field("integer", "connections so far that the ACL refused"),
    "limited": Field("integer", "connections so far whose client had come too often, or had too many sessions"),
    "limit": Field("string", "which one: rate, or per_client"),
    "abandoned": Field("integer", "connections so far whose client had given up, or had waited for too long"),
    "proxy_invalid": Field("integer", "connections so far from a listed proxy without a good PROXY header"),
    "exhausted": Field("integer", "connections so far for which there was no slot"),
    "admitted": Field("integer", "sessions so far"),
    "closed": Field("object", "how many sessions ended, by reason", values="integer"),
    "supervisor": Field("object", "what the supervisor's process uses", values=_FIGURES),
    "worker_stats": Field("array", "what each worker uses", values=("worker", *_FIGURES, "sessions")),
    "cpu_percent": Field("number", "of one CPU, since the record before", nullable=True),
    "rss": Field("integer", "bytes of memory in use", nullable=True),
    "fds": Field("integer", "open descriptors", nullable=True),
    "sessions": Field("integer", "sessions of this worker now"),
}
"""Every field by its name, fields within objects included."""
