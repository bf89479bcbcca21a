"""The PROXY protocol, versions 1 and 2: what comes before a connection's data and tells who the client is.

Source: "The PROXY protocol, versions 1 & 2" (HAProxy's doc/proxy-protocol.txt).

Rules:

1. A header is read as it comes, perhaps byte by byte. :func:`parse` says how long it is, that more must come, or
   why it is none. What follows it is data, even if it looks like another header.
2. LOCAL and UNKNOWN mean that the proxy speaks for itself: the client is whoever connected. So does version 2
   without a family (UNSPEC). Whatever else such a header holds is skipped.
3. Blocks behind the addresses (TLVs) are skipped, but must be whole. A CRC32c is checked where there is one.
4. Not accepted: Unix sockets, datagrams, other versions, and whatever does not follow the grammar.
"""

import socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple

from mprelay.core.protocol import PORTS_END, Address

HEADER_LIMIT: Final = 536
"""Bytes of a header, at most: the smallest segment that TCP must take in one piece."""

_V1_LIMIT: Final = 107  # bytes of a line, with its end
_V1_START: Final = b"PROXY "
_V2_START: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD: Final = struct.Struct("!12sBBH")
"""Signature, version and command, family and transport, length of the rest."""
_V2_VERSION: Final = 2
_LOCAL: Final = 0
_PROXY: Final = 1
_UNSPEC: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_TLV: Final = struct.Struct("!BH")
_CRC32C: Final = 0x03
_CRC32C_SIZE: Final = 4
_PORT_DIGITS: Final = 5

_V1_FAMILIES: Final = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
_V2_ADDRESSES: Final = {
    _TCP4: (socket.AF_INET, struct.Struct("!4s4sHH")),
    _TCP6: (socket.AF_INET6, struct.Struct("!16s16sHH")),
}


class NoHeader(Exception):  # noqa: N818 - it says what is the matter
    """What came is no PROXY header; the text says why."""


class Header(NamedTuple):
    """A header that is whole."""

    size: int  # bytes
    client: Address | None  # None: whoever connected
    reached: Address | None = None  # the address that the client reached, if the header names it


def parse(data: bytes) -> Header | None:
    """Read the header at the beginning of `data`; None: more must come. Raises NoHeader."""
    if _V1_START.startswith(data[: len(_V1_START)]):
        return _parse_v1(data)
    if _V2_START.startswith(data[: len(_V2_START)]):
        return _parse_v2(data)
    raise NoHeader("does not begin with a PROXY header")


# -- version 1: a line ---------------------------------------------------------------------------------------


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, _V1_LIMIT)
    if end < 0:
        if len(data) >= _V1_LIMIT:
            raise NoHeader(f"has no end of line within {_V1_LIMIT} bytes")
        return None
    size = end + 2
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return Header(size, None)
    family = _V1_FAMILIES.get(words[1])
    if family is None:
        raise NoHeader(f"has the family {_quoted(words[1])}, which is none of TCP4, TCP6 and UNKNOWN")
    if len(words) != 6:  # noqa: PLR2004 - as the line below says
        raise NoHeader("must have two addresses and two ports")
    _, _, source, target, source_port, target_port = words
    client = (_address(family, source), _port(source_port))
    reached = (_any_address(target), _port(target_port))
    return Header(size, client, reached)


def _address(family: socket.AddressFamily, text: bytes) -> str:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text.decode("ascii")))
    except (OSError, ValueError):
        raise NoHeader(f"has the address {_quoted(text)}, which is none of its family") from None


def _any_address(text: bytes) -> str:
    """Read an address of either family: nginx mixes them in a line."""
    for family in _V1_FAMILIES.values():
        with suppress(NoHeader):
            return _address(family, text)
    raise NoHeader(f"has the address {_quoted(text)}, which is none")


def _port(text: bytes) -> int:
    if text.isdigit() and len(text) <= _PORT_DIGITS and (text == b"0" or text[:1] != b"0"):
        port = int(text)
        if port < PORTS_END:
            return port
    raise NoHeader(f"has the port {_quoted(text)}, which is none")


