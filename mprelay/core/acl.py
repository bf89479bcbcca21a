"""The access list: one entry, ``ANY`` or IP/mask (manual message 5; 17 records a refused client).

Rules:

1. An entry is the word ANY in any case, or an address and a mask: a prefix length or, for IPv4, dotted.
2. Host bits may be set: 192.168.100.30/24 allows 192.168.100.0/24.
3. A bare address, a mask with a gap and an inverse mask (0.0.0.255) are errors, not guesses.
4. IPv4 is IPv4 in any form. A client with an IPv4-mapped address (RFC 4291, 2.5.5.2) is judged as IPv4, and an
   entry written in mapped form means the IPv4 network inside it. ``::/0`` holds no IPv4 address.
5. The one entry decides on every client. It allows clients in its network and refuses all others.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

_MAPPED_NETWORK: Final = IPv6Network("::ffff:0:0/96")
_V4_BITS: Final = 32
_V4_MASK: Final = 0xFFFF_FFFF
_CACHED_CLIENTS: Final = 1024  # parsing an address costs a microsecond


class Decision(NamedTuple):
    """Whether a client is allowed, and the entry that decided, in its canonical form."""

    allowed: bool
    entry: str


class Acl:
    """A parsed entry. `str()` names it in its canonical form; `written` is what the user typed."""

    __slots__ = ("_entry", "_network", "decide", "written")

    decide: Callable[[str], Decision]
    """Decides on a client by its address. Raises ValueError if that is no address."""

    def __init__(self, network: IPv4Network | IPv6Network | None, written: str) -> None:
        self._network = network
        self._entry = "ANY" if network is None else str(network)
        self.written = written
        self.decide = lru_cache(_CACHED_CLIENTS)(self._decide)

    @classmethod
    def parse(cls, text: str) -> "Acl":
        """Parse an entry. A ValueError says what would be right ("must be …"), or what is wrong ("has …")."""
        if text.upper() == "ANY":
            return cls(None, text)
        address, slash, mask = text.partition("/")
        if "%" in address:
            raise ValueError("must not have a zone")
        try:
            ip = ip_address(address)
        except ValueError:
            raise ValueError("must be ANY, or an address and its mask, as in 192.0.2.0/24") from None
        if not slash:
            raise ValueError(f"has no mask: {address}/{ip.max_prefixlen} is this address alone")
        if isinstance(ip, IPv4Address):
            prefix = _dotted(mask, address) if "." in mask else _prefix(mask, _V4_BITS)
            return cls(IPv4Network((ip, prefix), strict=False), text)
        network = IPv6Network((ip, _prefix(mask, 128)), strict=False)
        if network.subnet_of(_MAPPED_NETWORK):
            inner = IPv4Address(int(network.network_address) & _V4_MASK)
            return cls(IPv4Network((inner, network.prefixlen - _MAPPED_NETWORK.prefixlen)), text)
        return cls(network, text)

    def _decide(self, client_ip: str) -> Decision:
        if self._network is None:
            return Decision(allowed=True, entry=self._entry)
        ip = ip_address(client_ip)
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return Decision(allowed=ip in self._network, entry=self._entry)

    def __str__(self) -> str:
        return self._entry

    def __repr__(self) -> str:
        return f"Acl({self._entry!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Acl) and self._network == other._network

    def __hash__(self) -> int:
        return hash(self._network)


def _prefix(text: str, bits: int) -> int:
    digits = text.lstrip("0") or text[:1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(bits)) or int(digits) > bits:
        dotted = ", or a dotted mask" if bits == _V4_BITS else ""
        raise ValueError(f"must have a prefix length from 0 to {bits} behind the slash{dotted}")
    return int(digits)


def _dotted(text: str, address: str) -> int:
    try:
        mask = int(IPv4Address(text))
    except ValueError:
        raise ValueError("must have a mask as in 255.255.255.0 behind the slash, or a prefix length") from None
    zeros = mask ^ _V4_MASK
    if zeros & (zeros + 1) == 0:
        return _V4_BITS - zeros.bit_length()
    if mask & (mask + 1) == 0:
        right = IPv4Address(zeros)
        raise ValueError(
            f"has an inverse mask: {address}/{right} is meant, which is /{_V4_BITS - mask.bit_length()}"
        )
    raise ValueError("has a mask with a gap: all its ones must come first, as in 255.255.255.0")
