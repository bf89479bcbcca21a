"""The clock that counts sleep, on Windows: the monotonic one does (QueryPerformanceCounter). It has no timer."""

from time import monotonic as now

__all__ = ["now", "timer"]


def timer(_at: float, *, wall: bool = False) -> int:  # noqa: ARG001 - as on Linux
    """Make a timer: there is none."""
    return -1
