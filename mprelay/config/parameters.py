"""The configuration: one table of parameters drives parser, validation, help and README.

Rules:

1. Each :class:`Parameter` states its name in records, how it is given, its bounds and their reason, its
   default and its message when wrong. Nothing about a parameter stands anywhere else.
2. Values arrive as text, as the user typed them. :func:`validate` reports every wrong one, not only the
   first; a :class:`Config` is made only where there is none.
3. A number is ASCII digits. ``+1``, ``1_000``, ``1.0`` and digits of other scripts are errors. Seconds may have
   one unit behind them, and nothing between: ``90s``, ``10m``, ``2h``, ``1d``.
4. A target must be one that a connection can be made to, and that does not lead back to the own listener. What
   only the system can tell is asked through :class:`Network`: nothing here touches a socket.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from json import dumps
from typing import Any, Final, Literal, NamedTuple

from mprelay.core.acl import Acl
from mprelay.records import catalogue
from mprelay.records.catalogue import Message
from mprelay.system import cpus

LABELS_LIMIT: Final = 1024
"""Bytes of all labels as JSON. Every record carries them and must stay below 4096 bytes (PIPE_BUF)."""

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WITH_UNIT: Final = "with or without one unit (90s, 10m, 2h, 1d)"
_EVERYBODY: Final = IPv4Address("255.255.255.255")
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")  # RFC 1122, 3.2.1.3; connect(2) gives EINVAL
_CENTURY: Final = 100 * 366 * 86400
_SHORTEST: Final = 0.01  # seconds between statistics: below, measuring would be most of what is done


@dataclass(frozen=True, slots=True)
class Config:
    """What the user asked for, checked. Times are seconds, sizes bytes."""

    fwd_port: int
    trg_host: str
    trg_port: int
    acl: Acl
    connect_timeout: int
    idle_timeout: int
    absolute_timeout: int  # 0: never
    buffer: int | None  # None: auto
    workers: int
    max_sessions: int
    bind: str | None  # None: all interfaces
    log_format: Literal["auto", "json", "text"]
    log_detail: Literal["full", "session"]
    labels: Mapping[str, str]
    drain_timeout: float
    stats_interval: float  # 0: none


class Network(NamedTuple):
    """How to ask this host about its network. By default it knows nothing."""

    is_broadcast: Callable[[str], bool] = lambda _ip: False
    """Tells whether an IPv4 address is a broadcast address of a network that this host is in."""
    own_addresses: Callable[[], Collection[str]] = tuple
    """Lists the addresses of this host's interfaces. Asked only where it matters: it may take a while."""


UNASKED: Final = Network()


class Problem(NamedTuple):
    """One wrong value: what a ``config.invalid`` record says."""

    parameter: str
    value: str | None  # None: missing
    message: Message
    problem: str  # the sentence where `message` is ours; else what the manual's sentence leaves open


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table. `parse` raises ValueError with what would be right."""

    name: str
    metavar: str
    values: str  # what is allowed, in words, for the help
    parse: Callable[[str], Any]
    help: str
    default: str | None = None  # as typed; None: required, or none
    position: str | None = None  # the manual's name, where it can be given by position
    option: str | None = None
    message: Message = catalogue.CONFIG_INVALID
    repeat: bool = False


def whole(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high:  # noqa: PLR2004 - longer is out of any bound
            return int(text)
        raise ValueError(f"must be a whole number from {low} to {high}")

    return parse


def whole_seconds(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of whole seconds from `low` to `high`, which may have a unit."""
    number = whole(0, _CENTURY)

    def parse(text: str) -> int:
        digits, factor = _without_unit(text)
        with suppress(ValueError):
            if low <= (value := number(digits) * factor) <= high:
                return value
        raise ValueError(f"must be a whole number of seconds from {low} to {high}, {_WITH_UNIT}")

    return parse


def seconds(text: str) -> float:
    """Parse a number of seconds, fractions allowed, at most a century. It may have a unit."""
    digits, factor = _without_unit(text)
    try:
        value = float(digits) * factor if text.isascii() and set(digits) <= set("0123456789.") else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= _CENTURY:
        raise ValueError(f"must be a number of seconds from 0 to {_CENTURY}, {_WITH_UNIT}")
    return value


def _without_unit(text: str) -> tuple[str, int]:
    """Take the unit off; return what is left, and how many seconds the unit is."""
    factor = UNITS.get(text[-1:])
    return (text, 1) if factor is None else (text[:-1], factor)


def _interval(text: str) -> float:
    value = seconds(text)
    if 0 < value < _SHORTEST:
        raise ValueError(f"must be 0, or at least {_SHORTEST} seconds")
    return value


