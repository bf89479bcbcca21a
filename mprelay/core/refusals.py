"""Sums of refused connections that are not recorded one by one.

Rules:

1. Each refusal is counted once, under its client and its kind. Only detail is lost.
2. Memory is bounded. At most :data:`CLIENTS_LIMIT` sums are kept by client. Refusals of further clients are
   counted by kind alone.
3. No clock: moments are arguments.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["rejected", "limited", "abandoned", "exhausted", "proxy_invalid"]

CLIENTS_LIMIT: Final = 4096
"""Sums that are kept by client."""


class Sum(NamedTuple):
    """The refusals of one kind, of one client or of several."""

    client_ip: str | None  # None: several clients
    refused: Kind
    times: int
    first_at: float  # Unix time, seconds
    last_at: float


class Refusals:
    """Sums by client and kind, from one :meth:`take` to the next."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str | None, Kind], Sum] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, client_ip: str | None, refused: Kind, at: float) -> None:
        """Count one refusal; None: of a client that is not told apart from others."""
        key: tuple[str | None, Kind] = (client_ip, refused)
        if key not in self._sums and len(self._sums) >= CLIENTS_LIMIT:
            key = (None, refused)
        before = self._sums.get(key)
        if before is None:
            self._sums[key] = Sum(*key, 1, at, at)
        else:
            self._sums[key] = before._replace(times=before.times + 1, last_at=at)

    def take(self, limit: int) -> list[Sum]:
        """Return up to `limit` sums, the oldest first, and forget them."""
        keys = list(self._sums)[:limit]
        return [self._sums.pop(key) for key in keys]
