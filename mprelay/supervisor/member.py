"""One worker process, seen from the supervisor: its channels, from its start to its burial.

Rules:

1. The supervisor closes its copies of the worker's channel ends right after the start. Otherwise the end of a
   channel would never come (:mod:`mprelay.system.spawning`).
2. Closing its hand-over channel tells a worker to stop. A worker that does not stop is killed.
3. The queue of a process that is gone may still hold events. They are read before it is closed.
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
"""Seconds that workers have to end by themselves. The whole expiry takes under a second (docs/contract.md)."""


class Member:
    """Worker `number`. The constructor starts the process. Raises OSError if no process or descriptor is left."""

    def __init__(self, number: int, now: float, settings: Settings) -> None:
        self.number = number
        self.started_at = now
        self.ready_at: float | None = None
        self.trouble: str | None = None
        """Why the worker will never be ready, if that is known."""
        self.alarm: Alarm | None = None
        """Kills the worker unless it gets ready, or ends, before."""
        with ExitStack() as undo:
            ours, theirs = passing.channel()
            undo.callback(ours.close)
            with theirs:
                queue = Queue()
                undo.callback(queue.close)
                self._words = spawning.FirstWords()
                undo.callback(self._words.close)
                self._process = spawning.start(
                    worker.main, (settings, theirs, queue), f"mprelay: worker {number}", self._words
                )
            for step in (self._process.close, self._process.join, self._process.kill):  # undone from the last
                undo.callback(step)
            spawning.tie(self._process)
            self._sentinel = spawning.Sentinel(self._process)
            undo.callback(self._sentinel.close)
            self.pid = self._process.pid or 0
            self._sender = Sender(ours, self.pid)
            undo.callback(self._sender.close)
            self.send = self._sender.send
            self.order = self._sender.send_order
            self.reader = EventReader(queue)
            undo.pop_all()

    @property
    def ready(self) -> bool:
        """Whether the worker can take tickets."""
        return self.ready_at is not None

    def get_ready(self, now: float) -> None:
        """Note that the worker can take tickets from now on."""
        self.ready_at = now
        self.cancel_alarm()
        self._words.end()

    def stop(self) -> None:
        """Tell the worker to reset its sessions, report that, and exit. One that is not ready is killed."""
        self._sender.close()
        if not self.ready:
            self.kill()

    def kill(self) -> None:
        """Kill the process. Works on a stopped (SIGSTOP) one too; does nothing if the process is gone."""
        with suppress(ValueError, OSError):  # already closed, during its burial; or a sandbox refuses it
            self._process.kill()

    def join(self) -> None:
        """Kill the process, and wait for its end. Its queue may still hold events.

        This takes no time once :attr:`sentinel` is readable. The kill is needed because the sentinel may become
        readable slightly before the process exits, as the kernel closes descriptors one by one; in a corrupted
        worker, long before.
        """
        self.kill()
        self.wait()

    def wait(self) -> None:
        """Wait for the end of a process that was killed."""
        self._process.join()

    def close(self) -> int:
        """Release everything, after :meth:`join`; return the exit code (negative: the signal)."""
        code = self._process.exitcode
        self.cancel_alarm()
        self._words.end()
        self._sender.close()
        self.reader.close()
        self._sentinel.close()
        self._process.close()
        return code or 0

    def cancel_alarm(self) -> None:
        """Expect nothing more of it within a time."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None  # the alarm's call refers to this object

    def how_it_ended(self, code: int) -> str:
        """Return why the worker was never ready, after :meth:`close` has returned `code`."""
        return self.trouble or ended(code, self._words.last)

    @property
    def sentinel(self) -> int:
        """The descriptor that becomes readable when the process ends (see :meth:`join`)."""
        return self._sentinel.fileno()


def ended(code: int, last_words: str) -> str:
    """Return in words how a process ended that was never ready."""
    how = f"ended before it was ready ({f'exit code {code}' if code >= 0 else signals.name(-code)})"
    return f"{how}: {last_words}" if last_words else how
