"""What `mprelayctl top` hears of the relay: a sample each second, on one connection, in a thread of its own.

    the screen ── kill, close ──▶ thread ── a request, its answer ──▶ the relay
               ◀── Sample, Said, Gone ──┘

A relay closes connections that ask for nothing for long, and this program may have been stopped for as long
(SIGTSTP). So a connection that is closed is made once more, and then it must lead to the same relay.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import psutil

from mprelay.ctl.client import Client, Closed, Denied, NoRelay, Refused
from mprelay.ctl.screen import Sample, Usage

INTERVAL: Final = 1.0
"""Seconds between two samples."""

_PARTING: Final = 0.5  # seconds that somebody who leaves may have to wait

T = TypeVar("T")


class Said(NamedTuple):
    """What the relay answered to a command, or why it refuses one."""

    text: str


class Gone(NamedTuple):
    """The relay is not there any more, or this user may not ask it any more."""

    why: NoRelay | Denied


News: TypeAlias = Sample | Said | Gone


class Feed:
    """Asks the relay whose control socket is at `path`. Raises as :class:`Client` does, and Refused."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._processes: dict[int, psutil.Process] = {}
        self._kills: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # None: look whether to end
        self._ended = False
        self._client: Client | None = Client(path)
        self._runner: threading.Thread | None = None
        try:
            self.first = self._sample(self._client)
            """The sample with which to begin."""
        except BaseException:
            self._client.close()
            raise
        self._relay_id = self.first.status["relay_id"]

    def start(self, tell: Callable[[News], object]) -> None:
        """Begin to tell, from another thread."""
        self._runner = threading.Thread(target=self._run, args=(tell,), name="feed", daemon=True)
        self._runner.start()

    def kill(self, session: int) -> None:
        """Have a session ended. What the relay says to it is told."""
        self._kills.put(session)

    def close(self) -> None:
        """Tell nothing more, and leave the relay."""
        self._ended = True
        self._kills.put(None)
        client = self._client
        if client is not None:
            client.hang_up()
        if self._runner is not None:
            self._runner.join(_PARTING)
            if self._runner.is_alive():  # it connects to a relay that stands still, and ends with the process
                return
        if self._client is not None:
            self._client.close()

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self, tell: Callable[[News], object]) -> None:
        due = time.monotonic() + INTERVAL
        while not self._ended:
            try:
                session = self._kills.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                session = None
            if self._ended:
                return
            try:
                if session is not None:
                    self._ask(lambda client, session=session: client.ask("kill", session=session))  # type: ignore[misc]
                    tell(Said(f"session {session} is killed"))
                now = time.monotonic()
                if now >= due:
                    due = now + INTERVAL
                    tell(self._ask(self._sample))
            except Refused as refused:
                tell(Said(f"the relay refuses: {refused}"))
            except (NoRelay, Denied) as why:
                if not self._ended:
                    tell(Gone(why))
                return

    def _ask(self, what: Callable[[Client], T]) -> T:
        """Ask on the connection that is there, or else on a new one."""
        if self._client is not None:
            try:
                return what(self._client)
            except Closed:
                if self._ended:
                    raise
                self._client.close()
                self._client = None
        self._client = self._connect_again()
        return what(self._client)

    def _connect_again(self) -> Client:
        try:
            client = Client(self._path)
        except NoRelay:
            raise NoRelay(f"the relay at {self._path} has ended") from None
        try:
            same = client.ask("status")["relay_id"] == self._relay_id
        except BaseException:
            client.close()
            raise
        if not same:
            client.close()
            raise NoRelay(f"the relay at {self._path} has ended. Another one is there now")
        return client

    def _sample(self, client: Client) -> Sample:
        status = client.ask("status")
        *sessions, _count = client.lines("sessions")
        seen = client.relay_pid == status["pid"]  # otherwise these are pids of another namespace
        return Sample(time.monotonic(), status, sessions, self._usages(status["workers"]) if seen else {})

    def _usages(self, workers: Iterable[Mapping[str, Any]]) -> dict[int, Usage]:
        """Measure the workers that can be seen."""
        pids = {worker["pid"] for worker in workers}
        self._processes = {pid: process for pid, process in self._processes.items() if pid in pids}
        usages = {}
        for pid in pids:
            try:
                process = self._processes.get(pid) or psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    usages[pid] = Usage(times.user + times.system, process.memory_info().rss)
                self._processes[pid] = process
            except psutil.Error:  # it has ended, or the system hides it (hidepid, proc(5))
                self._processes.pop(pid, None)
        return usages
