"""The way out of the supervisor: records go over a socket to the outlet, the process that owns stdout.

    put ──▶ backlog, in this process ──▶ socket ──▶ outlet ──▶ stdout

Rules:

1. Nothing here blocks. The socket takes as many bytes as it has room for. The rest waits in this process, and
   the supervisor's loop watches the socket for room. Above the high mark :attr:`Writer.congested` tells the
   supervisor to stop *accepting*. Connections already accepted make a bounded number of records, so the backlog
   stays bounded and nothing is lost. Below the low mark accepting goes on.
2. Descriptors 0 to 2 of this process, and of every process it starts, carry complaints to the outlet. They are a
   socket that never blocks. So no child holds the real streams, and no write to stderr waits for its reader.
3. Nothing is sent before the outlet says that it is ready. Until then this process keeps the real streams. So if
   the outlet is never ready, it has written nothing, and every record is still here to be written without it.
"""

import io
import multiprocessing.process
import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

from mprelay.system import spawning, stdio
from mprelay.system.streams import (
    END,
    NOTES_LOST,
    READY,
    STDERR,
    STDIN,
    STDOUT,
    WRITTEN,
    Sink,
    as_line,
    complain,
    parted,
)

HIGH: Final = 1024 * 1024
LOW: Final = 256 * 1024
"""The marks, in bytes of waiting records. A session writes about 3 KiB with every detail."""

_OUTLET_END_LIMIT: Final = 1.0  # seconds for the outlet's end; the outlet gives its complaints half a second


