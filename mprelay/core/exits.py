"""The exit codes, once. The numbers are those of sysexits.h; :mod:`os` has them on POSIX only."""

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """How a process of the relay ended."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member with its meaning, as README and ``--help`` tell it."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "expired, drained, or stopped by a signal"
    USAGE = 2, "wrong or missing parameters"
    UNAVAILABLE = 69, "no listener (messages 11 to 13)"
    SOFTWARE = 70, "an internal failure, or no workers could be started or kept alive (message 14)"
    OSERR = 71, "the platform lacks something (messages 1, 9 and 10)"
    IOERR = 74, "stdout is gone: its reader has closed it"
