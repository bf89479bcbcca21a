"""What :mod:`mprelay.system.streams` does in its own way on Windows."""

import ctypes
import msvcrt
import sys
import threading
from collections.abc import Callable
from typing import Final

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too

_PATIENCE: Final = 1.0  # seconds


def are_one(one: int, other: int) -> bool:
    """Tell whether two descriptors are one stream, as by ``2>&1``. fstat() gives all pipes the same numbers."""
    handles = [ctypes.c_void_p(msvcrt.get_osfhandle(descriptor)) for descriptor in (one, other)]
    return bool(ctypes.WinDLL("kernelbase").CompareObjectHandles(*handles))


def unless_full(_descriptor: int, write: Callable[[], None]) -> None:
    """Call `write`, and do not wait for it for long: the system does not tell whether a pipe has room."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(_PATIENCE)


def shows_colours(_descriptor: int) -> bool:
    """Tell whether a descriptor shows colours. A console shows the codes as text, unless it is told otherwise."""
    return False
