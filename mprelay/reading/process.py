"""Reads the files of the ACL again, so that no loop waits for a disk, or for the parsing of 100,000 entries.

    supervisor ── the rules, digests of the list in force ─▶ run ── the answer ─▶ supervisor

The process lives for one reading. If it hangs, in a file system that does not answer, only the reading fails.
"""

import io
import os
import pickle
from array import array
from contextlib import closing, suppress
from typing import Final

from mprelay.channel.build import BUILD
from mprelay.config.rules import Rules, reread
from mprelay.system import files, oneway, poller, signals, titles

_STREAMS: Final = (0, 1)  # and stderr is what the supervisor hears last words by
_PART: Final = 64 * 1024  # bytes of one read
_WAIT: Final = 3600.0  # seconds: the supervisor ends whoever takes longer than it wants to wait


def run(question: oneway.End, answer: oneway.End) -> None:
    """Read the rules, answer and exit. An exception ends the process; its stderr is kept by the supervisor."""
    signals.ignore()
    signals.leave_console()
    signals.die_with_parent()
    titles.show("mprelay: rules", "mprelay-rules")
    _leave_streams()
    asked = io.BytesIO(_receive(question))
    rules: Rules = pickle.load(asked)  # noqa: S301 - from our supervisor
    digests = array("Q")
    digests.frombytes(asked.read())
    found = reread(rules, digests, files.read, quotes=not files.privileged())
    with suppress(BrokenPipeError):  # nobody wants it any more
        _send(answer, BUILD.encode() + b"\n" + pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
    os._exit(0)  # the kernel closes what is open


def _leave_streams() -> None:
    """Let go of the way to the outlet: a disk that does not answer must not keep it open."""
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in _STREAMS:
            os.dup2(nothing, descriptor)
        os.close(nothing)


def _receive(end: oneway.End) -> bytes:
    """Read to the end of a pipe."""
    data = bytearray()
    with closing(oneway.Reader(end)) as reader, closing(poller.Poller()) as arrival:
        arrival.add(reader.fileno(), poller.READ)
        while True:
            try:
                part = reader.read(_PART)
            except BlockingIOError:
                arrival.wait(None)
                continue
            if not part:
                arrival.remove(reader.fileno())
                return bytes(data)
            data += part


def _send(end: oneway.End, data: bytes) -> None:
    """Write everything to a pipe. Raises BrokenPipeError."""
    writer = oneway.Writer(end)
    at = 0
    while at < len(data):
        try:
            at += writer.write(data[at : at + oneway.ATOMIC])
        except BlockingIOError:
            writer.wait_for_room(_WAIT)
    writer.settle(None)
