"""The outlet: the process that owns stdout and stderr, and nothing else.

    supervisor ── records ────▶ main thread ──▶ stdout
    everybody ─── complaints ─▶ other thread ─▶ stderr

Rules:

1. No other process of the relay is ever in a system call on stdout or stderr. Such a call may wait for the reader
   uninterruptibly: a reader in splice(2) towards something slow holds the pipe's mutex, and even a write with
   RWF_NOWAIT waits for that mutex. A process in this state keeps its descriptors open, even after SIGKILL. The
   outlet has no listener, no channel and no session that could stay open with it.
2. It ignores signals. The supervisor's death is the end of the records and nothing more: what has arrived is
   written.
3. Neither stream holds up the other: each has its own thread.
4. A pipe is written in chunks of whole records of at most PIPE_BUF bytes. Such a write is atomic (pipe(7)), so a
   record is never torn, neither by another writer of the same pipe nor by ``kill -9``. A record that a killed
   supervisor did not send to its end is dropped.
5. No room (a full disk, a quota, the largest size of a file) and no memory are temporary. They are reported on
   stderr, and the write is tried again each second. If only a part of a record had room, its rest follows. Any
   other error, or a hang-up, means that the reader of stdout is gone. That is reported too, and the outlet ends.
6. stdout and stderr are never made non-blocking: the flag is part of the open file description, which others
   share.
"""

import errno
import os
import select
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Final

from mprelay.system import signals, titles
from mprelay.system.streams import END, READY, STDERR, STDOUT, WRITTEN, Sink, complain

_OK: Final = 0
_SOFTWARE: Final = 70
_OSERR: Final = 71
_IOERR: Final = 74

_VOICE: Final = 0  # the descriptor on which this process complains
_READ_SIZE: Final = 64 * 1024  # bytes, at most
_LAST_COMPLAINTS_TIMEOUT: Final = 0.5  # seconds, once all else is done


def run(
    records: socket.socket, complaints: socket.socket, voice: socket.socket, stdout: int, stderr: int
) -> None:
    """Be the outlet until the end of the records. This process owns all arguments.

    `voice` is the writing end of `complaints`, which never blocks. The outlet complains there like every process.
    """
    signals.ignore()
    titles.show("mprelay: outlet", "mprelay-outlet")
    _take_over(voice.detach(), stdout, stderr, keep=(records.fileno(), complaints.fileno()))
    say = partial(complain, descriptor=_VOICE)
    begun = threading.Event()
    copying = threading.Thread(target=_copy_complaints, args=(complaints, begun), daemon=True)
    try:
        copying.start()
    except RuntimeError as failure:  # how threading reports EAGAIN
        say(f"the outlet: {failure}")  # the supervisor passes it on
        os._exit(_OSERR)
    code = _OK
    try:
        _copy_records(records, Sink(STDOUT, say), begun)
    except OSError as failure:
        code = _IOERR if begun.is_set() else _OSERR
        say(f"stdout is gone: {failure.strerror}" if begun.is_set() else f"the outlet: {failure}")
    except Exception as unexpected:  # noqa: BLE001 - the barrier: it is reported, and the process ends
        code = _SOFTWARE
        say(f"the outlet: {type(unexpected).__name__}: {unexpected}")
    if begun.is_set():  # else the supervisor reads the complaints
        with suppress(OSError):  # a sandbox refuses it
            complaints.shutdown(socket.SHUT_RD)  # complaints that have arrived are still read, then the end
        copying.join(_LAST_COMPLAINTS_TIMEOUT)
    os._exit(code)  # a normal end would wait for a thread that may wait for the reader of stderr


def _take_over(voice: int, stdout: int, stderr: int, keep: tuple[int, int]) -> None:
    """Put the streams in their places, and close everything else.

    Spawn passes on a descriptor that would keep multiprocessing's resource tracker alive as long as this process.
    """
    for descriptor, place in ((voice, _VOICE), (stdout, STDOUT), (stderr, STDERR)):
        os.dup2(descriptor, place)
    if sys.platform != "win32":
        for last, following in pairwise((STDERR, *sorted(keep), os.sysconf("SC_OPEN_MAX"))):
            os.closerange(last + 1, following)


def _copy_records(records: socket.socket, stdout: Sink, begun: threading.Event) -> None:
    """Write all records until their end. Raises OSError: it cannot begin, or the reader of stdout is gone."""
    if sys.platform == "win32":
        raise NotImplementedError
    poll = select.poll()
    poll.register(records, select.POLLIN)
    poll.register(STDOUT, 0)  # hang-up and error are always reported (poll(2))
    poll.poll(0)  # if a sandbox refuses it, that must be known before READY is sent
    _tell(records, READY)
    begun.set()
    rest = b""
    while True:
        if STDOUT in dict(poll.poll()):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        try:
            part = records.recv(_READ_SIZE)
        except ConnectionResetError:  # the supervisor died before it read what we told it
            part = b""
        over = not part or part.endswith(END)
        part = rest + part
        end = part.rfind(b"\n") + 1
        stdout.write(part[:end])
        rest = part[end:]
        if over:
            _tell(records, WRITTEN)
            return


def _tell(records: socket.socket, what: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor is gone; what it sent is still here
        records.sendall(what)


def _copy_complaints(complaints: socket.socket, begun: threading.Event) -> None:
    """Write all complaints until their end. If nobody takes them they are thrown away."""
    begun.wait()
    while part := complaints.recv(_READ_SIZE):
        with suppress(OSError):
            Sink(STDERR).write(part)
