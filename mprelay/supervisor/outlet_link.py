"""The way out: the outlet process, started, watched, and waited for at the end.

The reader of stdout may stall for ever. While the relay serves, nothing waits for that reader. At the end, when
the door is closed and no worker is left, this process waits until the remaining records are written, or until a
signal says not to wait any longer.
"""

import time
from collections.abc import Callable
from math import inf
from typing import Final

from mprelay import outlet
from mprelay.core.phases import Phase, RunState
from mprelay.records import catalogue
from mprelay.records.writer import Writer
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.member import ended
from mprelay.system.errnos import errno_name
from mprelay.system.poller import READ
from mprelay.system.stdio import RecordSender
from mprelay.system.streams import complain

_HURRY_LIMIT: Final = 1.0  # seconds for the remaining records, once a signal says not to wait for their reader


class OutletLink:
    """Runs the writer in the supervisor's loop."""

    def __init__(
        self,
        loop: Loop,
        state: RunState,
        writer: Writer,
        *,
        on_ready: Callable[[], None],
        on_gone: Callable[[], None],
        on_notes_lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._state = state
        self._writer = writer
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_notes_lost = on_notes_lost
        self._awaits_room = False

    def start(self) -> None:
        """Start the outlet, which takes over stdout and stderr. Raises Failure.

        Call it before any other process is started, because that would inherit the streams.
        """
        try:
            self._writer.start(outlet.main)
            self._loop.watch(self._writer.fileno(), self._on_outlet)
        except OSError as failure:
            self._writer.absent = True
            raise Failure(
                catalogue.POOL_START_FAILED,
                error=errno_name(failure.errno),
                detail=f"the outlet could not be started: {failure.strerror}",
            ) from failure

    @property
    def ready(self) -> bool:
        """Whether the outlet is ready."""
        return self._writer.ready

    def put(self, lines: list[bytes]) -> None:
        """Write records (a :data:`mprelay.records.recorder.Sink`). Never blocks."""
        self._writer.put(lines)
        if self._writer.backlog:
            self._await_room()

    def put_notes(self, notes: list[str]) -> None:
        """Write notes, behind the records so far. Never blocks."""
        self._writer.put_notes(notes)
        if self._writer.backlog:
            self._await_room()

    def _await_room(self) -> None:
        """Watch the outlet's socket for room exactly while records wait."""
        if self._awaits_room != (waits := self._writer.waits):
            self._awaits_room = waits
            self._loop.change(self._writer.fileno(), READ | RecordSender.ROOM if waits else READ)

    def _on_outlet(self) -> None:
        """Handle what happened at the outlet's socket: a message, its end, or room for records."""
        was_ready = self._writer.ready
        self._writer.attend()
        if self._writer.absent or self._writer.gone:
            self._awaits_room = False
            self._loop.unwatch(self._writer.fileno())
        else:
            self._await_room()
        if self._writer.notes_lost:
            self._writer.notes_lost = False
            self._on_notes_lost()
        if self._writer.gone:
            self._on_gone()
        elif self._writer.absent and self._state.phase is Phase.STARTING:
            detail = f"the outlet {ended(*self._writer.ended())}"
            raise Failure(catalogue.POOL_START_FAILED, error=None, detail=detail)
        elif not was_ready and self._writer.ready:
            self._on_ready()

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self, ready_by: float, in_a_hurry: Callable[[], bool]) -> bool:
        """Wait until every record is written, or a signal says not to wait. True: the outlet still runs.

        If the outlet is not ready by `ready_by` (monotonic, seconds), the records are written without it.
        `in_a_hurry` tells whether such a signal came.
        """
        writer = self._writer
        writer.close()
        give_up_at = inf
        while not (writer.written or writer.gone):
            now = time.monotonic()
            if writer.absent or (not writer.ready and now >= ready_by):
                self._write_without_outlet()
                break
            if in_a_hurry():
                give_up_at = min(give_up_at, now + _HURRY_LIMIT)
            if now >= give_up_at:
                given_up = f"{writer.unwritten} bytes of records are given up"
                complain(f"{given_up}; process {writer.pid} still writes what it has")
                return writer.outlives(wait=False)
            self._await_room()
            self._loop.turn(min(give_up_at, inf if writer.ready else ready_by) - now)
            writer.attend()  # also if the kernel refuses to watch for room
        return writer.outlives(wait=True)

    @property
    def written(self) -> bool:
        """Whether every record has been written, the last one included."""
        return self._writer.written

    def _write_without_outlet(self) -> None:
        """Write the records from here, because no outlet is ready. This may block: no connection is left."""
        self._loop.close()  # so that a signal ends the process
        try:
            self._writer.write_directly()
        except OSError as failure:
            complain(f"stdout is gone: {failure.strerror}")
