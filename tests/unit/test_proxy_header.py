"""PROXY headers: read as they come, and made."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.worker.proxy_header import HEADER_LIMIT, Header, NoHeader, crc32c, make_v1, make_v2, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = ("192.0.2.1", 56324)
REACHED = ("198.51.100.7", 443)
V4_BYTES = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 56324, 443)
V6_BYTES = (
    ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("::1").packed + struct.pack("!HH", 1, 2)
)


def v2(rest=V4_BYTES, kind=0x11, command=0x21, length=None):
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, kind, len(rest) if length is None else length) + rest


def tlv(kind, value):
    """A block."""
    return struct.pack("!BH", kind, len(value)) + value


def with_crc(rest, kind=0x11, wrong=0):
    """A header with a right CRC32c behind its other blocks, or a wrong one."""
    header = v2(rest + tlv(3, bytes(4)), kind)
    return header[:-4] + struct.pack("!I", crc32c(header) ^ wrong)


GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", V4, REACHED),
    (b"PROXY TCP6 2001:DB8:0::1 ::1 0 65535\r\n", ("2001:db8::1", 0), ("::1", 65535)),
    (b"PROXY TCP6 2001:db8::1 192.0.2.1 1 2\r\n", ("2001:db8::1", 1), ("192.0.2.1", 2)),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ffff:f...f:ffff whatever 1\r\n", None, None),
    (v2(), V4, REACHED),
    (v2(V4_BYTES + tlv(4, b"noop") + tlv(0xEA, b"")), V4, REACHED),
    (v2(V6_BYTES, 0x21), ("2001:db8::1", 1), ("::1", 2)),
    (v2(V6_BYTES, 0x21, 0x20), None, None),
    (v2(b"", 0x00, 0x20), None, None),
    (v2(b"12345", 0x00), None, None),
    (v2(b"x" * 12, 0x11, 0x20), None, None),
    (with_crc(V4_BYTES + tlv(1, b"h2")), V4, REACHED),
    (v2(V4_BYTES + tlv(4, bytes(HEADER_LIMIT - 16 - 12 - 3))), V4, REACHED),
]


@pytest.mark.parametrize(("header", "client", "reached"), GOOD)
@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.0\r\n", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", bytes(70_000)]
)
def test_a_header_is_read_and_what_follows_is_data(header, client, reached, data):
    assert parse(header + data) == Header(len(header), client, reached)


@pytest.mark.parametrize(("header", "client", "reached"), GOOD)
def test_a_header_that_is_not_whole_is_waited_for(header, client, reached):
    """It may come byte by byte."""
    for size in range(len(header)):
        assert parse(header[:size]) is None
    assert parse(header) == Header(len(header), client, reached)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.0\r\n", "does not begin"),
        (b"PROXY\r\n", "does not begin"),
        (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "does not begin"),
        (b"\r\n\r\n\0\r\nQUIT\r", "does not begin"),
        (b"PROXY " + b"x" * 101, "no end of line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2" + b" " * 80 + b"\r\n", "no end of line"),
        (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", "TCP5"),
        (b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "family ''"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "two addresses"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", "two addresses"),
        (b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", "2001:db8::1"),
        (b"PROXY TCP4 010.0.0.1 192.0.2.2 1 2\r\n", "010.0.0.1"),
        (b"PROXY TCP4 192.0.2.1 nobody 1 2\r\n", "nobody"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "65536"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 02\r\n", "02"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", r"\+1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 \xb2\r\n", "port"),
        (v2(command=0x11), "version 1"),
        (v2(command=0x22), "command 2"),
        (v2(kind=0x12), "0x12"),
        (v2(bytes(216), 0x31), "0x31"),
        (v2(b"short"), "too few"),
        (v2(length=600), "616 bytes"),
        (v2(V4_BYTES + b"\x04"), "within a block"),
        (v2(V4_BYTES + b"\x04\x00\x05four"), "within a block"),
        (v2(V4_BYTES + tlv(3, b"abc")), "CRC32c of 3"),
        (with_crc(V4_BYTES, wrong=1), "does not match"),
    ],
)
def test_what_is_no_header_is_told_why(data, why):
    with pytest.raises(NoHeader, match=why):
        parse(data)


def test_the_checksum_is_castagnolis():
    """The check value of its definition."""
    assert crc32c(b"123456789") == 0xE3069283


ADDRESSES = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))


@given(ADDRESSES, ADDRESSES)
def test_what_is_made_is_read_as_the_same(client, listener):
    """If the families differ, IPv4 is shown as IPv6."""
    for make in (make_v1, make_v2):
        made = make(client, listener)
        header = parse(made + b"data")
        assert header.size == len(made) <= 107
        ip = ipaddress.ip_address(header.client[0])
        assert (getattr(ip, "ipv4_mapped", None) or ip, header.client[1]) == (
            getattr(ipaddress.ip_address(client[0]), "ipv4_mapped", None) or ipaddress.ip_address(client[0]),
            client[1],
        )
