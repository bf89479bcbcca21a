"""The access list: entries in their order, of which the first that matches decides (manual message 5).

Rules:

1. An entry is the word ANY in any case, or an address and a mask: a prefix length or, for IPv4, dotted. With
   ``!`` before it, it denies. If no entry matches, the client is rejected (message 17).
2. Host bits may be set: 192.168.100.30/24 means 192.168.100.0/24.
3. A bare address, a mask with a gap and an inverse mask (0.0.0.255) are errors, not guesses.
4. IPv4 is IPv4 in any form. A client with an IPv4-mapped address (RFC 4291, 2.5.5.2) is judged as IPv4, and an
   entry written in mapped form means the IPv4 network inside it. ``::/0`` holds no IPv4 address.
5. To decide takes as long for many entries as for few: see :class:`mprelay.core.ranges.Ranges`.
"""

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NamedTuple, TypeAlias

from mprelay.core.ranges import NOBODY, Range, Ranges

NO_ENTRY: Final = "no entry"
"""What decided on a client if no entry matched."""

Network: TypeAlias = IPv4Network | IPv6Network

_ALL: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
_MAPPED_NETWORK: Final = IPv6Network("::ffff:0:0/96")
_V4_BITS: Final = 32
_V6_BITS: Final = 128
_V4_MASK: Final = 0xFFFF_FFFF
_ENTRY_LIMIT: Final = 100  # characters: more than any entry needs
_CACHED_CLIENTS: Final = 1024  # parsing an address costs a microsecond


class Entry(NamedTuple):
    """One entry."""

    written: str
    allows: bool
    network: Network | None  # None: ANY

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Parse an entry. A ValueError says what would be right ("must be …"), or what is wrong ("has …")."""
        bare = text.removeprefix("!")
        return cls(text, bare is text, None if bare.upper() == "ANY" else network_of(bare, "ANY, or "))

    @classmethod
    def parse_network(cls, text: str) -> "Entry":
        """Parse an entry that allows a network, but not every address. Errors are those of :meth:`parse`."""
        network = network_of(text)
        if not network.prefixlen:
            raise ValueError("must not be all addresses")
        return cls(text, allows=True, network=network)

    def __str__(self) -> str:
        network = "ANY" if self.network is None else str(self.network)
        return network if self.allows else f"!{network}"


class Decision(NamedTuple):
    """Whether a client is allowed, and the entry that decided, as written, or :data:`NO_ENTRY`."""

    allowed: bool
    entry: str


class _Parts(NamedTuple):
    """What a list decides by."""

    v4: Ranges
    v6: Ranges
    allows: bytes  # a byte for each entry
    texts: bytes  # all entries as written
    ends: "array[int]"  # where each of them ends


class Acl:
    """A list of entries, ready to decide. It can be sent to another process in a millisecond or two."""

    __slots__ = ("__weakref__", "_parts", "decide")

    decide: Callable[[str], Decision]
    """Decides on a client by its address. Raises ValueError if that is no address."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        # A method would refer to this object, and this object to it: nobody would ever collect a long list.
        self.decide = lru_cache(_CACHED_CLIENTS)(partial(_decide, parts))

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Acl":
        """Make a list of these entries."""
        v4: list[Range] = []
        v6: list[Range] = []
        texts = bytearray()
        ends = array("Q")
        for index, entry in enumerate(entries):
            for network in _ALL if entry.network is None else (entry.network,):
                first = int(network.network_address)
                bits = _V4_BITS if network.version == 4 else _V6_BITS  # noqa: PLR2004
                last = first | ((1 << bits - network.prefixlen) - 1)
                (v4 if network.version == 4 else v6).append((first, last, index))  # noqa: PLR2004
            texts += entry.written.encode()
            ends.append(len(texts))
        allows = bytes(entry.allows for entry in entries)
        return cls(_Parts(Ranges.of(v4), Ranges.of(v6), allows, bytes(texts), ends))

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._parts.ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return Acl, (self._parts,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Acl) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash((self._parts.allows, self._parts.texts))


def _decide(parts: _Parts, client_ip: str) -> Decision:
    ip = ip_address(client_ip)
    if isinstance(ip, IPv6Address):
        mapped = ip.ipv4_mapped
        index = parts.v6.find(int(ip)) if mapped is None else parts.v4.find(int(mapped))
    else:
        index = parts.v4.find(int(ip))
    if index == NOBODY:
        return Decision(allowed=False, entry=NO_ENTRY)
    written = parts.texts[parts.ends[index - 1] if index else 0 : parts.ends[index]].decode()
    return Decision(bool(parts.allows[index]), written)


def network_of(text: str, or_else: str = "") -> Network:
    """Parse an address and its mask. A ValueError says what would be right, `or_else` first, or what is wrong."""
    if len(text) > _ENTRY_LIMIT:
        raise ValueError(f"must have at most {_ENTRY_LIMIT} characters")
    if " " in text:
        raise ValueError("must not have a blank: a comma alone separates entries")
    address, slash, mask = text.partition("/")
    if "%" in address:
        raise ValueError("must not have a zone")
    try:
        ip = ip_address(address)
    except ValueError:
        raise ValueError(f"must be {or_else}an address and its mask, as in 192.0.2.0/24") from None
    if not slash:
        raise ValueError(f"has no mask: {address}/{ip.max_prefixlen} is this address alone")
    if isinstance(ip, IPv4Address):
        prefix = _dotted(mask, address) if "." in mask else _prefix(mask, _V4_BITS)
        return IPv4Network((ip, prefix), strict=False)
    network = IPv6Network((ip, _prefix(mask, _V6_BITS)), strict=False)
    if ip.ipv4_mapped is not None and network.prefixlen < _MAPPED_NETWORK.prefixlen:
        raise ValueError("must have a prefix length from 96 to 128: this is IPv4 in the form of IPv6")
    if network.subnet_of(_MAPPED_NETWORK):
        inner = IPv4Address(int(network.network_address) & _V4_MASK)
        return IPv4Network((inner, network.prefixlen - _MAPPED_NETWORK.prefixlen))
    return network


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
