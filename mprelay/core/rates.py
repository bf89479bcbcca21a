"""How often each client may come: a token bucket for each, as one number.

A bucket holds N tokens and gets N every S seconds. Instead of its tokens, the moment is kept at which it will be
full again (the generic cell rate algorithm, ITU-T I.371). Nothing has to be filled up, and no fraction is lost.

    now ────────── full_at          tokens left = N - (full_at - now) / (S / N)

Rules:

1. A client is an address, or for IPv6 its /64, which is what one customer has.
2. Each attempt takes a token if there is one. An attempt that finds none takes nothing, so whoever goes on trying
   comes in as often as the rate says.
3. Memory is bounded. If there are more clients than :data:`CLIENTS_LIMIT`, one of those that were quiet longest
   is forgotten, of some the one with the most tokens. So whoever is out of tokens stays so.
4. No clock: moments are arguments.
"""

from functools import lru_cache
from ipaddress import IPv6Address
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

CLIENTS_LIMIT: Final = 65536
"""Clients whose buckets are kept."""

_CANDIDATES: Final = 64  # quiet clients that are looked at to forget one
_ROUNDING: Final = 1e-6  # seconds, which a sum of many pauses may be off by
_CACHED_CLIENTS: Final = 1024
_INTERFACE_BITS: Final = 64

Client: TypeAlias = str | int
"""One client, as limits know it: an IPv4 address, or the upper half of an IPv6 address."""

Bucket: TypeAlias = Client | tuple[str, Client]
"""Whose bucket it is: a client's, or that of a client which a proxy has announced. So a proxy that lies uses up
only buckets of its own."""


@lru_cache(_CACHED_CLIENTS)
def client_of(ip: str) -> Client:
    """Return the client that an address belongs to (as :func:`ipaddress.ip_address` shows it)."""
    return int(IPv6Address(ip)) >> _INTERFACE_BITS if ":" in ip else ip


class Rate(NamedTuple):
    """So many new connections in so many seconds."""

    connections: int
    seconds: float


class Rates:
    """The buckets of all clients."""

    def __init__(self, rate: Rate) -> None:
        self._pause = rate.seconds / rate.connections  # seconds in which one token comes back
        self._burst = rate.seconds - self._pause  # how far ahead `full_at` may be for another token
        self._full_at: dict[Bucket, float] = {}  # whoever has taken a token last comes last

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, bucket: Bucket, now: float) -> bool:
        """Take a token at `now` (monotonic, seconds); False: there is none."""
        full_at = self._full_at.pop(bucket, now)
        if full_at - now > self._burst + _ROUNDING:
            self._full_at[bucket] = full_at
            return False
        self._full_at[bucket] = max(full_at, now) + self._pause
        if len(self._full_at) > CLIENTS_LIMIT:
            self._forget_one()
        return True

    def _forget_one(self) -> None:
        quiet = islice(self._full_at.items(), _CANDIDATES)
        fullest, _ = min(quiet, key=lambda item: item[1])
        del self._full_at[fullest]
