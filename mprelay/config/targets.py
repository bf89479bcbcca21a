"""The target: an address or a name, and which addresses can be used.

Rules:

1. A name is ASCII letters, digits, hyphens and underscores (RFC 1123, 2.1; RFC 2181, 11), and its last part is no
   number: ``10.0.0.256`` is a mistyped address and no name.
2. An address that a user must not give as the target is left out of an answer, and that is said. A family without
   an address that can be used is one for which the resolver failed.
"""

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from mprelay.config import parsers
from mprelay.config.host import Host
from mprelay.core.answers import NO_ADDRESS, NO_SUCH_NAME, Answer, bounded, in_words
from mprelay.core.protocol import ADDRESSES_LIMIT

_NAME: Final = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?", re.ASCII)
_ANSWERS: Final = {NO_SUCH_NAME, NO_ADDRESS}
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
    v4, v6 = host.look_up(target.host)
    if target.source is not None:  # from there only one family can be reached
        v4, v6 = (v4, NO_ADDRESS) if ip_address(target.source).version == 4 else (NO_ADDRESS, v6)  # noqa: PLR2004
    if isinstance(v4, str) and isinstance(v6, str):
        return _nothing(v4, v6)
    wrong: list[str] = []
    usable = [_usable(found, target, host, wrong) for found in (v4, v6)]
    words = [found for found in (v4, v6) if isinstance(found, str) and found not in _ANSWERS]
    problems = [in_words(word) for word in words]
    if wrong:
        some = any(usable)
        wrong.sort()  # the same sentence for the same answer
        problems.append(f"{'not all' if some else 'none'} of its addresses can be used: {'; '.join(wrong)}")
    error = words[0] if words else None if any(usable) else "UNUSABLE"
    others = usable[1] or ()
    return Answer(
        usable[0],
        usable[1],
        error,
        "; ".join(problems) or None,
        v4_first=bool(others) and not host.has_route(others[0]),
    )


def _nothing(v4: str, v6: str) -> Answer:
    """Make the answer if there is no address of either family."""
    failed = [word for word in (v4, v6) if word not in _ANSWERS]
    error = failed[0] if failed else NO_SUCH_NAME if NO_SUCH_NAME in (v4, v6) else NO_ADDRESS
    sides = [None if word in failed else () for word in (v4, v6)]
    return Answer(sides[0], sides[1], error, in_words(error))


def _usable(found: Sequence[str] | str, target: Target, host: Host, wrong: list[str]) -> tuple[str, ...] | None:
    """Return those of the addresses that can be used; None if that is none of them, or the resolver failed."""
    if isinstance(found, str):
        return () if found in _ANSWERS else None
    usable: dict[str, None] = {}
    for text in dict.fromkeys(found):
        try:
            ip = parsers.target(text)
            problem = wrong_with(ip, target, host)
        except ValueError as refused:
            ip, problem = text, str(refused)
        if problem:
            wrong.append(f"{ip} {problem}")
        else:
            usable[ip] = None
    if len(usable) > ADDRESSES_LIMIT:
        wrong.append(f"only {ADDRESSES_LIMIT} are kept, of {len(usable)}")
    return bounded(usable) or None


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
