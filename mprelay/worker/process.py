"""A worker process: channels, signals, the relay loop, and the barrier for what nobody expected.

Everything here runs in a worker process. A worker is told to stop by the end of its inbox, by nothing else: it
is deaf to signals, so a stop, a supervisor's crash and a replacement are one mechanism. One that cannot hear
(SIGSTOP) is killed: by the supervisor, or, where that is gone, by the kernel.
"""

import os
import time
from multiprocessing.process import current_process
from typing import Final

from mprelay.channel.build import BUILD
from mprelay.channel.down import Receiver
from mprelay.channel.up import Queue, Uplink
from mprelay.core.exits import Exit
from mprelay.core.protocol import Crashed, Ready, Settings
from mprelay.core.unexpected import describe, place_of
from mprelay.system import garbage, passing, signals, titles
from mprelay.worker.loop import Loop

_LAST_WORDS: Final = 5.0
"""Seconds that a crash report may wait for room in the queue."""

_STDOUT: Final = 1
_STDERR: Final = 2

_RESERVE: Final = 64 * 1024
"""Bytes kept for the last report of a worker that has run out of memory."""


def run(settings: Settings, inbox: passing.End, queue: Queue) -> None:
    """Be a worker until the inbox ends. Both channels are this process's own."""
    signals.ignore()
    signals.leave_console()
    signals.die_with_parent()
    name = current_process().name
    titles.show(name, f"mprelay-w{name.rpartition(' ')[2]}")
    garbage.collect_rarely()
    uplink = Uplink(queue)
    reserve = [bytes(_RESERVE)]
    # A failure up to here is printed on the stderr that the supervisor keeps for it (spawning.FirstWords). From
    # now on a report tells it, and stderr becomes what stdout is: the way of complaints
    # (mprelay.records.writer, rule 2).
    os.dup2(_STDOUT, _STDERR)
    try:
        loop = Loop(settings, Receiver(inbox), uplink)
        uplink.report(Ready(time.time(), BUILD))
        uplink.flush()
        loop.run()
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
            os._exit(Exit.SOFTWARE)  # no interpreter shutdown with a loop in an unknown state
