"""The target: an address or a name, and which addresses can be used.

Rules:

1. A name is ASCII letters, digits, hyphens and underscores (RFC 1123, 2.1; RFC 2181, 11), and its last part is no
   number: ``10.0.0.256`` is a mistyped address and no name.
2. An address that a user must not give as the target is left out of an answer, and that is said.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from mprelay.config import parsers
from mprelay.config.host import Host
from mprelay.core.answers import Answer, no_addresses
from mprelay.core.protocol import ADDRESSES_LIMIT

_NAME: Final = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?", re.ASCII)
_NAME_LIMIT: Final = 253  # characters (RFC 1035, 3.1: 255 bytes as they are sent)


class Target(NamedTuple):
    """The target, and what its addresses must go with. None: not known."""

    host: str
    port: int | None
    listen_port: int | None
    bind: str | None
    source: str | None


def parse(text: str) -> str:
    """Parse a name, or the address of a host that TCP can connect to."""
    if is_name(text):
        return text
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address, or with --resolve a name, and nothing else") from None
    return parsers.target(text)


def is_name(text: str) -> bool:
    """Tell whether this can be a host's name, and is no address."""
    if len(text.removesuffix(".")) > _NAME_LIMIT or _NAME.fullmatch(text) is None:
        return False
    *_, last = text.removesuffix(".").split(".")
    return not last.isdigit()


def look_up(target: Target, host: Host) -> Answer:
    """Look the target's name up, and leave out what cannot be used."""
    found = host.look_up(target.host)
    if isinstance(found, str):
        return no_addresses(found)
    usable: list[str] = []
    wrong: list[str] = []
    for text in dict.fromkeys(found):
        try:
            ip = parsers.target(text)
            problem = _wrong_family(ip, target.source) or wrong_with(ip, target, host)
        except ValueError as refused:
            ip, problem = text, str(refused)
        if problem:
            wrong.append(f"{ip} {problem}")
        elif ip not in usable:
            usable.append(ip)
    if len(usable) > ADDRESSES_LIMIT:
        wrong.append(f"only {ADDRESSES_LIMIT} addresses are kept, of {len(usable)}")
        kept = sorted(usable)[:ADDRESSES_LIMIT]  # always the same ones, in whatever order they come
        usable = [ip for ip in usable if ip in kept]
    if not wrong:
        return Answer(tuple(usable))
    wrong.sort()  # the same sentence for the same answer
    said = f"{'not all' if usable else 'none'} of its addresses can be used: {'; '.join(wrong)}"
    return Answer(tuple(usable), None if usable else "UNUSABLE", said)


def _wrong_family(ip: str, source: str | None) -> str | None:
    if source is not None and ip_address(source).version != ip_address(ip).version:
        return f"is of another address family than --source {source}"
    return None


def wrong_with(ip: str, target: Target, host: Host) -> str | None:
    """Say why an address cannot be connected to from this host and behind this listener; None: it can."""
    if ":" not in ip and host.is_broadcast(ip):
        return "is a broadcast address of this host's network; TCP connects to one host"
    if (
        target.port is not None
        and target.port == target.listen_port
        and _leads_back(ip, target.bind, host.own_addresses())
    ):
        return f"and port {target.port} are where this relay listens: it would relay to itself"
    return None


def _leads_back(text: str, bind: str | None, own: Collection[str]) -> bool:
    """Tell whether an address is one that the relay itself listens on.

    `own` are the addresses of this host. Loopback is its own in any case. The address that the relay is bound to
    need not be on an interface: it can come later (ip_nonlocal_bind), or be routed here (``ip route add local``).
    """
    ip = ip_address(text)
    bound = None if bind is None else ip_address(bind)
    if bound is not None and not bound.is_unspecified:
        return bound == ip
    if bound == IPv4Address(0) and isinstance(ip, IPv6Address):  # but :: takes IPv4 too
        return False
    return ip.is_loopback or text in own
