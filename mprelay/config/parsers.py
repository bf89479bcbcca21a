"""Parsers of single values. Each takes the text that was typed, and raises ValueError with what would be right.

Rules:

1. The text of the error goes on from the parameter's name and its value: what would be right ("must be …"), or
   what is wrong ("is …").
2. A number is ASCII digits. ``+1``, ``1_000``, ``1.0`` and digits of other scripts are errors. Seconds may have
   one unit behind them, and nothing between: ``90s``, ``10m``, ``2h``, ``1d``.
3. A target must be an address that a connection can be made to.
"""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Final, NamedTuple

from mprelay.core.rates import Rate

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of each unit."""

CENTURY: Final = 100 * 366 * 86400
"""The longest time, in seconds. A date that far ahead is one that log collectors can still read."""

ENDPOINT_LIMIT: Final = 47
"""Characters of an IPv6 address in brackets and a port, at most."""

_WITH_UNIT: Final = "with or without one unit (90s, 10m, 2h, 1d)"
_RATE_LIMIT: Final = 1_000_000  # connections
_DIGITS_LIMIT: Final = 20  # a longer number is out of any bound
_RFC_3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)
_ENDPOINT: Final = re.compile(r"(?:(?:\[([0-9A-Fa-f:.]+)]|([0-9.]+)):)?([0-9]+)")
LAST_MOMENT: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""The last moment, in Unix time: a later year may have five digits in UTC."""
_LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")  # RFC 919
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")  # RFC 1122, 3.2.1.3; connect(2) gives EINVAL


class Endpoint(NamedTuple):
    """An address of this host, and a port on it."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this host only."""
        return ip_address(self.host).is_loopback


def whole(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= _DIGITS_LIMIT and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"must be a whole number from {low} to {high}")

    return parse


def whole_seconds(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole seconds from `low` to `high`, which may have a unit."""
    number = whole(0, CENTURY)

    def parse(text: str) -> int:
        digits, factor = _split_unit(text)
        with suppress(ValueError):
            if low <= (value := number(digits) * factor) <= high:
                return value
        units = f", {_WITH_UNIT}" if high >= UNITS["d"] else ""  # else it would show units that are too long
        raise ValueError(f"must be a whole number of seconds from {low} to {high}{units}")

    return parse


def seconds(text: str) -> float:
    """Parse a number of seconds, fractions allowed, at most a century. It may have a unit."""
    digits, factor = _split_unit(text)
    try:
        value = float(digits) * factor if text.isascii() and set(digits) <= set("0123456789.") else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= CENTURY:
        raise ValueError(f"must be a number of seconds from 0 to {CENTURY}, {_WITH_UNIT}")
    return value


def _split_unit(text: str) -> tuple[str, int]:
    """Take the unit off; return the rest, and the seconds of the unit."""
    factor = UNITS.get(text[-1:])
    return (text, 1) if factor is None else (text[:-1], factor)


def interval(shortest: float) -> Callable[[str], float]:
    """Make a parser of the seconds between two times of something, at least `shortest`, or 0 for never."""

    def parse(text: str) -> float:
        value = seconds(text)
        if 0 < value < shortest:
            raise ValueError(f"must be 0, or at least {shortest} seconds")
        return value

    return parse


def moment(text: str) -> float:
    """Parse a moment of the wall clock (RFC 3339, 5.6); return Unix time."""
    if (found := _RFC_3339.fullmatch(text)) is None:
        raise ValueError("must be a date, a time and an offset, as in 2026-12-31T18:00:00+01:00 or …T17:00:00Z")
    date, clock, fraction, offset = found.groups(default="")
    if clock.endswith(":60"):
        raise ValueError("must not be a leap second, which this clock does not show")
    try:
        at = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if offset in 'Zz' else offset}").timestamp()
    except ValueError:
        raise ValueError("must be a date and a time that exist, with an offset below 24 hours") from None
    if not 0 <= at <= LAST_MOMENT:
        raise ValueError("must be a moment from 1970 to 9999")
    return at + float(f"0{fraction}")


def rate(text: str) -> Rate:
    """Parse a number of connections and the seconds in which they may come: 10/60, 100/1m."""
    count, slash, period = text.partition("/")
    with suppress(ValueError):
        made = Rate(whole(1, _RATE_LIMIT)(count), seconds(period))
        if slash and made.seconds > 0:
            return made
    raise ValueError(f"must be N/S: from 1 to {_RATE_LIMIT} connections in S seconds, as in 10/60 or 100/1m")


def buffer(text: str) -> int | None:
    """Parse the bytes of a transfer buffer; None: auto."""
    try:
        return None if text == "auto" else whole(100, 4000)(text)
    except ValueError as wrong:
        raise ValueError(f"{wrong}, or auto") from None


def address(text: str) -> str:
    """Parse an IP address without a zone. IPv4 is shown as IPv4, however it was written."""
    return str(_ip(text))


def _ip(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError("must be an IPv4 or IPv6 address without a zone")
    try:
        ip = ip_address(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address") from None
    return getattr(ip, "ipv4_mapped", None) or ip


def target(text: str) -> str:
    """Parse the address of a host that TCP can connect to."""
    ip = _ip(text)
    if ip in _THIS_NETWORK or ip.is_unspecified:
        raise ValueError("is the unspecified address, or of its network: it belongs to no host")
    if ip.is_multicast:
        raise ValueError("is a multicast address; TCP connects to one host")
    if ip == _LIMITED_BROADCAST:
        raise ValueError("is the broadcast address; TCP connects to one host")
    if isinstance(ip, IPv6Address) and ip.is_link_local:  # an IPv4 address of this kind needs no zone
        raise ValueError("is a link-local address, which needs a zone, and zones are not taken")
    return str(ip)


def endpoint(text: str) -> Endpoint:
    """Parse an address and a port: 192.0.2.1:9100, [::1]:9100; a port alone is one on the IPv4 loopback."""
    if found := _ENDPOINT.fullmatch(text):
        ipv6, ipv4, port = found.groups()
        with suppress(ValueError):
            ip = IPv6Address(ipv6) if ipv6 else IPv4Address(ipv4 or "127.0.0.1")
            return Endpoint(str(getattr(ip, "ipv4_mapped", None) or ip), whole(1, 65535)(port))
    raise ValueError("must be ADDR:PORT, as in 127.0.0.1:9100 or [::1]:9100, or a PORT of the loopback")


def choice(*choices: str) -> Callable[[str], str]:
    """Make a parser of one of `choices`."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def switch(text: str) -> bool:
    """Parse what is on or off. On the command line its option stands for ``true``."""
    return choice("true", "false")(text) == "true"


def label(text: str) -> tuple[str, str]:
    """Parse a key and its value. Records are UTF-8, so both must be."""
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise ValueError("must be KEY=VALUE")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return key, value
