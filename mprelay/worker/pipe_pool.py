"""The pipes of one worker, lent to the flows that move much."""

from typing import Final, Protocol

from mprelay.system import pipes
from mprelay.system.pipes import Pipe

_UNASKED_REFUSALS: Final = 256  # flows that go without a pipe, before the system is asked again


class Borrower(Protocol):
    """A flow, as the pool knows it."""

    received: int  # bytes, since the beginning

    def give_back(self) -> None:
        """Return the pipe if it is empty."""


class PipePool:
    """At most `most` pipes. Those that come back are kept for the next flow."""

    def __init__(self, most: int) -> None:
        self._unmade = most
        self._refusals = 0
        self._lends = True
        self._spare: list[Pipe] = []
        self._watched: dict[Borrower, int] = {}
        """Flows whose pipe has moved bytes: what they had received at the last :meth:`reclaim`."""

    def borrow(self) -> Pipe | None:
        """Lend a pipe; None if there is none, which is no failure."""
        if self._spare:
            return self._spare.pop()
        if not self._unmade or not self._lends or self._refusals:
            self._refusals = max(0, self._refusals - 1)
            return None
        try:
            pipe = Pipe()
        except OSError:
            self._refusals = _UNASKED_REFUSALS
            return None
        self._unmade -= 1
        return pipe

    def refused(self, failure: OSError) -> None:
        """Take note of a refusal of splice(2). If it would meet every flow, lend no more pipes."""
        if pipes.is_refused_to_all(failure):
            self._lends = False
            self.close()

    def take_back(self, borrower: Borrower, pipe: Pipe) -> None:
        """Take a pipe back. One with data in it is closed: the next flow must not get these bytes."""
        self._watched.pop(borrower, None)
        if pipe.held or not self._lends:
            self._close(pipe)
        else:
            pipe.quiet = 0
            self._spare.append(pipe)

    def watch(self, borrower: Borrower) -> None:
        """Note that a flow with a pipe moves."""
        self._watched.setdefault(borrower, -1)

    def reclaim(self) -> bool:
        """Take the pipes of the flows that have received nothing since the last call.

        Return whether any flow is worth another look. If none is, close the pipes that are not lent. A flow that
        cannot deliver what is in its pipe keeps it, and is not looked at again before it moves.
        """
        for borrower, received in list(self._watched.items()):
            if borrower.received != received:
                self._watched[borrower] = borrower.received
            else:
                del self._watched[borrower]
                borrower.give_back()
        if not self._watched:
            self.close()
        return bool(self._watched)

    def close(self) -> None:
        """Close the pipes that are not lent."""
        while self._spare:
            self._close(self._spare.pop())

    def _close(self, pipe: Pipe) -> None:
        pipe.close()
        self._unmade += 1
