"""The worker's poller, and one for a system whose poller tells no edges.

    sessions ── flags of their pumps ─▶ LevelPoller ── what is of interest ─▶ Poller

The pumps were written for edges (:mod:`mprelay.worker.pump`). Level-triggered readiness is told again and again,
so a socket may be watched only while its pump waits for just that. :class:`LevelPoller` takes the place of the
Poller and looks this up in the table of sessions before each wait.

Rules:

1. Interest is a function of state. A socket is watched for READ while the pump that reads it knows of nothing to
   read, and for WRITE while the pump that writes it knows of no room. A pump that is over wants neither. So every
   event changes the flag that it was asked for by, and is not told twice.
2. A target that is being connected is watched for WRITE and ERROR. Its client is watched for READ until there is
   something to read: data, an end or a reset. :mod:`mprelay.worker.connecting` sees which it is.
3. Each wait looks at every session. So does select(2), which takes some hundred at most.
4. A reset is met by whoever waits for readability or room. Nobody waits for either on a side that has ended its
   sending, or whose data the other side does not take. A reset of such a side is noticed late: by the next send
   to it, by the next read of it, or not at all, and then the idle timeout ends the session. A session that
   lingers is looked at anyway. Each look asks both sockets for errors.
5. Nothing tells of an acknowledgement. A session that settles is looked at like one that lingers.
"""

from collections.abc import Mapping
from typing import Final, Protocol, TypeAlias

from mprelay.system import poller
from mprelay.system.poller import EDGE, ERROR, READ, WRITE
from mprelay.worker.pump import Pump

_OUTCOME: Final = WRITE | ERROR
"""What tells of the outcome of connect(2)."""


class Watched(Protocol):
    """A session, as far as its sockets are watched: `down` reads the target's."""

    connected: bool
    down: Pump


class LevelPoller:
    """A Poller that watches the sockets of sessions for what their pumps wait for.

    `sessions` has an entry for each socket, by its descriptor: the session, the pump that reads it, and the pump
    that writes it. Whoever watches something else uses it like any Poller.
    """

    def __init__(self, sessions: Mapping[int, tuple[Watched, Pump, Pump]]) -> None:
        self._sessions = sessions
        self._poller = poller.Poller()
        self._interest: dict[int, int] = {}  # by descriptor of a session: what it is watched for
        self.change = self._poller.change
        """change(fd, mask): for what is no session's. See the Poller."""
        self.close = self._poller.close
        """close(): see the Poller."""

    def add(self, fd: int, mask: int) -> None:
        """Begin to watch a descriptor. With EDGE it is a session's. Raises OSError if there is no room for it.

        A timer comes with EDGE too. It is forgotten at the next wait: the loop keeps its moment as well.
        """
        try:
            self._poller.add(fd, mask)
        except OSError:
            if not self._forget_closed():
                raise
            self._poller.add(fd, mask)
        # It may be the number of a target's socket that was closed since the last wait.
        if mask & EDGE:
            self._interest[fd] = 0
        else:
            self._interest.pop(fd, None)

    def remove(self, fd: int) -> None:
        """Watch a descriptor no longer."""
        self._interest.pop(fd, None)
        self._poller.remove(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds (None: for ever); return (fd, mask) of what is ready."""
        interest = self._interest
        for fd, (session, reads, writes) in self._sessions.items():
            mask = 0 if reads.readable or reads.over else READ
            if not session.connected:
                if reads is session.down:
                    mask = _OUTCOME
            elif not (writes.writable or writes.over):
                mask |= WRITE
            if interest.get(fd) != mask:
                self._poller.change(fd, mask)
                interest[fd] = mask
        if len(interest) > len(self._sessions):
            self._forget_closed()
        return self._poller.wait(timeout)

    def _forget_closed(self) -> bool:
        """Forget the sockets of targets that were closed without a word; return whether there were any."""
        closed = [fd for fd in self._interest if fd not in self._sessions]
        for fd in closed:
            self.remove(fd)
        return bool(closed)


WorkerPoller: TypeAlias = poller.Poller | LevelPoller


def make_poller(sessions: Mapping[int, tuple[Watched, Pump, Pump]]) -> WorkerPoller:
    """Make the poller of a worker, for the sockets in `sessions`."""
    return poller.Poller() if poller.TELLS_EDGES else LevelPoller(sessions)
