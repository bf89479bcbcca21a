"""The table of parameters. It drives the parser, validation, the help and README.

Each :class:`Parameter` states its name in records, how it is given, its bounds and their reason, its default and
its message when wrong. Nothing about a parameter stands anywhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Any, Final, Literal

from mprelay.config import targets
from mprelay.config.host import Host
from mprelay.config.parsers import (
    CENTURY,
    address,
    buffer,
    choice,
    endpoint,
    interval,
    label,
    moment,
    rate,
    seconds,
    switch,
    whole,
    whole_seconds,
)
from mprelay.config.rules import Loaded, Rules, read_proxies
from mprelay.records import catalogue
from mprelay.records.catalogue import Message


def read_rules(text: str, host: Host) -> tuple[Rules, Loaded]:
    """Take an ACL apart, and read its files. Raises WrongRulesError."""
    rules = Rules.of(text, host.directory)
    return rules, rules.load(host.read_file, quotes=host.quotes_files)


def read_control(text: str, host: Host) -> str:
    """Make the path of a control socket absolute. Raises ValueError: why it cannot be one."""
    if host.control_path_limit == 0:
        raise ValueError("needs Unix sockets and the peer's credentials, which only Linux has")
    path = str(PurePosixPath(host.directory, text))
    size = len(path.encode(errors="surrogatepass"))
    if not text or text.endswith("/") or not path.isprintable() or size > host.control_path_limit:
        limit = host.control_path_limit
        raise ValueError(f"must be the path of a socket: printable, and with its directory at most {limit} bytes")
    return path


def read_seal(text: str, host: Host) -> bool:
    """Tell whether the log is sealed. Raises ValueError: why it cannot be."""
    wanted = switch(text)
    if wanted and (wrong := host.cannot_seal()) is not None:
        raise ValueError(wrong)
    return wanted


def read_seal_key(text: str, host: Host) -> tuple[str, Any]:
    """Take a private key out of a file; return its absolute path, and the key. ValueError: why there is none."""
    if (wrong := host.cannot_seal()) is not None:
        raise ValueError(wrong)
    path = absolute(text, host)
    try:
        return path, host.load_key(path)
    except OSError as failure:
        raise ValueError(f"cannot be read: {failure.strerror}") from failure


def absolute(text: str, host: Host) -> str:
    """Make a path absolute, which must not be empty. Raises ValueError."""
    if not text or "\0" in text:
        raise ValueError("must be the path of a file")
    return str(PurePath(host.directory, text))


WORKERS_LIMIT: Final = 64
"""Workers at most."""

_SESSIONS: Final = 500
"""Sessions at once, if no other number is given."""

LABELS_LIMIT: Final = 1024
"""Bytes of all labels as JSON. Every record carries them and must stay below 4096 bytes (PIPE_BUF)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table."""

    name: str
    metavar: str
    values: str  # what is allowed, in words, for the help
    help: str
    parse: Callable[[str], Any] = str  # ValueError: what would be right (mprelay.config.parsers)
    parse_on: Callable[[str, Host], Any] | None = None  # instead, where it depends on the host
    default: str | None = None  # as typed, or in words where `default_on` makes it; None: required, or none
    default_on: Callable[[Host], str] | None = None  # makes a default that depends on the host, as typed
    position: str | None = None  # the manual's name, where it can be given by position
    option: str | None = None
    message: Message = catalogue.CONFIG_INVALID
    repeat: bool = False
    flag: bool = False  # given or not on the command line, without a value; true or false elsewhere
    form: Literal["string", "number", "date"] = "string"  # what a configuration file may have besides a string
    listed: bool = False  # items with commas between, for which a configuration file may have an array

    @property
    def required(self) -> bool:
        """Whether it must be given. Each of these has a position."""
        return self.position is not None and self.default is None

    def value(self, text: str, host: Host) -> Any:  # noqa: ANN401 - each parameter has its own type
        """Parse what was typed, on `host`. Raises ValueError: what would be right."""
        return self.parse(text) if self.parse_on is None else self.parse_on(text, host)

    def typed_default(self, host: Host) -> str | None:
        """The default on `host`, as it would be typed; None: there is none."""
        return self.default if self.default_on is None else self.default_on(host)


def fewest_workers(host: Host, sessions: int) -> int:
    """Count the workers that it takes at least to hold so many sessions on `host`."""
    each = host.sessions_per_worker
    return 1 if each is None else -(-sessions // each)


def usual_workers(host: Host, sessions: int = _SESSIONS) -> int:
    """Return the default of the workers: the CPUs, at most 8, or as many as it takes to hold the sessions."""
    return min(WORKERS_LIMIT, max(min(8, host.cpus), fewest_workers(host, sessions)))


PARAMETERS: Final[tuple[Parameter, ...]] = (
    Parameter(
        name="fwd_port",
        position="fwd port",
        metavar="FWD_PORT",
        values="1..65535",
        parse=whole(1, 65535),
        help="TCP port to listen on",
        message=catalogue.FWD_PORT_INVALID,
        form="number",
    ),
    Parameter(
        name="trg_host",
        position="trg host",
        metavar="TRG_HOST",
        values="IPv4 or IPv6 address, or a name",
        parse=targets.parse,
        help="the target's address; or its name, with --resolve",
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
        form="number",
    ),
    Parameter(
        name="acl",
        position="ACL",
        metavar="ACL",
        values="ANY, IP/mask, !IP/mask, @FILE",
        parse_on=read_rules,
        help="who may connect: entries with commas between, of which the first that matches decides; if none "
        "does, the client is rejected. An entry is ANY, or an address and its mask, dotted or as a prefix length "
        "(192.168.100.30/24 means 192.168.100.0 to 192.168.100.255); with ! before it, it denies. @FILE stands "
        "for the entries of a file, one a line, which SIGHUP reads again",
        message=catalogue.ACL_INVALID,
        listed=True,
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
        form="number",
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
        form="number",
    ),
    Parameter(
        name="absolute_timeout",
        position="a t/o",
        metavar="A_TO",
        option="--absolute-timeout",
        values="seconds, 0 = never",
        parse=whole_seconds(0, CENTURY),
        help="seconds after which the relay closes itself",
        default="0",
        form="number",
    ),
    Parameter(
        name="expires_at",
        metavar="TIME",
        option="--expires-at",
        values="RFC 3339: 2026-12-31T18:00:00+01:00",
        parse=moment,
        help="when the relay closes itself, by the wall clock; in the place of A_TO",
        form="date",
    ),
    Parameter(
        name="buffer",
        position="buf",
        metavar="BUF",
        option="--buffer",
        values="100..4000 or auto",
        parse=buffer,
        help="bytes of the transfer buffer of each direction; auto chooses for speed",
        default="auto",
        message=catalogue.BUFFER_INVALID,
        form="number",
    ),
    Parameter(
        name="workers",
        metavar="N",
        option="--workers",
        values=f"1..{WORKERS_LIMIT}",
        parse=whole(1, WORKERS_LIMIT),
        help="worker processes",
        default="usable CPUs, at most 8",
        default_on=lambda host: str(usual_workers(host)),
        form="number",
    ),
    Parameter(
        name="max_sessions",
        metavar="N",
        option="--max-sessions",
        values="1..1000000",
        parse=whole(1, 1_000_000),  # two descriptors each: above any limit that the kernel grants by default
        help="sessions at once, over all workers",
        default=str(_SESSIONS),
        form="number",
    ),
    Parameter(
        name="acl_ends_sessions",
        metavar="",
        option="--acl-ends-sessions",
        values="",
        parse=switch,
        default="false",
        help="when SIGHUP has the files of the ACL read again, end the sessions that the new list does not allow",
        flag=True,
    ),
    Parameter(
        name="max_per_client",
        metavar="N",
        option="--max-per-client",
        values="0..1000000, 0 = no limit",
        parse=whole(0, 1_000_000),
        help="sessions at once of one client address, or of one /64 of IPv6",
        default="0",
        form="number",
    ),
    Parameter(
        name="max_rate",
        metavar="N/S",
        option="--max-rate",
        values="N new connections in S seconds",
        parse=rate,
        help="how often one client address, or one /64 of IPv6, may connect; the first N may come at once",
    ),
    Parameter(
        name="session_timeout",
        metavar="S",
        option="--session-timeout",
        values="seconds, 0 = never",
        parse=seconds,
        help="how long a session may live, whatever it does",
        default="0",
        form="number",
    ),
    Parameter(
        name="exit_idle",
        metavar="S",
        option="--exit-idle",
        values="seconds, 0 = never",
        parse=seconds,
        help="stop when there has been no session for so long",
        default="0",
        form="number",
    ),
    Parameter(
        name="resolve",
        metavar="S",
        option="--resolve",
        values="0.1 seconds or more, 0 = TRG_HOST is an address",
        parse=interval(0.1),
        help="seconds between look-ups of the target's name; all its addresses are tried in turn within the "
        "connect timeout, and while the resolver fails, the last ones stay in force",
        default="0",
        form="number",
    ),
    Parameter(
        name="source",
        metavar="ADDR",
        option="--source",
        values="IPv4 or IPv6 address",
        parse=address,
        help="address of this host that the target sees (default: the system's choice)",
    ),
    Parameter(
        name="proxy_protocol",
        metavar="V",
        option="--proxy-protocol",
        values="v1, v2",
        parse=choice("v1", "v2"),
        help="tell the target who the client is, by a PROXY header of this version before the client's bytes",
    ),
    Parameter(
        name="accept_proxy",
        metavar="LIST",
        option="--accept-proxy",
        values="IP/mask, with commas between",
        parse=read_proxies,
        help="networks of proxies: a connection from there must begin with a PROXY header (version 1 or 2), and "
        "the ACL and all limits judge the client that it names",
        listed=True,
    ),
    Parameter(
        name="keepalive",
        metavar="S",
        option="--keepalive",
        values="0..32767, 0 = never",
        parse=whole_seconds(0, 32767),
        help="how long a side may be silent before it is asked whether it lives; a dead one ends the session",
        default="0",
        form="number",
    ),
    Parameter(
        name="bind",
        metavar="ADDR",
        option="--bind",
        values="IPv4 or IPv6 address",
        parse=address,
        help="address to listen on (default: all, IPv6 and IPv4)",
    ),
    Parameter(
        name="log_format",
        metavar="FORMAT",
        option="--log-format",
        values="auto, json, text, ecs, ocsf, gcp",
        parse=choice("auto", "json", "text", "ecs", "ocsf", "gcp"),
        help="form of the records; auto is text on a terminal, json otherwise; ecs is for Elastic, ocsf for "
        "security lakes, gcp for Google Cloud",
        default="auto",
    ),
    Parameter(
        name="log_detail",
        metavar="DETAIL",
        option="--log-detail",
        values="full, session",
        parse=choice("full", "session"),
        help="full: every message of the manual; session: only how each session ended, refusals, "
        "and the records of the relay and its workers",
        default="full",
    ),
    Parameter(
        name="tcp_info",
        metavar="",
        option="--tcp-info",
        values="",
        parse=switch,
        default="false",
        help="record at the end of each session what TCP has measured: round-trip times and retransmissions, to "
        "the client and to the target (Linux)",
        flag=True,
    ),
    Parameter(
        name="label",
        metavar="KEY=VALUE",
        option="--label",
        values="KEY=VALUE",
        parse=label,
        help="put into `labels` on every record (ticket, owner, purpose); repeatable; "
        f"all together at most {LABELS_LIMIT} bytes as JSON, quotes included",
        repeat=True,
    ),
    Parameter(
        name="seal",
        metavar="",
        option="--seal",
        values="",
        parse_on=read_seal,
        default="false",
        help="make the log provable: `mprelayctl verify` finds whatever was changed, removed or added since it "
        "was written; records are JSON then, on a terminal too",
        flag=True,
    ),
    Parameter(
        name="seal_key",
        metavar="FILE",
        option="--seal-key",
        values="Ed25519 private key, PEM or OpenSSH's",
        parse_on=read_seal_key,
        help="a key of yours that vouches for the key of each run, so that `mprelayctl verify --key` knows whose "
        "log it is; nobody else may be able to read the file",
    ),
    Parameter(
        name="checkpoint_to",
        metavar="PATH",
        option="--checkpoint-to",
        values="path of a file or a FIFO",
        parse_on=absolute,
        help="append the seal's checkpoints to this file too; kept in another place, it shows that the end of a "
        "log was cut off",
    ),
    Parameter(
        name="drain_timeout",
        metavar="S",
        option="--drain-timeout",
        values="seconds",
        parse=seconds,
        help="how long SIGTERM or SIGINT lets sessions finish",
        default="10",
        form="number",
    ),
    Parameter(
        name="control",
        metavar="PATH",
        option="--control",
        values="path of a Unix socket",
        parse_on=read_control,
        help="where mprelayctl reaches the relay: who is connected, and commands (end sessions, pause, drain …); "
        "only for this user and root",
    ),
    Parameter(
        name="max_extend",
        metavar="S",
        option="--max-extend",
        values="seconds, 0 = not at all",
        parse=seconds,
        help="by how much all `mprelayctl extend` together may put the absolute timeout off",
        default="0",
        form="number",
    ),
    Parameter(
        name="metrics",
        metavar="ADDR:PORT",
        option="--metrics",
        values="ADDR:PORT, or a PORT of the loopback",
        parse=endpoint,
        form="number",  # a port alone
        help="serve /metrics for Prometheus, /healthz, /readyz and a page over HTTP; whoever reaches it "
        "can read it, but sees addresses of clients and labels on a loopback address only",
    ),
    Parameter(
        name="stats_interval",
        metavar="S",
        option="--stats-interval",
        values="seconds, 0 = none",
        parse=interval(0.01),  # below, measuring would be most of the work
        help="time between relay.stats records",
        default="60",
        form="number",
    ),
    Parameter(
        name="progress_interval",
        metavar="S",
        option="--progress-interval",
        values="seconds, 0 = none",
        parse=interval(0.01),
        help="time between session.progress records, of each session that moved bytes meanwhile",
        default="0",
        form="number",
    ),
)
"""The parameters, in the order of the command line and of the help."""

CONFIG_FILE: Final = Parameter(
    name="config",
    metavar="FILE",
    option="--config",
    values="TOML",
    help="a file for what is given neither here nor by variables: keys are the options' names with _ for -, and "
    "fwd_port, trg_host, trg_port, acl",
)
"""The configuration file. It is no parameter of the relay, only the place of some."""

ALTERNATIVES: Final = ("absolute_timeout", "expires_at")
"""Two ways to say the same, of which the higher source wins."""

_PREFIX: Final = "MPRELAY_"


def variable_of(parameter: Parameter) -> str:
    """Name the variable that can give a parameter."""
    return _PREFIX + parameter.name.upper()
