"""The exit codes, once. The numbers are those of sysexits.h; :mod:`os` has them on POSIX only."""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How a process of the relay ended."""

    OK = 0
    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    OSERR = 71
    IOERR = 74

    @property
    def meaning(self) -> str:
        """What docs/contract.md and ``--help`` say of it."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Exit.OK: "expired, drained, idle for too long, or stopped by a signal",
    Exit.USAGE: "wrong or missing parameters",
    Exit.UNAVAILABLE: "the listener could not be made (messages 11 to 13)",
    Exit.SOFTWARE: "internal failure, or the pool could not be started or kept alive (14)",
    Exit.OSERR: "the platform lacks something (1, 9, 10)",
    Exit.IOERR: "stdout is gone: the reader of the records closed it, or did not take them all, "
    "or the outlet was killed",
}
