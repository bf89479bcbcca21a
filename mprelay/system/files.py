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
from typing import Final

if sys.platform == "win32":
    from mprelay.system.owners_windows import OPEN_FLAGS, as_named, privileged, wrong_with
else:
    from mprelay.system.owners_posix import OPEN_FLAGS, as_named, privileged, wrong_with

__all__ = ["SIZE_LIMIT", "privileged", "read"]

SIZE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a file, at most."""


def read(path: str) -> bytes:
    """Return the bytes of a file. Raises OSError, and ValueError: what is wrong with the file."""
    descriptor = os.open(as_named(path), os.O_RDONLY | OPEN_FLAGS)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ValueError("is not a regular file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        if (wrong := wrong_with(found)) is not None:
            raise ValueError(wrong)
        data: bytes | None = file.read(SIZE_LIMIT + 1)
    if data is None:  # /proc/kmsg and its like, which would wait
        raise ValueError("has nothing to read now")
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"is longer than {SIZE_LIMIT} bytes")
    return data
