"""Names of hosts, looked up in the hosts file and in DNS (c-ares, by pycares).

The system's own getaddrinfo(3) does not tell a name that does not exist from a server that fails, nor one failure
from another. It cannot be given a time, and a call under way cannot be cancelled. c-ares can do all that. The
hosts file is read here, because c-ares takes lines together that share a name or an address.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias

Found: TypeAlias = list[str] | str
"""Addresses of one family, or a word that tells why there is none: NXDOMAIN or NODATA if the name has none;
TIMEOUT, SERVFAIL, REFUSED or another one if the resolver has failed."""

PATIENCE: Final = 5.0
"""Seconds of a look-up, at most."""

_TRY: Final = 1.0  # seconds for a server to answer at the first try; c-ares doubles them
_TRIES: Final = 2  # of each server
_SLICE: Final = 0.1  # seconds until somebody is asked whether to stop
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_WORDS: Final = {"ENOTFOUND": "NXDOMAIN", "ETIMEOUT": "TIMEOUT"}
_HOSTS: Final = (
    Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/drivers/etc/hosts")
    if sys.platform == "win32"
    else Path("/etc/hosts")
)


def look_up(name: str, stop: Callable[[], bool] = lambda: False) -> tuple[Found, Found]:
    """Return the IPv4 addresses of a host, and its IPv6 addresses. `stop` tells when nobody needs them."""
    wanted = _plain(name)
    found = _in_hosts_file(wanted)
    if not found and (wanted == "localhost" or wanted.endswith(".localhost")):
        found = ["127.0.0.1", "::1"]  # no server is asked for these (RFC 6761, 6.3)
    if found:
        v4 = [ip for ip in found if ":" not in ip]
        v6 = [ip for ip in found if ":" in ip]
        return v4 or "NODATA", v6 or "NODATA"
    return _in_dns(name, wanted, stop)


def _in_hosts_file(wanted: str) -> list[str]:
    """Return the addresses of a name in the hosts file (hosts(5)); none if it is not there."""
    try:
        lines = _HOSTS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, None] = {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if wanted in map(str.lower, names):
            try:
                found[str(ip_address(address))] = None
            except ValueError:
                continue  # the system passes over such a line too
    return [*found]


def _in_dns(name: str, wanted: str, stop: Callable[[], bool]) -> tuple[Found, Found]:
    """Ask for both families at once, and judge each by itself."""
    import pycares  # noqa: PLC0415 - only where a target has a name

    kinds = {socket.AF_INET: pycares.QUERY_TYPE_A, socket.AF_INET6: pycares.QUERY_TYPE_AAAA}
    answers: SimpleQueue[tuple[socket.AddressFamily, Any, int | None]] = SimpleQueue()
    found: dict[socket.AddressFamily, Found] = {
        family: "NODATA" for family in _FAMILIES if not _is_supported(family)
    }
    try:
        channel = pycares.Channel(timeout=_TRY, tries=_TRIES)
    except pycares.AresError as failure:
        return str(failure), str(failure)
    until = time.monotonic() + PATIENCE
    try:
        for family in _FAMILIES:
            if family not in found:
                keep = partial(lambda family, *answer: answers.put((family, *answer)), family)
                channel.search(name, kinds[family], callback=keep)
        while len(found) < len(_FAMILIES) and time.monotonic() < until and not stop():
            try:
                family, result, error = answers.get(timeout=_SLICE)
            except Empty:
                continue
            if error is None:
                found[family] = _belonging_to(wanted, result.answer, kinds[family]) or "NODATA"
            else:
                word = pycares.errno.errorcode.get(error, f"error {error}").removeprefix("ARES_")
                found[family] = _WORDS.get(word, word.removeprefix("E"))
    finally:
        channel.close()
    v4, v6 = (found.get(family, "TIMEOUT") for family in _FAMILIES)
    return v4, v6


def _belonging_to(wanted: str, records: Sequence[Any], kind: int) -> list[str]:
    """Return the addresses in an answer that belong to the name, or to what it is an alias of (RFC 1034, 3.6.2).

    The name may have been completed by a domain of the search list (resolv.conf(5)).
    """
    aliases = {_plain(one.name): _plain(one.data.cname) for one in records if hasattr(one.data, "cname")}
    owners = {_plain(one.name) for one in records}
    ours = {owner for owner in owners if owner == wanted or owner.startswith(f"{wanted}.")}
    for owner in [*ours]:
        while owner in aliases and (owner := aliases[owner]) not in ours:
            ours.add(owner)
    return [str(ip_address(one.data.addr)) for one in records if one.type == kind and _plain(one.name) in ours]


def _plain(name: str) -> str:
    """Show a name as names are compared."""
    return name.removesuffix(".").lower()


def _is_supported(family: socket.AddressFamily) -> bool:
    """Tell whether this system can connect to addresses of a family at all."""
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True
