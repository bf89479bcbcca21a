"""Records leave at once where stdout takes them, and else through one thread, from a bounded backlog.

Rules:

1. Nobody but this thread ever waits for stdout: a collector that stalls must not stop sessions. Above the
   high mark :attr:`Writer.congested` tells the supervisor to stop *accepting*; what is in flight makes a
   bounded number of records, so the backlog stays bounded and nothing is lost. Below the low mark it goes on.
2. stdout is never made non-blocking: the flag is part of the open file description, which others share.
3. A pipe is written in chunks of whole records of at most PIPE_BUF bytes: such a write is atomic (pipe(7)),
   so a record is never torn, not by another writer of the same pipe nor by our own ``kill -9``.
4. No room on the disk (ENOSPC, EDQUOT) is said on stderr, and tried again each second until there is. Any
   other error means that the reader is gone: :attr:`Writer.failed`.
"""

import errno
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

HIGH: Final = 1024 * 1024
LOW: Final = 256 * 1024
"""Bytes of records that wait. A session writes about 3 KiB with every detail."""

_PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)
_LARGE: Final = 64 * 1024
_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_NO_NOWAIT: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE, errno.ENOSYS}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


class Writer:
    """Writes to descriptor `fd`, which it does not own.

    `wake` is called, in the writer's thread, when a congestion is over, when writing failed, and at the end.
    """

    def __init__(self, fd: int, wake: Callable[[], None]) -> None:
        self._fd = fd
        self._wake = wake
        self._chunk = _PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else _LARGE
        self._queue: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._direct = stat.S_ISFIFO(os.fstat(fd).st_mode) and bool(_NOWAIT)
        self._put = 0  # bytes; only the caller's thread writes it
        self._done = 0  # bytes; only the writer's thread writes it
        self._paused = False
        self.failed: OSError | None = None
        self.finished = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to write, in a thread. RuntimeError: none can be started."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether there is a thread."""
        return self._thread.ident is not None

    @property
    def backlog(self) -> int:
        """How many bytes wait."""
        return self._put - self._done

    @property
    def congested(self) -> bool:
        """Whether the backlog rose above the high mark and has not fallen below the low mark since."""
        if self.backlog > (LOW if self._paused else HIGH):
            self._paused = True
            # It may have fallen between the look and the flag: then nobody would call `wake`.
            self._paused = self.backlog > LOW
        else:
            self._paused = False
        return self._paused

    def put(self, records: list[bytes]) -> None:
        """Add records, each a whole line. Never blocks.

        What a pipe takes at once is written here: waking the thread for it, and its taking the interpreter's
        lock, cost the supervisor a fifth of its time under load (py-spy, strace: futex).
        """
        if self._direct and not self.backlog and self.failed is None:
            records = self._write_now(records)
        if records:
            # Copied, for orjson gives back bytes that keep the 4 KiB in which they were made (3.13: a backlog of
            # 1 MiB took 14).
            records = [bytes(memoryview(record)) for record in records]
            self._put += sum(map(len, records))
            self._queue.put(records)

    def _write_now(self, records: list[bytes]) -> list[bytes]:
        """Write what can be written without waiting; return the rest, for the thread."""
        if sys.platform != "linux":
            return records
        chunks = list(_chunks(records, self._chunk))
        for done, chunk in enumerate(chunks):
            try:
                os.pwritev(self._fd, [chunk], -1, _NOWAIT)  # whole or not at all: see rule 3
            except OSError as failure:
                if failure.errno in _NO_NOWAIT:
                    self._direct = False
                return chunks[done:]
        return []

    def close(self) -> None:
        """Say that nothing more comes. When all is written, or failed, the writer is `finished` and wakes."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait until the writer is finished; without a thread, write all here and now."""
        if self.started:
            self._thread.join()
        else:
            self._run()

    def _run(self) -> None:
        try:
            self._write_all()
        finally:
            if not self.finished:  # an exception that nobody expected: nothing more will come out
                self.failed = self.failed or OSError(errno.EIO, os.strerror(errno.EIO))
                self.finished = True
            self._wake()

    def _write_all(self) -> None:
        last = False
        while not last:
            batches = [self._queue.get()]
            while not self._queue.empty():
                batches.append(self._queue.get())
            last = batches[-1] is None
            for chunk in _chunks((record for batch in batches if batch for record in batch), self._chunk):
                if self.failed is None:
                    self._write(chunk)
                self._done += len(chunk)
                if self._paused and self.backlog <= LOW:
                    self._paused = False
                    self._wake()
        self.finished = True  # before the wake-up: who looks after it must see it

    def _write(self, chunk: bytes) -> None:
        """Write the whole chunk, however long that takes."""
        rest = memoryview(chunk)
        said = False
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # somebody who shares stdout has made it non-blocking
                select.select([], [self._fd], [])
            except OSError as failure:
                if failure.errno not in _FULL:
                    self.failed = failure
                    self._wake()
                    return
                if not said:
                    said = True
                    complain(f"records wait: {failure.strerror}")
                time.sleep(1.0)


def complain(text: str) -> None:
    """Say something on stderr, if anybody listens. Nothing of importance is said only there.

    Past ``sys.stderr``: what stays in its buffer would be tried again, and fail, when the interpreter ends.
    """
    with suppress(OSError):
        os.write(2, f"mprelay: {text}\n".encode())


def _chunks(records: Iterable[bytes], most: int) -> Iterable[bytes]:
    """Join whole records into chunks of at most `most` bytes; a longer record is a chunk of its own."""
    chunk: list[bytes] = []
    size = 0
    for record in records:
        if chunk and size + len(record) > most:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(record)
        size += len(record)
    if chunk:
        yield b"".join(chunk)
