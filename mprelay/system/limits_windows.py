"""What a process may have on Windows: as many handles as there is memory for, but few sockets in one wait."""

from typing import Final

_SOCKETS: Final = 512  # that one wait takes: mprelay.system.poller_select
_WATCHED_BESIDES: Final = 4  # inbox, room in the uplink, and spare

SESSIONS_PER_WORKER: Final[int | None] = (_SOCKETS - _WATCHED_BESIDES) // 2
"""Sessions that one worker can hold at most."""

PIPES: Final = 0
"""There is no splice(2) that would need any."""


def raise_limit(_wanted: int, _needed: int) -> int | None:
    """There is no limit of open files."""
    return None