def _buffer(text: str) -> int | None:
    try:
        return None if text == "auto" else whole(100, 4000)(text)
    except ValueError as wrong:
        raise ValueError(f"{wrong}, or auto") from None


def _ip(text: str) -> str:
    return str(_address(text))


def _address(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError("must be an IPv4 or IPv6 address without a zone")
    try:
        ip = ip_address(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address") from None
    return getattr(ip, "ipv4_mapped", None) or ip  # IPv4 is shown as IPv4, however it was written


def _target(text: str) -> str:
    ip = _address(text)
    if ip in _THIS_NETWORK or ip.is_unspecified:
        raise ValueError("is the unspecified address, or of its network: it belongs to no host")
    if ip.is_multicast:
        raise ValueError("is a multicast address; TCP connects to one host")
    if ip == _EVERYBODY:
        raise ValueError("is the broadcast address; TCP connects to one host")
    if ip.version == 6 and ip.is_link_local:  # noqa: PLR2004 - IPv6; an IPv4 address of this kind needs no zone
        raise ValueError("is a link-local address, which needs a zone, and zones are not taken")
    return str(ip)


def leads_back(target: str, bind: str | None, own: Collection[str]) -> bool:
    """Tell whether `target` is an address that the relay itself listens on.

    `own` are the addresses of this host; loopback is its own in any case. An address that the relay is bound to
    need be on no interface: it can come later (ip_nonlocal_bind), or be routed here (``ip route add local``).
    """
    ip = ip_address(target)
    bound = None if bind is None else ip_address(bind)
    if bound is not None and not bound.is_unspecified:
        return bound == ip
    if bound == IPv4Address(0) and ip.version == 6:  # noqa: PLR2004 - IPv6; the other way :: takes IPv4 too
        return False
    return ip.is_loopback or target in own


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise ValueError("must be KEY=VALUE")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return key, value


PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(
        name="fwd_port",
        position="fwd port",
        metavar="FWD_PORT",
        values="1..65535",
        parse=whole(1, 65535),
        help="TCP port to listen on",
        message=catalogue.FWD_PORT_INVALID,
    ),
    Parameter(
        name="trg_host",
        position="trg host",
        metavar="TRG_HOST",
        values="IPv4 or IPv6 address",
        parse=_target,
        help="the target's address",
        message=catalogue.TRG_HOST_INVALID,
    ),
    Parameter(
        name="trg_port",
        position="trg port",
        metavar="TRG_PORT",
        values="1..65535",
        parse=whole(1, 65535),
        help="the target's TCP port",
        message=catalogue.TRG_PORT_INVALID,
    ),
    Parameter(
        name="acl",
        position="ACL",
        metavar="ACL",
        values="ANY or IP/mask",
        parse=Acl.parse,
        help="who may connect: ANY, or an address and its mask, dotted or as a prefix length "
        "(192.168.100.30/24 lets in 192.168.100.0 to 192.168.100.255)",
        message=catalogue.ACL_INVALID,
    ),
    Parameter(
        name="connect_timeout",
        position="c t/o",
        metavar="C_TO",
        option="--connect-timeout",
        values="1..3",
        parse=whole_seconds(1, 3),
        help="seconds to wait for the target to answer",
        default="3",
        message=catalogue.CONNECT_TIMEOUT_INVALID,
    ),
    Parameter(
        name="idle_timeout",
        position="i t/o",
        metavar="I_TO",
        option="--idle-timeout",
        values="1..1800",
        parse=whole_seconds(1, 1800),
        help="seconds without a byte moved after which a session is ended",
        default="300",
        message=catalogue.IDLE_TIMEOUT_INVALID,
    ),
    Parameter(
        name="absolute_timeout",
        position="a t/o",
        metavar="A_TO",
        option="--absolute-timeout",
        values="seconds, 0 = never",
        parse=whole_seconds(0, _CENTURY),  # a century: expires_at must stay a date that log collectors can read
        help="seconds after which the relay closes itself",
        default="0",
    ),
    Parameter(
        name="buffer",
        position="buf",
        metavar="BUF",
        option="--buffer",
        values="100..4000 or auto",
        parse=_buffer,
        help="bytes of the transfer buffer of each direction; auto chooses for speed",
        default="auto",
        message=catalogue.BUFFER_INVALID,
    ),
    Parameter(
        name="workers",
        metavar="N",
        option="--workers",
        values="1..64",
        parse=whole(1, 64),
        help="worker processes",
        default=str(min(8, cpus.usable())),
    ),
    Parameter(
        name="max_sessions",
        metavar="N",
        option="--max-sessions",
        values="1..1000000",
        parse=whole(1, 1_000_000),  # two descriptors each: above any limit that the kernel grants by default
        help="sessions at once, over all workers",
        default="500",
    ),
    Parameter(
        name="bind",
        metavar="ADDR",
        option="--bind",
        values="IPv4 or IPv6 address",
        parse=_ip,
        help="address to listen on (default: all, IPv6 and IPv4)",
    ),
    Parameter(
        name="log_format",
        metavar="FORMAT",
        option="--log-format",
        values="auto, json, text",
        parse=_choice("auto", "json", "text"),
        help="form of the records; auto is text on a terminal, json otherwise",
        default="auto",
    ),
    Parameter(
        name="log_detail",
        metavar="DETAIL",
        option="--log-detail",
        values="full, session",
        parse=_choice("full", "session"),
        help="full: every message of the manual; session: only how each session ended, refusals, "
        "and the records of the relay and its workers",
        default="full",
    ),
    Parameter(
        name="label",
        metavar="KEY=VALUE",
        option="--label",
        values="KEY=VALUE",
        parse=_label,
        help="put into `labels` on every record (ticket, owner, purpose); repeatable; "
        f"all together at most {LABELS_LIMIT} bytes as JSON, quotes included",
        repeat=True,
    ),
    Parameter(
        name="drain_timeout",
        metavar="S",
        option="--drain-timeout",
        values="seconds",
        parse=seconds,
        help="how long SIGTERM or SIGINT lets sessions finish",
        default="10",
    ),
    Parameter(
        name="stats_interval",
        metavar="S",
        option="--stats-interval",
        values="seconds, 0 = none",
        parse=_interval,
        help="time between relay.stats records",
        default="60",
    ),
)
"""The parameters, in the order of the command line and of the help."""

_TRG_HOST: Final = next(parameter for parameter in PARAMETERS if parameter.name == "trg_host")


def validate(
    given: Mapping[str, Sequence[str]], network: Network = UNASKED
) -> tuple[dict[str, Any], list[Problem]]:
    """Check what was typed: each parameter's name mapped to its texts (a missing name: not given).

    Returns the fields of a :class:`Config`, None where there is no good value, and every problem.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for parameter in PARAMETERS:
        texts = given.get(parameter.name, () if parameter.default is None else (parameter.default,))
        parsed = []
        for text in texts:
            try:
                parsed.append(parameter.parse(text))
            except ValueError as wrong:
                problems.append(problem(parameter, text, str(wrong)))
        if parameter.position and not texts:
            problems.append(problem(parameter, None, "is missing"))
        if parameter.repeat:
            values["labels"], wrong_labels = _collect(parameter, parsed)
            problems.extend(wrong_labels)
        else:
            values[parameter.name] = parsed[-1] if parsed else None
    if values["trg_host"] is not None and (wrong_target := _unusable(values, network)):
        problems.append(problem(_TRG_HOST, given[_TRG_HOST.name][-1], wrong_target))
    return values, problems


def _unusable(values: Mapping[str, Any], network: Network) -> str | None:
    """Say why this target cannot be used from this host, behind this listener; None: it can."""
    target, port = values["trg_host"], values["trg_port"]
    if ":" not in target and network.is_broadcast(target):
        return "is a broadcast address of this host's network; TCP connects to one host"
    if (
        port is not None
        and port == values["fwd_port"]
        and leads_back(target, values["bind"], network.own_addresses())
    ):
        return f"and port {port} are where this relay listens: it would relay to itself"
    return None


def problem(parameter: Parameter, value: str | None, wrong: str) -> Problem:
    """Say what is wrong with one parameter, in the manual's words where it has some.

    `wrong` goes on from the parameter's name and its value: what would be right ("must be …"), or what is wrong
    ("is …").
    """
    both = (f"<{parameter.position}>" if parameter.position else "", parameter.option or "")
    name = " or ".join(filter(None, both))  # it may have been given either way
    shown = "" if value is None else f" {_shown(value)}"
    return Problem(parameter.name, value, parameter.message, f"{name}{shown} {wrong}.")


def _collect(parameter: Parameter, pairs: list[tuple[str, str]]) -> tuple[dict[str, str], list[Problem]]:
    labels: dict[str, str] = {}
    problems = []
    for key, value in pairs:
        if key in labels:  # an audit label that silently replaces another would make the log lie
            problems.append(problem(parameter, f"{key}={value}", "must not give a key for the second time"))
        else:
            labels[key] = value
    size = len(dumps(labels, ensure_ascii=False).encode())
    if size > LABELS_LIMIT:
        what = f"is the longest of labels that take {size} bytes as JSON, with quotes: at most {LABELS_LIMIT}"
        longest = max(pairs, key=lambda pair: len(pair[1]))
        return {}, [*problems, problem(parameter, "=".join(longest), what)]
    return labels, problems


def _shown(value: str) -> str:
    most = 60
    return repr(value if len(value) <= most else value[:most] + "…")
