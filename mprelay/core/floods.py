"""Which refusals are recorded one by one, and which are part of a flood.

Rules:

1. The first :data:`SINGLE` refusals of an address within :data:`PERIOD` are recorded one by one. The rest is a
   flood.
2. A flood goes on until the address had a whole period with few refusals, or none.
3. Memory is bounded. At most :data:`CLIENTS_LIMIT` addresses are watched. Those beyond are a flood together.
4. No clock: moments are arguments.
"""

from dataclasses import dataclass
from typing import Final

SINGLE: Final = 10
"""Refusals of one address in one period that are recorded one by one."""

PERIOD: Final = 10.0
"""Seconds of a period. It begins with the first refusal of an address."""

CLIENTS_LIMIT: Final = 4096
"""Addresses that are watched."""


@dataclass(slots=True)
class _Period:
    """The present period of one address."""

    began_at: float  # monotonic
    count: int = 0
    flood: bool = False


class Floods:
    """The addresses that were refused lately."""

    def __init__(self) -> None:
        self._periods: dict[str, _Period] = {}  # the one that began first comes first

    def __len__(self) -> int:
        return len(self._periods)

    def is_part(self, client_ip: str, now: float) -> bool:
        """Count a refusal at `now` (monotonic, seconds); tell whether it is part of a flood."""
        period = self._periods.get(client_ip)
        if period is None or now >= period.began_at + PERIOD:
            self._forget(now, client_ip)
            if period is None and len(self._periods) >= CLIENTS_LIMIT:
                return True
            goes_on = period is not None and period.count > SINGLE and now < period.began_at + 2 * PERIOD
            self._periods.pop(client_ip, None)
            period = self._periods[client_ip] = _Period(now, flood=goes_on)
        period.count += 1
        return period.flood or period.count > SINGLE

    def _forget(self, now: float, but: str) -> None:
        """Forget the addresses whose last period is over, and `but` not."""
        while self._periods:
            oldest, period = next(iter(self._periods.items()))
            if oldest == but or now < period.began_at + PERIOD:
                return
            del self._periods[oldest]
