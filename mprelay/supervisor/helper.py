"""A helper process, seen from the supervisor: started, asked, heard, buried. Nothing here ever waits for it.

What goes to the process is sent when there is room, and what comes is taken when it is there. Either the process
is asked once, and the end follows the question; or the way to it stays open, and :meth:`Helper.say` uses it. The
process's side is :mod:`mprelay.channel.helper`.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.process import BaseProcess
from typing import Final, TypeAlias

from mprelay.channel.build import BUILD
from mprelay.core.texts import shown
from mprelay.supervisor.loop import Loop
from mprelay.system import oneway, signals, spawning

_PART: Final = 256 * 1024  # bytes of one read

Main: TypeAlias = Callable[[oneway.End, oneway.End], None]
"""The entry point of a process: the ends of the question and of the answer."""


class Helper:
    """One process. The constructor starts it. Raises OSError if no process or descriptor is left.

    `on_part` takes each part of what it answers. `on_end` is told how it has ended, after the last part. With
    `stays_open`, more can be said after the question.
    """

    def __init__(
        self,
        loop: Loop,
        main: Main,
        title: str,
        question: bytes,
        *,
        on_part: Callable[[bytes], None],
        on_end: Callable[[str, bool], None],
        stays_open: bool = False,
    ) -> None:
        self._loop = loop
        self._stays_open = stays_open
        self._awaits_room = False  # the loop watches for it
        self._on_part = on_part
        self._on_end = on_end
        # Not with the arguments: spawn writes those to a pipe, and would wait for ever for a child that died.
        self._untold = memoryview(question)
        self._first = b""  # the build that it runs
        self._known = False  # that build is ours
        self._trouble: str | None = None
        with ExitStack() as undo:
            theirs_in, ours_out = oneway.pipe()
            undo.callback(ours_out.close)
            with theirs_in:
                ours_in, theirs_out = oneway.pipe()
                undo.callback(ours_in.close)
                with theirs_out:
                    self._words = spawning.FirstWords()
                    undo.callback(self._words.close)
                    process: BaseProcess = spawning.start(main, (theirs_in, theirs_out), title, self._words)
            self._process = process
            self.pid = process.pid or 0
            for step in (process.close, process.join, process.kill):  # undone from the last
                undo.callback(step)
            spawning.tie(process)
            self._sentinel = spawning.Sentinel(process)
            undo.callback(self._sentinel.close)
            self._reader = oneway.Reader(ours_in)
            self._writer: oneway.Writer | None = oneway.Writer(ours_out)
            undo.callback(self._writer.close)
            loop.watch(self._reader.fileno(), self.hear)
            undo.callback(loop.unwatch, self._reader.fileno())
            loop.watch(self._sentinel.fileno(), self._bury)
            undo.callback(loop.unwatch, self._sentinel.fileno())
            self._await_room(wanted=True)
            undo.pop_all()
        self._tell()

    def say(self, data: bytes) -> bool:
        """Send `data` after the question. False: something before it still waits for room, and it is dropped."""
        if self._untold or self._writer is None:
            return False
        self._untold = memoryview(data)
        self._tell()
        return True

    def _await_room(self, *, wanted: bool) -> None:
        """Watch for room, or no longer. Raises OSError."""
        if self._writer is None or wanted == self._awaits_room:
            return
        if wanted:
            self._loop.watch(self._writer.fileno(), self._tell, oneway.Writer.ROOM)
        else:
            self._loop.unwatch(self._writer.fileno())
        self._awaits_room = wanted

    def _tell(self) -> None:
        """Send as much as there is room for, and the end after the question if nothing else follows."""
        if self._writer is None:
            return
        goes_on = self._stays_open
        try:
            waits = self._push(self._writer)
            self._await_room(wanted=waits)
        except OSError:  # it is gone, or will be; or the kernel cannot watch for room
            waits = goes_on = False
        if not (waits or goes_on):
            self._end_telling()

    def _push(self, writer: oneway.Writer) -> bool:
        """Send as much as there is room for. True: the rest waits for room. Raises OSError."""
        try:
            while self._untold:
                sent = writer.write(bytes(self._untold[: oneway.ATOMIC]))
                self._untold = self._untold[sent:]
            writer.check_room()  # where a write may be pending, its end would be lost with it
        except BlockingIOError:
            return True
        return False

    def _end_telling(self) -> None:
        if self._writer is not None:
            self._await_room(wanted=False)
            self._writer.close()
            self._writer = None

    def hear(self) -> None:
        """Take what the process has answered so far."""
        with suppress(BlockingIOError):
            part = self._reader.read(_PART)
            if not part:
                self._loop.unwatch(self._reader.fileno())
            self._take(part)

    def _take(self, part: bytes) -> None:
        if not self._known:
            self._first += part
            build, newline, part = self._first.partition(b"\n")
            if not newline:
                return
            if build != BUILD.encode():
                other = shown(build.decode(errors="replace"))
                self.kill(f"is of another build: {other}, this relay is {BUILD}")
                return
            self._known = True
        if part and self._trouble is None:
            self._on_part(part)

    def kill(self, trouble: str) -> None:
        """End the process, because of `trouble`. What it answers from now on does not count."""
        self._trouble = self._trouble or trouble
        with suppress(OSError):
            self._process.kill()

    def _bury(self) -> None:
        """Take the rest of the answer of a process that has ended, and give everything back."""
        self._process.kill()  # the sentinel may be readable slightly before its end
        self._process.join()
        self._reader.expect_end()
        with suppress(BlockingIOError):
            while part := self._reader.read(_PART):
                self._take(part)
        code = self._process.exitcode or 0
        self._close()
        self._process.close()
        how = f"exit code {code}" if code >= 0 else signals.name(-code)
        why = f": {self._words.last}" if self._words.last else ""
        good = not code and self._trouble is None and self._known
        self._on_end(self._trouble or f"ended with {how}{why}", good)

    def abandon(self) -> bool:
        """Kill the process, and wait for nothing. True: it is still there."""
        self.kill("")
        self._close()
        self._process.join(0.1)
        return self._process.exitcode is None

    def _close(self) -> None:
        self._end_telling()
        self._loop.unwatch(self._reader.fileno())
        self._loop.unwatch(self._sentinel.fileno())
        self._reader.close()
        self._sentinel.close()
        self._words.end()
