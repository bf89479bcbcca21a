"""The exit codes, once. The numbers are those of sysexits.h; :mod:`os` has them on POSIX only."""

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """How a process of the relay ended, as docs/contract.md and ``--help`` tell it."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member of a code and its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "expired, drained, or stopped by a signal"
    USAGE = 2, "wrong or missing parameters"
    UNAVAILABLE = 69, "the listener could not be made (messages 11 to 13)"
    SOFTWARE = 70, "internal failure, or the pool could not be started or kept alive (14)"
    OSERR = 71, "the platform lacks something (1, 9, 10)"
    IOERR = (
        74,
        "stdout is gone: the reader of the records closed it, or did not take them all, or the outlet was killed",
    )
