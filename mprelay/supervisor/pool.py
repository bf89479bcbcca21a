"""The fixed set of worker processes: start, hand over, notice death, replace, stop, kill.

Rules:

1. Workers are numbered 1..N. A worker that dies is followed by another with the same number.
2. The parent closes its copies of the child's channel ends right after the start
   (:mod:`mprelay.system.spawning`).
3. A worker is told to stop by closing its hand-off channel. One that does not follow is killed.
4. When a process is gone its queue may still hold events: they are read to the end first.
5. psutil is used here, and once before the start (:mod:`mprelay.system.addresses`); nowhere else.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from mprelay import worker
from mprelay.channel import down
from mprelay.channel.up import EventReader, Queue
from mprelay.core.protocol import Settings, Ticket
from mprelay.system import spawning

if TYPE_CHECKING:
    import psutil


class Meter:
    """Measures one process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: psutil.Process | None = None

    def read(self) -> dict[str, Any]:
        """Return pid, cpu_percent since the last call, rss in bytes, fds; null what cannot be had now."""
        figures: dict[str, Any] = {"pid": self._pid, "cpu_percent": None, "rss": None, "fds": None}
        try:
            import psutil  # noqa: PLC0415 - thirty milliseconds that no start has to wait for
        except (ImportError, OSError):  # no descriptor left to read it with
            return figures
        try:
            self._process = process = self._process or psutil.Process(self._pid)
            with process.oneshot():
                figures["cpu_percent"] = process.cpu_percent()
                figures["rss"] = process.memory_info().rss
                if sys.platform != "win32":
                    figures["fds"] = process.num_fds()
        except (psutil.Error, OSError, ValueError):  # ValueError: a sandbox that does not tell our own pid
            pass
        return figures


class Member:
    """One worker process, from its start to its burial."""

    def __init__(self, number: int, now: float, settings: Settings) -> None:
        self.number = number
        self.started_at = now
        self.ready_at: float | None = None
        self.trouble: str | None = None
        """Why it will never be ready, where that is known."""
        with ExitStack() as undo:
            ours, theirs = down.channel()
            undo.callback(ours.close)
            with theirs:
                queue = Queue()
                undo.callback(queue.close)
                self._sender = down.sender(ours)
                self.words = spawning.FirstWords()
                undo.callback(self.words.close)
                self.process = spawning.start(
                    worker.main, (settings, theirs, queue), f"mprelay: worker {number}", self.words
                )
            undo.pop_all()
        self.reader = EventReader(queue)
        self.pid = self.process.pid or 0
        self.meter = Meter(self.pid)

    @property
    def ready(self) -> bool:
        """Whether it can take tickets."""
        return self.ready_at is not None

    def send(self, tickets: Sequence[Ticket], descriptors: Sequence[int]) -> None:
        """Hand over sockets (see :meth:`mprelay.channel.down.Sender.send`)."""
        self._sender.send(tickets, descriptors)

    def stop(self) -> None:
        """Tell the worker to reset its sessions, report that, and exit. One that is still starting has none."""
        self._sender.close()
        if not self.ready:
            self.kill()

    def kill(self) -> None:
        """End it at once. Works on a stopped (SIGSTOP) process too; nothing happens where it is gone."""
        with suppress(ValueError, OSError):  # closed, in the midst of its burial; or a sandbox refuses it
            self.process.kill()

    def join(self) -> None:
        """Wait for the end of the process; its queue may still hold events.

        When :attr:`sentinel` is readable it does not wait. The sentinel may become readable slightly before the
        process exits, because the kernel closes descriptors one by one; in a corrupted worker, long before.
        """
        self.kill()
        self.process.join()

    def close(self) -> int:
        """Give everything back, after :meth:`join`; return the exit code (negative: the signal)."""
        code = self.process.exitcode
        self.words.end()
        self._sender.close()
        self.reader.close()
        self.process.close()
        return code or 0

    @property
    def sentinel(self) -> int:
        """The descriptor that is readable when the process is gone."""
        return self.process.sentinel


class Pool:
    """The workers that live, by number."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self._own_meter = Meter(os.getpid())

    def start(self, number: int, settings: Settings, now: float) -> Member:
        """Start worker `number`. OSError: no process, or no descriptors, to be had."""
        member = self.members[number] = Member(number, now, settings)
        return member

    def forget(self, member: Member) -> None:
        """Remove a worker that was buried."""
        del self.members[member.number]

    def stop(self) -> None:
        """Tell all workers to stop."""
        for member in self.members.values():
            member.stop()

    def kill(self) -> None:
        """End all workers at once."""
        for member in self.members.values():
            member.kill()

    def usage(self) -> list[dict[str, Any]]:
        """Measure each ready worker: CPU % since the last call, RSS in bytes, open descriptors."""
        return [
            {"worker": member.number, **member.meter.read()} for member in self.members.values() if member.ready
        ]

    def own_usage(self) -> dict[str, Any]:
        """Measure this process in the same way."""
        return self._own_meter.read()
