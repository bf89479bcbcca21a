"""Which refusals are recorded one by one, and which are part of a flood.

Rules:

1. The first :data:`SINGLE` refusals of an address within :data:`PERIOD` are recorded one by one. The rest is a
   flood.
2. A flood goes on until the address had a whole period with few refusals, or none.
3. Memory is bounded. At most :data:`CLIENTS_LIMIT` addresses are watched. Those beyond are not told apart.
4. No clock: moments are arguments.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

SINGLE: Final = 10
"""Refusals of one address in one period that are recorded one by one."""

PERIOD: Final = 10.0
"""Seconds of a period. It begins with the first refusal of an address."""

CLIENTS_LIMIT: Final = 4096
"""Addresses that are watched."""


class Part(Enum):
    """What one refusal is part of."""

    NOTHING = auto()  # it is recorded by itself
    FLOOD = auto()  # of its address
    CROWD = auto()  # of addresses that nobody can watch any more


@dataclass(slots=True)
class _Period:
    """The present period of one address."""

    ends_at: float  # monotonic
    forgotten_at: float
    count: int = 0


class Floods:
    """The addresses that were refused lately."""

    def __init__(self) -> None:
        self._calm: dict[str, _Period] = {}  # in the order in which they are forgotten; so are the others
        self._floods: dict[str, _Period] = {}

    def __len__(self) -> int:
        return len(self._calm) + len(self._floods)

    def count(self, client_ip: str, now: float) -> Part:
        """Count a refusal at `now` (monotonic, seconds); tell what it is part of."""
        period = self._calm.get(client_ip) or self._floods.get(client_ip)
        if period is None or now >= period.ends_at:
            goes_on = period is not None and period.count > SINGLE and now < period.ends_at + PERIOD
            self._calm.pop(client_ip, None)
            self._floods.pop(client_ip, None)
            self._forget(now)
            if period is None and len(self) >= CLIENTS_LIMIT:
                return Part.CROWD
            period = _Period(now + PERIOD, now + PERIOD)
            if goes_on:
                self._begin_flood(client_ip, period, now)
            else:
                self._calm[client_ip] = period
        period.count += 1
        if client_ip in self._floods:
            return Part.FLOOD
        if period.count <= SINGLE:
            return Part.NOTHING
        del self._calm[client_ip]
        self._begin_flood(client_ip, period, now)
        return Part.FLOOD

    def _begin_flood(self, client_ip: str, period: _Period, now: float) -> None:
        """Remember it for two periods: the one that runs, and the next, which tells whether it goes on."""
        period.forgotten_at = now + 2 * PERIOD
        self._floods[client_ip] = period

    def _forget(self, now: float) -> None:
        for periods in (self._calm, self._floods):
            while periods:
                oldest, period = next(iter(periods.items()))
                if now < period.forgotten_at:
                    break
                del periods[oldest]
