"""How many descriptors a process may have. The only file that knows RLIMIT_NOFILE (getrlimit(2))."""

import sys
from typing import NamedTuple

OWN = 16
"""Descriptors that a worker needs besides its sessions': standard streams, epoll, channels and spare."""

SUPERVISOR = 24
"""Descriptors that the supervisor needs besides those for workers and a batch of clients: streams, epoll,
listener, signals, timer, the way to the outlet, and what spawn opens while it starts a process."""

PER_SESSION = 2

PIPES = 64
PER_PIPE = 2
"""Pipes of a worker at most, for flows that keep filling their buffer; sessions come first."""

PER_WORKER = 5
"""Descriptors of the supervisor for each worker: channel, queue, sentinel, lifeline, its first words."""


class Share(NamedTuple):
    """What one worker can have."""

    sessions: int
    pipes: int


class LimitTooLow(Exception):  # noqa: N818 - it says what is the matter
    """The hard limit does not allow what was asked for; the text has the numbers."""


def reserve(sessions: int, workers: int, batch: int) -> Share:
    """Raise the soft limit to what is needed; return what each worker can have.

    Least-loaded assignment spreads sessions evenly, but when workers die the others hold theirs too: so each
    is given room for all `sessions` where the hard limit allows it, and at least for its share. The supervisor
    holds a `batch` of accepted sockets besides its own. Workers inherit the limit. Raises LimitTooLow where not
    even the shares fit. A sandbox may refuse to tell the limit, which is then taken for none, or to raise it.
    """
    if sys.platform == "win32":
        return Share(sessions, 0)
    import resource  # noqa: PLC0415 - only where it exists

    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return Share(sessions, PIPES)
    full = sessions * PER_SESSION + OWN
    most = full + PIPES * PER_PIPE
    least = -(-sessions // workers) * PER_SESSION + OWN
    own = workers * PER_WORKER + SUPERVISOR + min(sessions, batch)
    allowed = max(most, own) if hard == resource.RLIM_INFINITY else min(max(most, own), hard)
    if allowed < max(least, own):
        raise LimitTooLow(
            f"{sessions} sessions over {workers} workers need {least} open files in each worker and {own} in the "
            f"supervisor, but the hard limit is {hard} (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError) as failure:  # above fs.nr_open, or a sandbox refuses it
            if soft < max(least, own):
                raise LimitTooLow(f"{allowed} open files in one process are needed: {failure}") from failure
            allowed = soft
    held = max(soft, allowed) if soft != resource.RLIM_INFINITY else allowed
    return Share(min(sessions, (held - OWN) // PER_SESSION), max(0, min(PIPES, (held - full) // PER_PIPE)))
