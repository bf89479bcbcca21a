"""The child's entry point: channels, signals, the relay loop, and the barrier for what nobody expected.

Everything here runs in a worker process. A worker is told to stop by the end of its inbox, by nothing else: it
is deaf to signals, so a stop, a supervisor's crash and a replacement are one mechanism. One that cannot hear
(SIGSTOP) is killed: by the supervisor, or, where that is gone, by the kernel.
"""

import gc
import os
import socket
import time
import zlib
from multiprocessing.process import current_process
from typing import Final

from mprelay import __version__, signals, titles
from mprelay.events import CloseReason, Crashed, Ready, Settings, Ticket
from mprelay.handoff import TICKET_FORMAT, receiver
from mprelay.relay import Relay
from mprelay.uplink import FRAME, KINDS, Queue, Uplink

CRASHED: Final = 70
"""Exit code after an unexpected exception (EX_SOFTWARE, sysexits.h)."""

GC_THRESHOLD: Final = 50_000
"""Containers made before the collector looks for cycles. Nothing here makes cycles; with the default of 700 it
walks all sessions many times a second under load."""

_LAST_WORDS: Final = 5.0
"""Seconds that a crash report may wait for room in the queue."""

_STDOUT: Final = 1
_STDERR: Final = 2

_RESERVE: Final = 64 * 1024
"""Bytes kept for the last report of a worker that has run out of memory."""


def _build() -> str:
    # A CRC is enough: this guards against mistakes, not against forgery. hashlib would load OpenSSL, which takes
    # 4 ms and 3.7 MiB in each worker.
    fields = [(shape.__name__, list(shape.__annotations__.items())) for shape in (Settings, Ticket, *KINDS)]
    shapes = repr((fields, list(CloseReason), TICKET_FORMAT, FRAME))
    return f"{__version__} {zlib.crc32(shapes.encode()):08x}"


BUILD: Final = _build()
"""Names the program: its version, and a checksum of the shapes of all that travels between supervisor and worker.
They load the program at different times, and the package may be upgraded in between."""


def main(settings: Settings, inbox: socket.socket, queue: Queue) -> None:
    """Be a worker until the inbox ends. Both channels are this process's own."""
    signals.ignore()
    signals.die_with_parent()
    name = current_process().name
    titles.show(name, f"mprelay-w{name.rpartition(' ')[2]}")
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    for ours in (inbox.fileno(), queue.writer.fileno()):
        os.set_inheritable(ours, False)  # noqa: FBT003 - os' signature; spawn had to make them so
    uplink = Uplink(queue)
    reserve = [bytes(_RESERVE)]
    # A failure up to here is printed on the stderr that the supervisor keeps for it (spawning.FirstWords). From
    # now on a report tells it, and stderr becomes what stdout is: the way of complaints (mprelay.writer, rule 2).
    os.dup2(_STDOUT, _STDERR)
    try:
        relay = Relay(settings, receiver(inbox), uplink)
        uplink.report(Ready(time.time(), BUILD))
        uplink.flush()
        relay.run()
        os._exit(0)  # the kernel closes what is open, and sooner than the interpreter would
    except BrokenPipeError:
        # The supervisor is gone, and with it whoever could be told. The kernel resets what is open.
        os._exit(0)
    except Exception as unexpected:  # noqa: BLE001 - the barrier: it is reported, and the process ends
        reserve.clear()
        try:
            uplink.report(Crashed(time.time(), place_of(unexpected), describe(unexpected)))
            uplink.flush_within(_LAST_WORDS)
        finally:
            os._exit(CRASHED)  # no interpreter shutdown with a loop in an unknown state


def place_of(unexpected: BaseException) -> str:
    """Tell where an exception was raised: file:line function."""
    trace = unexpected.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    code = trace.tb_frame.f_code
    return _valid(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")  # noqa: PTH119 - no pathlib in a worker


def describe(unexpected: BaseException) -> str:
    """Name an exception and its text, at most 200 characters."""
    return _valid(f"{type(unexpected).__name__}: {unexpected}"[:200])


def _valid(text: str) -> str:
    """Make a text that can be encoded: file names may hold half characters (os.fsdecode)."""
    return text.encode("utf-8", "backslashreplace").decode()
