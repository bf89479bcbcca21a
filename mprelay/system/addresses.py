"""What this host knows about an address from its own network. Nothing is sent to find out.

:func:`has_route` is asked when a session has found no local port. The others are asked once, at the start, before
any process is started or any port is bound.
"""

import errno
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from mprelay.system.sockets import family_of

_NO_PORT: Final = 0  # the system chooses one
_ANY_PORT: Final = 9
"""The discard service, though any port would do: connect(2) of a datagram socket sends no packet (udp(7))."""


def is_broadcast(ip: str) -> bool:
    """Tell whether the IPv4 address `ip` is a broadcast address of a network that this host is in.

    connect(2) refuses such an address, with EACCES, to a datagram socket without SO_BROADCAST (ip(7)) and to no
    other. A route that prohibits the address gives EACCES with SO_BROADCAST too.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, _ANY_PORT))
        except OSError as failure:
            if failure.errno == errno.EACCES:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                probe.connect((ip, _ANY_PORT))
                return True
    return False


def can_send_from(ip: str) -> bool:
    """Tell whether a connection can have this address of this host."""
    with suppress(OSError), socket.socket(family_of(ip), socket.SOCK_STREAM) as probe:
        probe.bind((ip, _NO_PORT))
        return True
    return False


def has_route(ip: str) -> bool:
    """Tell whether this host has a route to `ip`, and an address to send from. No port of TCP is taken."""
    with suppress(OSError), socket.socket(family_of(ip), socket.SOCK_DGRAM) as probe:
        probe.connect((ip, _ANY_PORT))
        return True
    return False


def own_addresses() -> Collection[str]:
    """List the addresses of this host's interfaces, as ``str(ip_address())`` shows them.

    bind(2) would not tell, because net.ipv4.ip_nonlocal_bind may be set.
    """
    try:
        import psutil  # noqa: PLC0415 - slow, and only needed if target port and listening port are the same

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
