"""What an operator may ask of a running relay over its control socket: one JSON object a line.

Rules:

1. A request names its command, and nothing that the command does not know. A wrong value is refused with what
   would be right, as on the command line.
2. A command that changes something is recorded, with its arguments.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final, NamedTuple

import orjson

from mprelay.core.acl import Network, network_of
from mprelay.core.texts import quoted

LINE_LIMIT: Final = 4096
"""Bytes of a request, at most."""

_SECONDS_LIMIT: Final = 100 * 366 * 86400  # a century, as for each option
_SERIALS_END: Final = 2**63
_TEXT_LIMIT: Final = 100  # characters: more than any network needs


class NotRequest(Exception):  # noqa: N818 - it says what came
    """What came is no request, and why."""


class Request(NamedTuple):
    """One request."""

    command: str
    session: int | None = None  # of kill: the serial
    client: Network | None = None  # of kill: the clients
    seconds: float | None = None  # of extend
    arguments: dict[str, object] = {}  # as a record shows them  # noqa: RUF012 - never changed


LOOKS: Final = ("status", "sessions", "watch")
"""Commands that only look."""

CHANGES: Final = ("kill", "drain", "pause", "resume", "reload", "extend")
"""Commands that change something."""

_ARGUMENTS: Final = {"kill": {"session", "client"}, "extend": {"seconds"}}


class Inbox:
    """What a client has said, and what was not taken of it yet: the beginning of a line, or lines."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        """Count the bytes."""
        return len(self._data)

    @property
    def has_line(self) -> bool:
        """Whether a whole line has come."""
        return b"\n" in self._data

    def add(self, data: bytes) -> None:
        """Add what has come."""
        self._data += data

    def take(self, *, ended: bool) -> bytes | None:
        """Take the next line without its newline; None: there is none yet.

        If the client has `ended`, the rest is a line too. Raises NotRequest if a line is too long to be one.
        Nothing is then left.
        """
        line, newline, rest = self._data.partition(b"\n")
        if len(line) > LINE_LIMIT:
            self.clear()
            raise NotRequest(f"a request has at most {LINE_LIMIT} bytes")
        if not newline and not (ended and line):
            return None
        self._data = rest
        return bytes(line)

    def clear(self) -> None:
        """Forget all of it."""
        self._data.clear()


def request_of(line: bytes) -> Request:
    """Make a request of a line without its newline. Raises NotRequest."""
    try:
        given = orjson.loads(line)
    except ValueError as wrong:
        raise NotRequest(f"a request is one JSON object a line: {wrong}") from None
    if type(given) is not dict:
        raise NotRequest('a request is one JSON object a line, as in {"command": "status"}')
    command = given.pop("command", None)
    if type(command) is not str or command not in LOOKS + CHANGES:
        raise NotRequest(f"`command` {_shown(command)} must be one of {', '.join(LOOKS + CHANGES)}")
    unknown = sorted(given.keys() - _ARGUMENTS.get(command, set()))
    if unknown:
        raise NotRequest(f"{command} does not know {_shown(unknown[0])}")
    if command == "kill":
        return _kill(given)
    if command == "extend":
        seconds = _seconds(given.get("seconds"))
        return Request(command, seconds=seconds, arguments={"seconds": seconds})
    return Request(command)


def _kill(given: dict[str, Any]) -> Request:
    if len(given) != 1:
        raise NotRequest("kill needs `session` or `client`, and not both")
    if "session" in given:
        session = given["session"]
        if type(session) is not int or not 0 < session < _SERIALS_END:
            raise NotRequest(f"`session` {_shown(session)} must be the serial number of a session: 1, 2, 3 …")
        return Request("kill", session=session, arguments={"session": session})
    client = given["client"]
    if type(client) is not str or len(client) > _TEXT_LIMIT:
        raise NotRequest(f"`client` {_shown(client)} must be an address, or a network as in 192.0.2.0/24")
    return Request("kill", client=clients_of(client), arguments={"client": client})


def clients_of(text: str) -> Network:
    """Parse an address, or a network as in an ACL. Raises NotRequest."""
    is_network = "/" in text or "%" in text  # no zone is taken anywhere
    try:
        if is_network:
            return network_of(text)
        ip = ip_address(text)
    except ValueError as wrong:
        said = str(wrong) if is_network else "must be an address, or a network as in 192.0.2.0/24"
        raise NotRequest(f"`client` {quoted(text)} {said}") from None
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return IPv4Network(mapped) if mapped.version == 4 else IPv6Network(mapped)  # noqa: PLR2004


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and type(value) is not bool and 0 < value <= _SECONDS_LIMIT:
        return float(value)
    raise NotRequest(f"`seconds` {_shown(value)} must be a number of seconds, above 0 and up to {_SECONDS_LIMIT}")


def _shown(value: object) -> str:
    """Quote a value of JSON. A list or an object may be deeper than orjson writes one."""
    if value is None:
        return "is missing and"
    if isinstance(value, list | dict):
        return "is a list and" if isinstance(value, list) else "is an object and"
    return quoted(value if type(value) is str else orjson.dumps(value).decode())
