"""The standard streams: whole records go to stdout, complaints to stderr. Writing there may take for ever.

The outlet process writes, and so does a process that holds nothing any more. Nobody else does.
"""

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import reduction
from typing import Any, Final

END: Final = b"\0"
"""The end of the records, where shutdown(2) is refused. No record contains it."""

READY: Final = b"r"
WRITTEN: Final = b"w"
"""What the outlet tells the supervisor, on the socket of the records: it has begun; everything is on stdout."""

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

_PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)
_MOST: Final = 64 * 1024  # bytes of one write to what is no pipe
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_MEMORY: Final = {errno.ENOMEM, errno.ENOBUFS}
_PASSING: Final = _NO_ROOM | _NO_MEMORY
_PAUSE: Final = 1.0  # seconds between two tries of what may pass


class Handed:
    """A descriptor that spawn passes to the process that it starts. There it arrives as a plain number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it, while the process is started."""
        return _arrived, (reduction.DupFd(self._number),)  # type: ignore[attr-defined,unused-ignore]


def _arrived(passed: Any) -> int:  # noqa: ANN401 - multiprocessing's own, private class
    return int(passed.detach())


def complain(text: str, descriptor: int = STDERR) -> None:
    """Say something on stderr, if anybody listens. Nothing of importance is said only there.

    Past ``sys.stderr``: what stays in its buffer would be tried again, and fail, when the interpreter ends.
    """
    with suppress(OSError):
        os.write(descriptor, f"mprelay: {text}\n".encode())


def remark(text: str) -> None:
    """Complain, but not where stderr would make us wait, nor where stdout goes too: that takes only records."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR)):
            return
        if sys.platform != "win32":
            poll = select.poll()
            poll.register(STDERR, select.POLLOUT)
            if not poll.poll(0):
                return
        complain(text)


class Sink:
    """Writes whole records to `descriptor`, which it does not own.

    `complain` is told, once, why they wait, if that may pass. Without `complain` it is an error.
    """

    def __init__(self, descriptor: int, complain: Callable[[str], None] | None = None) -> None:
        self._descriptor = descriptor
        self._complain = complain
        self._chunk = _PIPE_BUF if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else _MOST

    def write(self, records: bytes) -> None:
        """Write all of `records`, however long that takes. OSError: nobody will ever read them."""
        for chunk in _chunks(records, self._chunk):
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        said = False
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody who shares stdout has made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError as failure:
                if self._complain is None or failure.errno not in _PASSING:
                    raise
                if not said:
                    said = True
                    self._complain(f"records wait: {failure.strerror}")
                time.sleep(_PAUSE)


def _chunks(records: bytes, most: int) -> Iterator[bytes]:
    """Cut behind newlines into chunks of at most `most` bytes; a longer record is a chunk of its own."""
    start = 0
    while len(records) - start > most:
        end = records.rfind(b"\n", start, start + most) + 1 or records.find(b"\n", start) + 1 or len(records)
        yield records[start:end]
        start = end
    if start < len(records):
        yield records[start:]
