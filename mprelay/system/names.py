"""Names of hosts, looked up in the hosts file and in DNS (c-ares, by pycares).

The system's own getaddrinfo(3) does not tell a name that does not exist from a server that fails, nor one failure
from another. It cannot be given a time, and a call under way cannot be cancelled. c-ares reads the same files,
but not what nsswitch.conf(5) may name besides (mDNS, LDAP).
"""

import socket
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from typing import Any, Final

PATIENCE: Final = 5.0
"""Seconds of a look-up, at most."""

_TRY: Final = 1.0  # seconds for a server to answer at the first try; c-ares doubles them
_TRIES: Final = 2  # of each server
_NAMES: Final = {"ENOTFOUND": "NXDOMAIN", "ETIMEOUT": "TIMEOUT", "ENODATA": "NODATA"}


def look_up(name: str) -> list[str] | str:
    """Return the addresses of a host, those to try first first (RFC 6724), or a word that tells why not.

    The word is NXDOMAIN or NODATA if the name has none; TIMEOUT, SERVFAIL, REFUSED or another one if the resolver
    has failed. If the servers answer for one address family only, that is the answer.
    """
    import pycares  # noqa: PLC0415 - only where a target has a name

    outcome: SimpleQueue[tuple[Any, int | None]] = SimpleQueue()
    try:
        channel = pycares.Channel(timeout=_TRY, tries=_TRIES)
    except pycares.AresError as failure:
        return _word(pycares.errno.errorcode, failure.args[0])
    try:
        channel.getaddrinfo(
            name,
            None,
            family=socket.AF_UNSPEC,
            type=socket.SOCK_STREAM,
            callback=lambda result, error: outcome.put((result, error)),
        )
        result, error = outcome.get(timeout=PATIENCE)
    except Empty:
        return "TIMEOUT"
    finally:
        channel.close()
    if error is not None:
        return _word(pycares.errno.errorcode, error)
    return [str(ip_address(node.addr[0].decode())) for node in result.nodes] or "NODATA"


def _word(words: dict[int, str], error: int) -> str:
    word = words.get(error, f"error {error}").removeprefix("ARES_")
    return _NAMES.get(word, word.removeprefix("E"))
