"""Reads the files of the ACL again, so that no loop waits for a disk, or for the parsing of 100,000 entries.

    supervisor ── digests of the list in force ─▶ run ── the answer ─▶ supervisor

The process lives for one reading. If it hangs, in a file system that does not answer, only the reading fails.
"""

import os
import pickle
from array import array
from contextlib import closing, suppress
from typing import Final

from mprelay.channel.build import BUILD
from mprelay.config.rules import Rules, reread
from mprelay.system import files, oneway, poller, signals, titles

_PART: Final = 64 * 1024  # bytes of one read
_WAIT: Final = 3600.0  # seconds: the supervisor ends whoever takes longer than it wants to wait


def run(rules: Rules, before: oneway.End, answer: oneway.End) -> None:
    """Read the rules, answer and exit. An exception ends the process; its stderr is kept by the supervisor."""
    signals.ignore()
    signals.leave_console()
    signals.die_with_parent()
    titles.show("mprelay: rules", "mprelay-rules")
    digests = array("Q")
    digests.frombytes(_receive(before))
    found = reread(rules, digests, files.read, quotes=not files.privileged())
    with suppress(BrokenPipeError):  # nobody wants it any more
        _send(answer, BUILD.encode() + b"\n" + pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
    os._exit(0)  # the kernel closes what is open


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
