"""One-way pipes between processes, by multiprocessing, of the variant that this platform has.

Rules of each variant:

1. Neither end ever waits. A write that finds no room raises BlockingIOError, and nothing of it is sent.
2. A write of at most ATOMIC bytes arrives whole or not at all, even if the writer is killed.
3. What was written arrives before the end, whether the writer closed its end or died.
4. :meth:`Reader.fileno` can be watched by :class:`mprelay.system.poller.Poller`.
"""

import multiprocessing
import sys

if sys.platform == "win32":
    from mprelay.system.oneway_windows import ATOMIC, HOLDS, REPORT_TIME, End, Reader, Writer
else:
    from mprelay.system.oneway_posix import ATOMIC, HOLDS, REPORT_TIME, End, Reader, Writer

__all__ = ["ATOMIC", "HOLDS", "REPORT_TIME", "End", "Reader", "Writer", "pipe"]


def pipe() -> tuple[End, End]:
    """Make a pipe: the end to read from, and the end to write to. Raises OSError."""
    return multiprocessing.Pipe(duplex=False)
