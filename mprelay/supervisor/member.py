"""One worker process, seen from the supervisor: its channels, from its start to its burial.

Rules:

1. The parent closes its copies of the child's channel ends right after the start
   (:mod:`mprelay.system.spawning`).
2. A worker is told to stop by closing its hand-off channel. One that does not follow is killed.
3. When a process is gone its queue may still hold events: they are read to the end first.
"""

from contextlib import ExitStack, suppress
from typing import Final

from mprelay import worker
from mprelay.channel.down import Sender
from mprelay.channel.up import EventReader, Queue
from mprelay.core.protocol import Settings
from mprelay.supervisor.loop import Alarm
from mprelay.system import passing, signals, spawning

GRACE: Final = 0.4
"""Seconds in which workers end by themselves. The whole expiry takes less than one second."""


class Member:
    """Worker `number`. Making it starts the process; OSError: there is none, or no descriptor, to be had."""

    def __init__(self, number: int, now: float, settings: Settings) -> None:
        self.number = number
        self.started_at = now
        self.ready_at: float | None = None
        self.trouble: str | None = None
        """Why it will never be ready, where that is known."""
        self.alarm: Alarm | None = None
        """What happens to it unless it does first what it has to do: get ready, or end."""
        with ExitStack() as undo:
            ours, theirs = passing.channel()
            undo.callback(ours.close)
            with theirs:
                queue = Queue()
                undo.callback(queue.close)
                self._sender = Sender(ours)
                self.send = self._sender.send
                self._words = spawning.FirstWords()
                undo.callback(self._words.close)
                self._process = spawning.start(
                    worker.main, (settings, theirs, queue), f"mprelay: worker {number}", self._words
                )
            undo.pop_all()
        self.reader = EventReader(queue)
        self.pid = self._process.pid or 0

    @property
    def ready(self) -> bool:
        """Whether it can take tickets."""
        return self.ready_at is not None

    def get_ready(self, now: float) -> None:
        """Note that it can take tickets from now on."""
        self.ready_at = now
        self._words.end()

    def stop(self) -> None:
        """Tell the worker to reset its sessions, report that, and exit. One that is still starting has none."""
        self._sender.close()
        if not self.ready:
            self.kill()

    def kill(self) -> None:
        """End it at once. Works on a stopped (SIGSTOP) process too; nothing happens where it is gone."""
        with suppress(ValueError, OSError):  # closed, in the middle of its burial; or a sandbox refuses it
            self._process.kill()

    def join(self) -> None:
        """Wait for the end of the process; its queue may still hold events.

        When :attr:`sentinel` is readable it does not wait. The sentinel may become readable slightly before the
        process exits, because the kernel closes descriptors one by one; in a corrupted worker, long before.
        """
        self.kill()
        self._process.join()

    def close(self) -> int:
        """Give everything back, after :meth:`join`; return the exit code (negative: the signal)."""
        code = self._process.exitcode
        self.cancel_alarm()
        self._words.end()
        self._sender.close()
        self.reader.close()
        self._process.close()
        return code or 0

    def cancel_alarm(self) -> None:
        """Expect nothing more of it within a time."""
        if self.alarm is not None:
            self.alarm.cancel()

    def how_it_ended(self, code: int) -> str:
        """Tell why it was never ready, after :meth:`close` has returned `code`."""
        return self.trouble or ended(code, self._words.last)

    @property
    def sentinel(self) -> int:
        """The descriptor that is readable when the process is gone."""
        return self._process.sentinel


def ended(code: int, last_words: str) -> str:
    """Tell how a process ended that should have become ready."""
    how = f"ended before it was ready ({f'exit code {code}' if code >= 0 else signals.name(-code)})"
    return f"{how}: {last_words}" if last_words else how
