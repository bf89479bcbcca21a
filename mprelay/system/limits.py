"""How many descriptors a process may have. The only file that knows RLIMIT_NOFILE (getrlimit(2))."""

import sys
from typing import Final, NamedTuple

_WORKER_BASE: Final = 16
"""Descriptors that a worker needs besides those of its sessions: standard streams, epoll, channels and spare."""

_SUPERVISOR_BASE: Final = 24
"""Descriptors that the supervisor needs besides those for workers and a batch of clients: streams, epoll,
listener, signals, timer, the way to the outlet, and what spawn opens while it starts a process."""

_PER_WORKER: Final = 5
"""Descriptors of the supervisor for each worker: channel, queue, sentinel, lifeline, its first words."""

_PER_SESSION: Final = 2

_PIPES: Final = 64
"""Pipes of a worker, at most, for flows that keep filling their buffer. Sessions come first."""

_PER_PIPE: Final = 2


class Share(NamedTuple):
    """What one worker can have."""

    sessions: int
    pipes: int


class LimitTooLow(Exception):  # noqa: N818 - it says what is the matter
    """The hard limit does not allow what was asked for; the text has the numbers."""


def reserve(sessions: int, workers: int, batch: int) -> Share:
    """Raise the soft limit to what is needed; return what each worker can have.

    Sessions are spread evenly, but when a worker dies the others take over its share. So each gets room for all
    `sessions` if the hard limit allows, and at least for its share. The supervisor holds a `batch` of accepted
    sockets besides its own descriptors. Workers inherit the limit. Raises LimitTooLow if not even the shares fit.

    A sandbox may refuse to show the limit, which then counts as no limit, or to raise it.
    """
    if sys.platform == "win32":
        return Share(sessions, 0)
    import resource  # noqa: PLC0415 - only where it exists

    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return Share(sessions, _PIPES)
    for_all = sessions * _PER_SESSION + _WORKER_BASE
    wanted = for_all + _PIPES * _PER_PIPE
    for_share = -(-sessions // workers) * _PER_SESSION + _WORKER_BASE
    for_supervisor = workers * _PER_WORKER + _SUPERVISOR_BASE + min(sessions, batch)
    wanted, needed = max(wanted, for_supervisor), max(for_share, for_supervisor)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit < needed:
        raise LimitTooLow(
            f"{sessions} sessions over {workers} workers need {for_share} open files in each worker and "
            f"{for_supervisor} in the supervisor, but the hard limit is {hard} (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError) as failure:  # above fs.nr_open, or a sandbox refuses it
            if soft < needed:
                raise LimitTooLow(f"{limit} open files in one process are needed: {failure}") from failure
            limit = soft
    elif soft != resource.RLIM_INFINITY:
        limit = soft
    return Share(
        min(sessions, (limit - _WORKER_BASE) // _PER_SESSION),
        max(0, min(_PIPES, (limit - for_all) // _PER_PIPE)),
    )
