"""Who a file belongs to, and who may write it, on POSIX systems."""

import os
import stat
import sys
from typing import Final

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

OPEN_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Flags of open(2) with which no kind of file holds up whoever opens it."""


def as_named(path: str) -> bytes:
    """Encode a path as it was typed: UTF-8 in any locale, and other bytes as lone surrogates."""
    return path.encode("utf-8", "surrogateescape")


def wrong_with(found: os.stat_result) -> str | None:
    """Say why others than root and this user may decide what is in a file; None: they may not."""
    if found.st_uid not in {0, os.geteuid()}:
        return f"belongs to user {found.st_uid}: it must belong to root or to the relay's user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by its group or by others: chmod go-w"
    return None


def wrong_with_secret(found: os.stat_result) -> str | None:
    """Say why others may read a file; None: they may not.

    A file of root may be readable by a group, because root can hand it over to another user in no other way, and
    the mask of an access control list looks like a group, too (systemd's LoadCredential). PostgreSQL has the same
    rule for its key.
    """
    handed_over = found.st_uid == 0 != os.geteuid()
    if found.st_mode & (stat.S_IROTH if handed_over else stat.S_IRGRP | stat.S_IROTH):
        return "can be read by its group or by others: chmod go-r"
    return None


def privileged() -> bool:
    """Tell whether this process has rights that the person who started it has not (set-user-ID)."""
    return (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid())
