"""How many sessions a process can have: its descriptors, and what its poller takes."""

import sys
from typing import Final, NamedTuple

if sys.platform == "win32":
    from mprelay.system.limits_windows import PIPES, SESSIONS_PER_WORKER, raise_limit
else:
    from mprelay.system.limits_posix import PIPES, SESSIONS_PER_WORKER, raise_limit

__all__ = ["SESSIONS_PER_WORKER", "LimitTooLow", "Share", "reserve"]

_WORKER_BASE: Final = 16
"""Descriptors that a worker needs besides those of its sessions: standard streams, epoll, channels and spare."""

_SUPERVISOR_BASE: Final = 32
"""Descriptors that the supervisor needs besides those for workers and a batch of clients: streams, epoll,
listener, signals, timer, the way to the outlet, what spawn opens while it starts a process, and a reading of the
rules."""

_PER_WORKER: Final = 5
"""Descriptors of the supervisor for each worker: channel, queue, sentinel, lifeline, its first words."""

_PER_SESSION: Final = 2
_PER_PIPE: Final = 2


class Share(NamedTuple):
    """What one worker can have."""

    sessions: int
    pipes: int


class LimitTooLow(Exception):  # noqa: N818 - it says what is the matter
    """The system does not allow what was asked for; the text has the numbers."""


def reserve(sessions: int, workers: int, batch: int, others: int = 0) -> Share:
    """Raise the soft limit of open files to what is needed; return what each worker can have.

    Sessions are spread evenly, but when a worker dies the others take over its share. So each gets room for all
    `sessions` if the system allows it, and at least for its share. Pipes come last. The supervisor holds a
    `batch` of accepted sockets and `others` besides its own descriptors. Workers inherit the limit. Raises
    LimitTooLow if not even the shares fit.
    """
    share = -(-sessions // workers)
    most = min(sessions, SESSIONS_PER_WORKER or sessions)
    if share > most:
        raise LimitTooLow(f"{sessions} sessions over {workers} workers are {share} for each, which holds {most}")
    for_most = most * _PER_SESSION + _WORKER_BASE
    for_share = share * _PER_SESSION + _WORKER_BASE
    for_supervisor = workers * _PER_WORKER + _SUPERVISOR_BASE + min(sessions, batch) + others
    wanted, needed = max(for_most + PIPES * _PER_PIPE, for_supervisor), max(for_share, for_supervisor)
    try:
        limit = raise_limit(wanted, needed)
    except (OSError, ValueError) as failure:
        raise LimitTooLow(f"{needed} open files in one process are needed: {failure}") from failure
    if limit is None:
        return Share(most, PIPES)
    if limit < needed:
        raise LimitTooLow(
            f"{sessions} sessions over {workers} workers need {for_share} open files in each worker and "
            f"{for_supervisor} in the supervisor, but the hard limit is {limit} (ulimit -Hn)"
        )
    return Share(
        min(most, (limit - _WORKER_BASE) // _PER_SESSION),
        max(0, min(PIPES, (limit - for_most) // _PER_PIPE)),
    )
