"""Sessions that are ended by an order: which worker is told, and again if its channel was full."""

import errno
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from mprelay.channel.down import KILL_BATCH
from mprelay.core.ledger import Session
from mprelay.core.protocol import CloseReason, Kill
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.member import Member

_RETRY_PAUSE: Final = 0.05  # seconds until a full channel is tried again


class Kills:
    """Tells workers which of their sessions to end."""

    def __init__(self, loop: Loop, members: Mapping[int, Member]) -> None:
        self._loop = loop
        self._members = members
        self._waiting: dict[int, list[Kill]] = defaultdict(list)  # by worker
        self._retry = loop.unset_alarm(self._send)

    def end(self, sessions: Iterable[Session], reason: CloseReason) -> None:
        """End these sessions, which were handed over. A worker that is gone has none to end."""
        serials: dict[int, list[int]] = defaultdict(list)
        for session in sessions:
            if session.worker is not None:
                serials[session.worker].append(session.serial)
        for worker, found in serials.items():
            batches = (found[at : at + KILL_BATCH] for at in range(0, len(found), KILL_BATCH))
            self._waiting[worker] += [Kill(tuple(batch), reason) for batch in batches]
        self._send()

    def _send(self) -> None:
        for worker in list(self._waiting):
            kills = self._waiting.pop(worker)
            member = self._members.get(worker)
            while member is not None and kills:
                try:
                    member.order(kills[0])
                except OSError as failure:
                    if failure.errno == errno.EAGAIN:
                        self._waiting[worker] = kills
                    break  # else it is dying, and its sessions with it
                del kills[0]
        if self._waiting:
            self._retry.move(self._loop.now + _RETRY_PAUSE)