class Writer:
    """The records that wait, and the outlet process that takes them.

    `notes` is the descriptor of the file for notes, which the outlet writes too; None: there is none.
    """

    def __init__(self, notes: int | None = None) -> None:
        self._notes = notes  # as long as this process has it
        self.notes_lost = False
        """Whether the outlet has said that no more notes can be written."""
        self._waiting: deque[bytes] = deque()
        self.paused = False
        """The last value of :attr:`congested`."""
        self._closed = False
        self._way: stdio.RecordSender | None = None
        self._complaints: stdio.ComplaintReader | None = None  # the outlet's end, until it is ready
        self._unsaid = b""  # complaints that are still to be written to stderr
        self._real: tuple[int, int] | None = None  # stdout and stderr, until it is ready
        self._outlet: multiprocessing.process.BaseProcess | None = None
        self.backlog = 0
        """Bytes of records that wait in this process."""
        self.ready = False
        """Whether the outlet has said that it is ready."""
        self.written = False
        """Whether everything has been written, the last record included."""
        self.absent = True
        """Whether there is no outlet: not started, or ended before it was ready. Every record is still here."""
        self.gone = False
        """Whether a ready outlet has ended, and with it the way to stdout. Further records are thrown away."""

    # -- the outlet ------------------------------------------------------------------------------------------

    def start(self, outlet: Callable[..., None]) -> None:
        """Give stdout and stderr to a process that runs `outlet`. Raises OSError if it cannot be started.

        Call it before any other process is started, because that would inherit the streams.
        """
        with ExitStack() as theirs:
            way, records = stdio.record_channel()
            theirs.callback(records.close)
            self._way = stdio.RecordSender(way)
            complaints, voice = stdio.complaint_channel()
            theirs.callback(voice.close)
            self._complaints = stdio.ComplaintReader(complaints)
            self._real = (os.dup(STDOUT), os.dup(STDERR))
            for descriptor in (STDIN, STDOUT, STDERR):
                os.dup2(voice.fileno(), descriptor)
            # Unbuffered: a buffer would keep the bytes that the socket does not take, try them again when the
            # interpreter exits, and make the exit code 120.
            raw = io.FileIO(STDERR, "w", closefd=False)
            sys.stderr = io.TextIOWrapper(raw, errors="backslashreplace", write_through=True)
            notes = () if self._notes is None else (self._notes,)
            files = map(stdio.Handed, (*self._real, *notes))
            self._outlet = spawning.start(outlet, (records, complaints, voice, *files), "mprelay: outlet")
            self.connect(self._way)

    def connect(self, way: stdio.RecordSender) -> None:
        """Send records over `way` once its other end is ready. The writer owns `way` from now on."""
        self._way = way
        self.absent = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when the outlet has said something, or has ended; -1: none."""
        return -1 if self._way is None else self._way.fileno()

    @property
    def pid(self) -> int | None:
        """The outlet's process ID; None: it was not started."""
        return None if self._outlet is None else self._outlet.pid

    @property
    def waits(self) -> bool:
        """Whether records wait for :meth:`fileno` to become writable."""
        return self.ready and bool(self._waiting)

    def attend(self) -> None:
        """Read what the outlet says, and send waiting records, as far as there is room."""
        if self._way is None or self.absent or self.gone:
            return
        try:
            said = self._way.hear()
        except BlockingIOError:
            pass
        except OSError:  # the outlet ended before it had read everything
            self._lose()
        else:
            if not said:
                self._lose()
            if READY in said:
                self.ready = True
                self._let_go()
                if self._notes is not None:
                    os.close(self._notes)
                    self._notes = None
            if WRITTEN in said:
                self.written = True
            if NOTES_LOST in said:
                self.notes_lost = True
        self._push()

    def ended(self) -> tuple[int, str]:
        """Bury an :attr:`absent` outlet; return its exit code (negative: the signal) and its last words."""
        if self._outlet is None or self._complaints is None:
            return 0, ""
        spawning.await_end(self._outlet, _OUTLET_END_LIMIT)  # an exception closes its socket before it ends
        self._outlet.kill()
        self._outlet.join()
        self._unsaid += self._complaints.take_waiting()
        return self._outlet.exitcode or 0, spawning.last_line(self._unsaid)

    def outlives(self, *, wait: bool) -> bool:
        """Tell whether the outlet still runs. With `wait`, give it a second to end."""
        if self._outlet is None or self._way is None:
            return False
        if not self.ready:
            self._outlet.kill()  # it has no record, and will get none
        if not self._way.await_end(_OUTLET_END_LIMIT if wait else 0):
            return True
        # The kernel closes descriptors when the last thread ends, so this no longer waits for any reader.
        self._outlet.join()
        return False

    # -- records ---------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the backlog rose above the high mark and has not fallen below the low mark since."""
        self.paused = self.backlog > (LOW if self.paused else HIGH)
        return self.paused

    @property
    def unwritten(self) -> int:
        """Bytes of records that would be lost if this process ended now."""
        return self.backlog + (0 if self._way is None else self._way.unsettled)

    def put(self, records: list[bytes]) -> None:
        """Add records, each a whole line. Never blocks."""
        if self.gone:
            return
        data = b"".join(records)
        sent = self._send(data) if self.ready and not self._waiting else 0
        if sent < len(data) and not self.gone:
            # Copied, because orjson's bytes keep the 4 KiB in which they were made (with orjson 3.13 a backlog of
            # 1 MiB took 14 MiB), and join returns a single item as it is.
            self._waiting.append(bytes(memoryview(data)[sent:]))
            self.backlog += len(data) - sent

    def put_notes(self, notes: list[str]) -> None:
        """Add notes, behind the records so far. Never blocks."""
        self.put([as_line(note) for note in notes])

    def close(self) -> None:
        """Tell the outlet that no more records come. When it has written all, it says so, and ends."""
        self._closed = True
        self._push()

    def write_directly(self) -> None:
        """Write everything to stdout from this process, because no outlet is ready. OSError: stdout is gone.

        It may block. So only a process that holds no connection any more may call it.
        """
        if self._outlet is not None:
            self._outlet.kill()  # it has no record
        if self._real is not None:
            with suppress(OSError):  # if it is refused, these still are the real streams
                for descriptor, place in zip(self._real, (STDOUT, STDERR), strict=True):
                    os.dup2(descriptor, place)
            if self._complaints is not None:
                with suppress(OSError):
                    Sink(STDERR).write(self._unsaid + self._complaints.take_waiting())
            self._let_go()
        records, notes = parted(b"".join(self._waiting))
        Sink(STDOUT, complain).write(records)
        if self._notes is not None:
            with suppress(OSError):  # the records tell the same
                Sink(self._notes, complain).write(b"".join(notes))
        self._forget()
        self.written = True

    def _push(self) -> None:
        """Send waiting records, as far as there is room, and the end after the last one."""
        if not self.ready:
            return
        while self._waiting:
            data = self._waiting[0]
            sent = self._send(data)
            if self.gone:
                return
            self.backlog -= sent
            if sent < len(data):
                self._waiting[0] = data[sent:]
                return
            self._waiting.popleft()
        if self._closed and self._way is not None and not self._way.end():
            self._closed = False
            self.put([END])  # the end is sent as data

    def _send(self, data: bytes) -> int:
        """Send as many bytes as there is room for; return their number."""
        if self._way is None:
            return 0
        try:
            return self._way.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._lose()
            return 0

    def _lose(self) -> None:
        """Note that the outlet has ended. If it was ready, the records that still wait go nowhere."""
        if self.ready:
            self.gone = True
            self._forget()
        else:
            self.absent = True

    def _forget(self) -> None:
        self._waiting.clear()
        self.backlog = 0

    def _let_go(self) -> None:
        """Close the real streams and the reading end of the complaints: only the outlet needs them."""
        if self._real is not None:
            for descriptor in self._real:
                os.close(descriptor)
            self._real = None
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None
