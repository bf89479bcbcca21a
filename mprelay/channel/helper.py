"""The channels of a helper process: a question comes down to it, and what it answers goes up.

    supervisor ── question, then the end ─▶ helper ── its build, then what it answers ─▶ supervisor
    supervisor ── lines, until it is gone ─▶ helper ── its build, then lines ─▶ supervisor

A helper is a process because what it does may hang: a disk, a resolver. Then nothing else hangs with it.
The supervisor's side is :mod:`mprelay.supervisor.helper`.
"""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Final

from mprelay.channel.build import BUILD
from mprelay.system import oneway, poller, signals, titles

_STREAMS: Final = (0, 1)  # and stderr is what the supervisor hears last words by
_PART: Final = 64 * 1024  # bytes of one read
_WAIT: Final = 3600.0  # seconds: the supervisor ends whoever takes longer than it wants to wait


def settle(title: str, name: str) -> None:
    """Become a helper: no signal of a terminal ends it, its parent's death does. The two are shown by ps(1)."""
    signals.ignore()
    signals.leave_console()
    signals.die_with_parent()
    titles.show(title, name)
    _leave_streams()


def _leave_streams() -> None:
    """Let go of the way to the outlet: what hangs here must not keep it open."""
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in _STREAMS:
            os.dup2(nothing, descriptor)
        os.close(nothing)


def receive(end: oneway.End) -> bytes:
    """Read the question to its end."""
    return b"".join(_parts(end))


def lines(end: oneway.End) -> Iterator[bytes]:
    """Read what comes, a line at a time, without its newline, until the supervisor is gone."""
    begun = b""
    for part in _parts(end):
        *whole, begun = (begun + part).split(b"\n")
        yield from whole


def _parts(end: oneway.End) -> Iterator[bytes]:
    """Read what comes, to its end. It waits."""
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
                return
            yield part


class Answering:
    """The way up."""

    def __init__(self, end: oneway.End) -> None:
        self._writer = oneway.Writer(end)
        self._untold = BUILD.encode() + b"\n"

    def send(self, data: bytes) -> None:
        """Write everything, and wait until it outlives this process. Raises BrokenPipeError: nobody reads it."""
        data, self._untold = self._untold + data, b""
        at = 0
        while at < len(data):
            try:
                at += self._writer.write(data[at : at + oneway.ATOMIC])
            except BlockingIOError:
                self._writer.wait_for_room(_WAIT)
        self._writer.settle(None)

    def offer(self, data: bytes) -> bool:
        """Write at most :data:`oneway.ATOMIC` bytes, and wait for nothing. False: there is no room, or no reader.

        Call it after :meth:`send`.
        """
        try:
            self._writer.write(data)
        except (BlockingIOError, BrokenPipeError):
            return False
        return True
