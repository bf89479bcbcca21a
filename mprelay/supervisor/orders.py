"""Orders to the workers: which worker is told, and again if its channel was full."""

import errno
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from mprelay.channel.down import KILL_BATCH
from mprelay.core.ledger import Session
from mprelay.core.protocol import CloseReason, Kill, Order
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.member import Member

_RETRY_PAUSE: Final = 0.05  # seconds until a full channel is tried again
_SESSIONS_IN_TURN: Final = 1000  # looked at in one turn: a millisecond or two


class Orders:
    """Gives orders to workers. A worker that is gone, or going, needs none; nor does the one that replaces it."""

    def __init__(self, loop: Loop, members: Mapping[int, Member]) -> None:
        self._loop = loop
        self._members = members
        self._waiting: dict[Member, list[Order]] = defaultdict(list)
        self._retry = loop.unset_alarm(self._send)

    def give(self, worker: int, order: Order) -> None:
        """Give an order."""
        self._give(worker, [order])
        self._send()

    def give_all(self, order: Order) -> None:
        """Give an order to all workers, in the place of one like it that still waits."""
        for member in self._members.values():
            others = [one for one in self._waiting[member] if type(one) is not type(order)]
            self._waiting[member] = [*others, order]
        self._send()

    def _give(self, worker: int, orders: list[Order]) -> None:
        if (member := self._members.get(worker)) is not None:
            self._waiting[member] += orders

    def end(self, sessions: Iterable[Session], reason: CloseReason) -> None:
        """End these sessions, which were handed over."""
        serials: dict[int, list[int]] = defaultdict(list)
        for session in sessions:
            if session.worker is not None and not session.told_to_end:
                session.told_to_end = True  # a worker that stands still is not told again and again
                serials[session.worker].append(session.serial)
        for worker, found in serials.items():
            batches = (found[at : at + KILL_BATCH] for at in range(0, len(found), KILL_BATCH))
            self._give(worker, [Kill(tuple(batch), reason) for batch in batches])
        self._send()

    def end_those(
        self,
        sessions: list[Session],
        doomed: Callable[[Session], bool],
        reason: CloseReason,
        then: Callable[[int], None],
        count: int = 0,
    ) -> None:
        """End those of the sessions that are doomed, a part in each turn; then tell how many they were."""
        now, later = sessions[:_SESSIONS_IN_TURN], sessions[_SESSIONS_IN_TURN:]
        found = [*filter(doomed, now)]
        self.end(found, reason)
        count += len(found)
        if later:
            self._loop.after(0, partial(self.end_those, later, doomed, reason, then, count))
        else:
            then(count)

    def _send(self) -> None:
        for member in list(self._waiting):
            orders = self._waiting.pop(member)
            while self._members.get(member.number) is member and orders:
                try:
                    member.order(orders[0])
                except OSError as failure:
                    if failure.errno == errno.EAGAIN:
                        self._waiting[member] = orders
                    break  # else it is dying, and its sessions with it
                del orders[0]
        if self._waiting:
            self._retry.move(self._loop.now + _RETRY_PAUSE)