def _quoted(text: bytes) -> str:
    return repr(text[:40].decode("ascii", "backslashreplace"))


# -- version 2: binary ---------------------------------------------------------------------------------------


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < _V2_HEAD.size:
        return None
    _, version_and_command, kind, length = _V2_HEAD.unpack_from(data)
    version, command = version_and_command >> 4, version_and_command & 0xF
    if version != _V2_VERSION:
        raise NoHeader(f"is of version {version}")
    if command not in {_LOCAL, _PROXY}:
        raise NoHeader(f"has the command {command}, which is neither LOCAL nor PROXY")
    size = _V2_HEAD.size + length
    if size > HEADER_LIMIT:
        raise NoHeader(f"has {size} bytes, more than {HEADER_LIMIT}")
    if len(data) < size:
        return None
    if command == _LOCAL or kind == _UNSPEC:
        return Header(size, None)
    if kind not in _V2_ADDRESSES:
        raise NoHeader(f"has the family and transport {kind:#04x}, which is neither TCP over IPv4 nor over IPv6")
    family, addresses = _V2_ADDRESSES[kind]
    if length < addresses.size:
        raise NoHeader(f"has {length} bytes behind its head, too few for its addresses")
    source, target, port, target_port = addresses.unpack_from(data, _V2_HEAD.size)
    _check_blocks(data[:size], _V2_HEAD.size + addresses.size)
    client = (socket.inet_ntop(family, source), port)
    return Header(size, client, (socket.inet_ntop(family, target), target_port))


def _check_blocks(header: bytes, at: int) -> None:
    """Check the blocks from `at` to the end of the header."""
    while at < len(header):
        if at + _TLV.size > len(header):
            raise NoHeader("ends within a block")
        kind, length = _TLV.unpack_from(header, at)
        at += _TLV.size
        if at + length > len(header):
            raise NoHeader("ends within a block")
        if kind == _CRC32C:
            if length != _CRC32C_SIZE:
                raise NoHeader(f"has a CRC32c of {length} bytes")
            without = header[:at] + bytes(_CRC32C_SIZE) + header[at + _CRC32C_SIZE :]
            if crc32c(without) != int.from_bytes(header[at : at + _CRC32C_SIZE], "big"):
                raise NoHeader("has a CRC32c that does not match")
        at += length


def crc32c(data: bytes) -> int:
    """Return the CRC32c (Castagnoli; RFC 9260, appendix A)."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


# -- our own -------------------------------------------------------------------------------------------------


def make_v1(client: Address, listener: Address) -> bytes:
    """Make a header of version 1: the client's address, and the one that it reached."""
    (ip, port), (own_ip, own_port) = _alike(client, listener)
    family = "TCP6" if ":" in ip else "TCP4"
    return f"PROXY {family} {ip} {own_ip} {port} {own_port}\r\n".encode()


def make_v2(client: Address, listener: Address) -> bytes:
    """Make a header of version 2: the client's address, and the one that it reached."""
    (ip, port), (own_ip, own_port) = _alike(client, listener)
    kind = _TCP6 if ":" in ip else _TCP4
    family, addresses = _V2_ADDRESSES[kind]
    body = addresses.pack(socket.inet_pton(family, ip), socket.inet_pton(family, own_ip), port, own_port)
    return _V2_HEAD.pack(_V2_START, _V2_VERSION << 4 | _PROXY, kind, len(body)) + body


MAKERS: Final = {"v1": make_v1, "v2": make_v2}
"""By version: what makes a header."""


def _alike(one: Address, other: Address) -> tuple[Address, Address]:
    """Show both as IPv6 if one is: a header has one family."""
    if (":" in one[0]) == (":" in other[0]):
        return one, other
    return _as_ipv6(one), _as_ipv6(other)


def _as_ipv6(address: Address) -> Address:
    ip, port = address
    return (ip if ":" in ip else f"::ffff:{ip}"), port
