"""The standard streams: whole records go to stdout, complaints to stderr. Writing there may take for ever.

So only the outlet process writes there, and a process that holds no connections any more. Variants:
:mod:`mprelay.system.streams_posix`, :mod:`mprelay.system.streams_windows`.
"""

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

if sys.platform == "win32":
    from mprelay.system.streams_windows import are_one, shows_colours, unless_full
else:
    from mprelay.system.streams_posix import are_one, shows_colours, unless_full

END: Final = b"\0"
"""The end of the records if shutdown(2) is refused. No record contains it."""

READY: Final = b"r"
WRITTEN: Final = b"w"
NOTES_LOST: Final = b"n"
"""The outlet's words to the supervisor, on the socket of the records: it has begun; all records are on stdout; no
more notes can be written."""

_NOTE: Final = b"\1"  # before a note among the records; no record contains it
_LINE_END: Final = "\x1f"  # in the place of a newline within a note; no note contains it

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

_PIPE_CHUNK: Final = getattr(select, "PIPE_BUF", 4096)  # bytes of one write to a pipe: it is atomic (pipe(7))
_CHUNK: Final = 64 * 1024  # bytes of one write to anything else
_NO_ROOM_ERRNOS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_MEMORY_ERRNOS: Final = {errno.ENOMEM, errno.ENOBUFS}
_TEMPORARY_ERRNOS: Final = _NO_ROOM_ERRNOS | _NO_MEMORY_ERRNOS
_RETRY_INTERVAL: Final = 1.0  # seconds


def complain(text: str, descriptor: int = STDERR) -> None:
    """Say something on stderr, if anybody listens. Nothing of importance is said only there.

    ``sys.stderr`` is not used: the interpreter would write what stays in its buffer again at its end, and fail.
    """
    with suppress(OSError):
        os.write(descriptor, f"mprelay: {text}\n".encode())


def remark(text: str) -> None:
    """Complain, unless stderr would make us wait, or goes where stdout goes, which takes only records."""
    with suppress(OSError):
        if not are_one(STDOUT, STDERR):
            unless_full(STDERR, partial(complain, text))


def is_stdout(descriptor: int) -> bool:
    """Tell whether a descriptor leads to where stdout does."""
    return are_one(descriptor, STDOUT)


def as_line(note: str) -> bytes:
    """Make one line of a note, which travels among the records to the process that writes both."""
    return _NOTE + note.replace("\n", _LINE_END).encode() + b"\n"


def parted(lines: bytes) -> tuple[bytes, list[bytes]]:
    """Part whole lines into records and notes."""
    if _NOTE not in lines:
        return lines, []
    records, notes = [], []
    for line in lines.splitlines(keepends=True):
        if line.startswith(_NOTE):
            notes.append(line[1:-1].replace(_LINE_END.encode(), b"\n"))
        else:
            records.append(line)
    return b"".join(records), notes


def may_colour(descriptor: int) -> bool:
    """Tell whether to write in colour: to a terminal that shows it, unless NO_COLOR is set (no-color.org)."""
    return not os.environ.get("NO_COLOR") and shows_colours(descriptor)


def _writing(descriptor: int) -> Callable[[memoryview], int]:
    """Return what writes to a descriptor. A Windows console takes text: Python's raw file makes it of UTF-8."""
    if sys.platform == "win32" and os.isatty(descriptor):
        return open(descriptor, "wb", buffering=0, closefd=False).write
    return partial(os.write, descriptor)


class Sink:
    """Writes whole records, or others that `what` names, to `descriptor`, which it does not own.

    A temporary error makes the records wait, and `complain` is called once with the reason. Without `complain` it
    is an error.
    """

    def __init__(
        self, descriptor: int, complain: Callable[[str], None] | None = None, what: str = "records"
    ) -> None:
        self._what = what
        self._descriptor = descriptor
        self._put = _writing(descriptor)
        self._complain = complain
        self._chunk_size = _PIPE_CHUNK if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else _CHUNK

    def write(self, records: bytes) -> None:
        """Write all of `records`, however long that takes. Raises OSError if nobody will ever read them."""
        for chunk in _chunks(records, self._chunk_size):
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        said = False
        while rest:
            try:
                rest = rest[self._put(rest) :]
            except BlockingIOError:  # another process that shares stdout has made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError as failure:
                if self._complain is None or failure.errno not in _TEMPORARY_ERRNOS:
                    raise
                if not said:
                    said = True
                    self._complain(f"{self._what} wait: {failure.strerror}")
                time.sleep(_RETRY_INTERVAL)


def _chunks(records: bytes, size: int) -> Iterator[bytes]:
    """Cut after newlines into chunks of at most `size` bytes; a longer record is a chunk of its own."""
    start = 0
    while len(records) - start > size:
        end = records.rfind(b"\n", start, start + size) + 1 or records.find(b"\n", start) + 1 or len(records)
        yield records[start:end]
        start = end
    if start < len(records):
        yield records[start:]
