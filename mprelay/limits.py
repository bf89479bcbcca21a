"""How many descriptors a process may have. The only file that knows RLIMIT_NOFILE (getrlimit(2))."""

import sys

OWN = 16
"""Descriptors that a worker needs besides its sessions': standard streams, epoll, channels and spare."""

PER_SESSION = 2

BATCH = 64
"""Accepted sockets that the supervisor holds at most, besides its own descriptors."""

PER_WORKER = 4
"""Descriptors of the supervisor for each worker: channel, queue, sentinel, lifeline."""


class LimitTooLow(Exception):  # noqa: N818 - it says what is the matter
    """The hard limit does not allow what was asked for; the text has the numbers."""


def reserve(sessions: int, workers: int) -> int:
    """Raise the soft limit to what is needed; return how many sessions each worker can hold.

    Least-loaded assignment spreads sessions evenly, but when workers die the others hold theirs too: so each
    is given room for all `sessions` where the hard limit allows it, and at least for its share.
    Workers inherit the limit. Raises LimitTooLow where not even the shares fit.
    """
    if sys.platform == "win32":
        return sessions
    import resource  # noqa: PLC0415 - only where it exists

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sessions * PER_SESSION + OWN
    least = -(-sessions // workers) * PER_SESSION + OWN
    own = workers * PER_WORKER + OWN + min(sessions, BATCH)
    allowed = max(most, own) if hard == resource.RLIM_INFINITY else min(max(most, own), hard)
    if allowed < max(least, own):
        raise LimitTooLow(
            f"{sessions} sessions over {workers} workers need {least} open files in each worker and {own} in the "
            f"supervisor, but the hard limit is {hard} (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError) as failure:  # above fs.nr_open
            raise LimitTooLow(f"{allowed} open files in one process are needed: {failure}") from failure
    return min(sessions, (allowed - OWN) // PER_SESSION)
