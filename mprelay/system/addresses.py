"""What this host's own network says of an address. Nothing is sent to find out.

All but :func:`has_route` is asked once, at the start, before any process is started and any port is bound. That
one is asked when a session has found no local port.
"""

import errno
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from mprelay.system.sockets import family_of

_DISCARD: Final = 9
"""Any port: connect(2) of a datagram socket looks up the route, and sends no packet (udp(7))."""


def is_broadcast(ip: str) -> bool:
    """Tell whether the IPv4 address `ip` is a broadcast address of a network that this host is in.

    connect(2) refuses one, with EACCES, to a datagram socket that has no SO_BROADCAST (ip(7)), and to no other.
    A route that prohibits the address gives EACCES too, but to both.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, _DISCARD))
        except OSError as failure:
            if failure.errno == errno.EACCES:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                probe.connect((ip, _DISCARD))
                return True
    return False


def has_route(ip: str) -> bool:
    """Tell whether this host has a route to `ip`, and an address to send from. That takes no port of TCP's."""
    with suppress(OSError), socket.socket(family_of(ip), socket.SOCK_DGRAM) as probe:
        probe.connect((ip, _DISCARD))
        return True
    return False


def own_addresses() -> Collection[str]:
    """List the addresses of this host's interfaces, as ``str(ip_address())`` shows them.

    A bind(2) would tell nothing where net.ipv4.ip_nonlocal_bind is set.
    """
    try:
        import psutil  # noqa: PLC0415 - thirty milliseconds, for those who relay to the port that they listen on

        found = psutil.net_if_addrs()
    except (ImportError, OSError):
        return ()
    ip_families = (socket.AF_INET, socket.AF_INET6)
    return {
        address.address.partition("%")[0]
        for addresses in found.values()
        for address in addresses
        if address.family in ip_families
    }
