"""What a worker reports to the supervisor: events as they happen, byte counts once a second."""

from typing import Protocol

from mprelay.channel.up import Uplink
from mprelay.core.protocol import Progress
from mprelay.worker.level import WorkerPoller


class Reporting(Protocol):
    """A session, as far as its progress is reported."""

    def progress(self) -> Progress:
        """Return the byte counts so far."""


class Reports:
    """The way up, and what waits for it."""

    def __init__(self, uplink: Uplink, poller: WorkerPoller) -> None:
        self._uplink = uplink
        self._poller = poller
        self._full = False
        self.report = uplink.report
        """report(event): note it; :meth:`send` sends it."""
        self.changed: dict[Reporting, None] = {}
        """Sessions that moved bytes since their last Progress."""

    def progress(self) -> bool:
        """Report the byte counts that changed; False if that must wait.

        If the supervisor does not keep up, the counts can wait, and must not pile up.
        """
        if self._uplink.waiting:
            return False
        for session in self.changed:
            self.report(session.progress())
        self.changed = {}
        return True

    def send(self) -> None:
        """Send what there is to report; wait for room in the uplink exactly while something has to."""
        full = not self._uplink.flush()
        if full != self._full:
            self._full = full
            if full:
                self._poller.add(self._uplink.fileno(), Uplink.ROOM)
            else:
                self._poller.remove(self._uplink.fileno())

    def send_all(self) -> None:
        """The same, until all is sent. The poller must watch nothing else any more."""
        self.send()
        while self._full:
            self._poller.wait(None)
            self.send()
        self._uplink.settle()
