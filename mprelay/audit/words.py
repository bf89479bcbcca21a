"""What the names in records mean, for somebody who has never seen one. Pure."""

from typing import Final

REASONS: Final = {
    "requester_read_closed": "the client ended it",
    "target_read_closed": "the target ended it",
    "requester_write_closed": "the client took no more data",
    "target_write_closed": "the target took no more data",
    "connect_refused": "the target refused the connection",
    "connect_failed": "the target could not be reached",
    "connect_timeout": "the target did not answer in time",
    "idle_timeout": "nothing was sent for too long",
    "linger_timeout": "its last data was not acknowledged",
    "session_timeout": "it lasted as long as a session may",
    "relay_expired": "the relay's time was over",
    "drained": "the relay was told to stop",
    "worker_lost": "its worker process died",
    "killed": "the operator ended it",
    "acl_revoked": "the rules no longer allowed the client",
    "target_socket_failed": "the system gave no socket for it",
    "handoff_failed": "no worker process could take it",
    "requester_channel_failed": "the client's side could not be watched",
    "target_channel_failed": "the target's side could not be watched",
    "requester_buffer_failed": "there was no memory for the client's data",
    "target_buffer_failed": "there was no memory for the target's data",
}
"""Why a session ended."""

STOPS: Final = {
    "expired": "its time was over",
    "idle": "nobody had used it for long",
    "drained": "it was told to stop, and all sessions had ended",
    "signal": "it was told to stop, and sessions that had not ended were cut",
    "failed": "it failed",
}
"""Why a relay ended."""

REFUSALS: Final = {
    "rejected": "not allowed by the rules",
    "limited": "too often, or too many at once",
    "abandoned": "gave up, or waited too long",
    "proxy_invalid": "no good PROXY header",
    "exhausted": "no slot was free",
}
"""Why a connection was refused."""

VERDICTS: Final = {
    "whole": "Whole: nothing is missing, and all figures agree.",
    "open": "Open: what is there agrees, but the log does not show the end.",
    "broken": "Broken: records are missing or were changed, or figures contradict each other.",
}
"""What is to be said of a log."""

WHAT_IT_MEANS: Final = (
    "All times are UTC. All figures are counted from the records in these files, and exact.",
    "A table keeps the largest rows. “At least”: a part of this row may be in the row of the others.",
    "Bytes are those that the relay has received. A session began when the relay admitted it.",
    "“relay.stopped” is the last record of a relay, with totals of its own.",
)
"""How to read a report."""
