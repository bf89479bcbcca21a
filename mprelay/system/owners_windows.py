"""Who a file belongs to, on Windows: a matter of the rights of its folder, which nobody asks here."""

import os
import sys
from typing import Final

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

OPEN_FLAGS: Final = os.O_BINARY | os.O_NOINHERIT
"""Flags of open() with which bytes stay what they are."""


def as_named(path: str) -> str:
    """Return a path as it was typed."""
    return path


def wrong_with(_found: os.stat_result) -> str | None:
    """Say why others may decide what is in a file; None: it is not asked."""
    return None


def wrong_with_secret(_found: os.stat_result) -> str | None:
    """Say why others may read a file; None: it is not asked."""
    return None


def privileged() -> bool:
    """Tell whether this process has rights that the person who started it has not: there is no set-user-ID."""
    return False
