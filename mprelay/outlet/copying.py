"""The outlet: the process that owns stdout and stderr, and nothing else.

    supervisor ── records ────▶ main thread ──▶ stdout
               └─ notes ──────▶ a thread ─────▶ a file (--checkpoint-to)
    everybody ─── complaints ─▶ a thread ─────▶ stderr

Rules:

1. No other process of the relay is ever in a system call on stdout or stderr. Such a call may wait for the reader
   uninterruptibly: a reader in splice(2) towards something slow holds the pipe's mutex, and even a write with
   RWF_NOWAIT waits for that mutex. A process in this state keeps its descriptors open, even after SIGKILL. The
   outlet has no listener, no channel and no session that could stay open with it.
2. It ignores signals. The supervisor's death is the end of the records and nothing more: what has arrived is
   written.
3. No stream holds up another: each has its own thread. A note waits until the records before it are written.
4. A pipe is written in chunks of whole records of at most PIPE_BUF bytes. Such a write is atomic (pipe(7)), so a
   record is never torn, neither by another writer of the same pipe nor by ``kill -9``. A record that a killed
   supervisor did not send to its end is dropped.
5. No room (a full disk, a quota, the largest size of a file) and no memory are temporary. They are reported on
   stderr, and the write is tried again each second. If only a part of a record had room, its rest follows. Any
   other error, or a hang-up, means that the reader of stdout is gone. That is reported too, and the outlet ends.
6. stdout and stderr are never made non-blocking: the flag is part of the open file description, which others
   share.
"""

import os
import threading
from contextlib import suppress
from functools import partial
from typing import Final

from mprelay.outlet.notebook import Notebook
from mprelay.system import signals, stdio, titles
from mprelay.system.streams import END, NOTES_LOST, READY, STDERR, STDIN, STDOUT, WRITTEN, Sink, complain, parted

_OK: Final = 0
_SOFTWARE: Final = 70
_OSERR: Final = 71
_IOERR: Final = 74

_VOICE: Final = STDIN  # the descriptor on which this process complains
_READ_SIZE: Final = 64 * 1024  # bytes, at most
_LAST_COMPLAINTS_TIMEOUT: Final = 0.5  # seconds, once all else is done


def run(records: stdio.RecordEnd, complaints: stdio.ComplaintEnd, voice: stdio.ComplaintEnd, *files: int) -> None:
    """Be the outlet until the end of the records. This process owns all arguments.

    `voice` is the writing end of `complaints`, which never blocks. The outlet complains there like every process.
    `files` are the descriptors of stdout, of stderr, and of the file for notes if there is one.
    """
    stdout, stderr, *notes = files
    signals.ignore()
    titles.show("mprelay: outlet", "mprelay-outlet")
    beside = [open(number, "wb", buffering=0) for number in notes]  # noqa: SIM115, PTH123 - as long as this runs
    stdio.take_over(voice, stdout, stderr, keep=(records, complaints, *beside))
    signals.leave_console()
    say = partial(complain, descriptor=_VOICE)
    begun = threading.Event()
    reader = stdio.ComplaintReader(complaints)
    copying = threading.Thread(target=_copy_complaints, args=(reader, begun), daemon=True)
    try:
        copying.start()
    except RuntimeError as failure:  # how threading reports EAGAIN
        say(f"the outlet: {failure}")  # the supervisor passes it on
        os._exit(_OSERR)
    code = _OK
    try:
        receiver = stdio.RecordReceiver(records)
        notebook = Notebook(notes[0], say, partial(receiver.tell, NOTES_LOST)) if notes else None
        _copy_records(receiver, Sink(STDOUT, say), begun, notebook)
    except OSError as failure:
        code = _IOERR if begun.is_set() else _OSERR
        say(f"stdout is gone: {failure.strerror}" if begun.is_set() else f"the outlet: {failure}")
    except Exception as unexpected:  # noqa: BLE001 - the barrier: it is reported, and the process ends
        code = _SOFTWARE
        say(f"the outlet: {type(unexpected).__name__}: {unexpected}")
    if begun.is_set():  # else the supervisor reads the complaints
        reader.end()
        copying.join(_LAST_COMPLAINTS_TIMEOUT)
    os._exit(code)  # a normal end would wait for a thread that may wait for the reader of stderr


def _copy_records(
    records: stdio.RecordReceiver, stdout: Sink, begun: threading.Event, notebook: Notebook | None
) -> None:
    """Write all records until their end. Raises OSError: the reader of stdout is gone."""
    if notebook is not None:
        notebook.start()
    records.tell(READY)
    begun.set()
    rest = b""
    while True:
        part = records.receive(_READ_SIZE)
        over = not part or part.endswith(END)
        part = rest + part
        end = part.rfind(b"\n") + 1
        whole = part[:end]
        if notebook is None:
            stdout.write(whole)
        else:
            lines, notes = parted(whole)
            stdout.write(lines)
            notebook.add(notes)
        rest = part[end:]
        if over:
            if notebook is not None:
                notebook.end()
            records.tell(WRITTEN)
            return


def _copy_complaints(complaints: stdio.ComplaintReader, begun: threading.Event) -> None:
    """Write all complaints until their end. If nobody takes them they are thrown away."""
    begun.wait()
    while part := complaints.receive(_READ_SIZE):
        with suppress(OSError):
            Sink(STDERR).write(part)
