"""Files that the relay reads: rules now, and whatever else a person writes for it.

Rules:

1. Nothing here can be held up by what stands under the path: a FIFO is opened without waiting for a writer, and
   only a regular file is read. Links are followed, and what stands at their end is judged.
2. Whoever can write the file decides who comes in. So it must belong to root or to this user, and nobody else may
   write it. Windows is not asked for owners: there the rights of the folder must do.
"""

import os
import stat
import sys
from collections.abc import Callable
from typing import Final

if sys.platform == "win32":
    from mprelay.system.owners_windows import OPEN_FLAGS, as_named, privileged, wrong_with, wrong_with_secret
else:
    from mprelay.system.owners_posix import OPEN_FLAGS, as_named, privileged, wrong_with, wrong_with_secret

__all__ = ["SIZE_LIMIT", "open_for_notes", "privileged", "read", "read_secret"]

SIZE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a file, at most."""


def read(path: str) -> bytes:
    """Return the bytes of a file. Raises OSError, and ValueError: what is wrong with the file."""
    return _read(path, wrong_with)


def read_secret(path: str) -> bytes:
    """The same for a file that nobody else may read."""
    return _read(path, lambda found: wrong_with(found) or wrong_with_secret(found))


def open_for_notes(path: str) -> int:
    """Open a file to append to, which is made if there is none, or a FIFO that is being read. Raises OSError.

    Returns:
        The descriptor. Nothing else has its file description, so it may block whoever writes.

    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | OPEN_FLAGS
    descriptor = os.open(as_named(path), flags, 0o644)
    if sys.platform != "win32":
        os.set_blocking(descriptor, True)
    return descriptor


def _read(path: str, judge: Callable[[os.stat_result], str | None]) -> bytes:
    descriptor = os.open(as_named(path), os.O_RDONLY | OPEN_FLAGS)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ValueError("is not a regular file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        if (wrong := judge(found)) is not None:
            raise ValueError(wrong)
        data: bytes | None = file.read(SIZE_LIMIT + 1)
    if data is None:  # /proc/kmsg and its like, which would wait
        raise ValueError("has nothing to read now")
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"is longer than {SIZE_LIMIT} bytes")
    return data
