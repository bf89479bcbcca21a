"""Validation: what was given becomes a :class:`Config`, or a :class:`Problem` for each wrong value.

Rules:

1. :func:`validate` reports every wrong value, not only the first. A :class:`Config` is made if there is none.
2. A parser checks one value. :func:`_check_across`, and nothing else, checks what must hold between parameters.
3. A target must not lead back to the relay's own listener. A name is looked up once here, last of all.
4. The workers can hold all sessions. Their default number follows from that of the sessions.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from json import dumps
from typing import Any, Final, Literal, NamedTuple

from mprelay.config import targets
from mprelay.config.host import UNKNOWN_HOST, Host
from mprelay.config.parameters import (
    LABELS_LIMIT,
    PARAMETERS,
    WORKERS_LIMIT,
    Parameter,
    fewest_workers,
    usual_workers,
)
from mprelay.config.parsers import ENDPOINT_LIMIT, Endpoint
from mprelay.config.rules import Loaded, Rules, WrongRulesError
from mprelay.config.sources import ARGUMENT, Given, Source
from mprelay.config.targets import Target
from mprelay.core.acl import Acl
from mprelay.core.answers import Answer
from mprelay.core.rates import Rate
from mprelay.core.texts import cut, missing, quoted, shown
from mprelay.records.catalogue import Message

WITH_A_FIELD: Final = frozenset(
    (
        "fwd_port",
        "trg_host",
        "trg_port",
        "acl",
        "workers",
        "max_sessions",
        "bind",
        "log_detail",
        "label",
        "expires_at",
    )
)
"""Parameters that relay.active tells otherwise."""
OPTION_LIMITS: Final = {"accept_proxy": 120, "control": 24, "metrics": ENDPOINT_LIMIT, "source": 45}
OPTION_LIMIT: Final = 12
"""Bytes of each of the others in that record, at most, and of those that may be longer."""

_BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True, slots=True)
class Config:
    """What the user asked for, checked. Times are seconds, sizes bytes."""

    fwd_port: int
    trg_host: str  # an address, or a name
    trg_port: int
    target: Target | None  # what is looked up again and again; None: `trg_host` is an address
    answer: Answer  # the addresses to connect to at first, at least one
    resolve: float  # seconds between look-ups
    acl: tuple[Rules, Loaded]  # as typed, and as read
    connect_timeout: int
    idle_timeout: int
    absolute_timeout: int  # 0: never
    expires_at: float | None  # Unix time
    buffer: int | None  # None: auto
    workers: int
    max_sessions: int
    acl_ends_sessions: bool
    max_per_client: int  # 0: no limit
    max_rate: Rate | None
    session_timeout: float  # 0: never
    exit_idle: float  # 0: never
    source: str | None  # None: the system's choice
    proxy_protocol: Literal["v1", "v2"] | None
    accept_proxy: Acl | None  # proxies, whose connections begin with a PROXY header
    keepalive: int  # 0: never
    bind: str | None  # None: all interfaces
    log_format: Literal["auto", "json", "text", "ecs", "ocsf", "gcp"]
    log_detail: Literal["full", "session"]
    tcp_info: bool
    labels: Mapping[str, str]
    seal: bool
    seal_key: tuple[str, Any] | None  # its path, and the key (mprelay.seal.keys); None: nobody vouches
    checkpoint_to: str | None  # an absolute path; None: nowhere
    drain_timeout: float
    control: str | None  # an absolute path; None: no control socket
    max_extend: float
    metrics: Endpoint | None  # where they are served; None: nowhere
    stats_interval: float  # 0: none
    progress_interval: float  # 0: none
    options: Mapping[str, str]  # what relay.active has no field of its own for, as typed or by default


class Problem(NamedTuple):
    """One wrong value: what a ``config.invalid`` record says."""

    parameter: str
    value: str | None  # None: missing, or not shown
    message: Message
    problem: str  # the sentence of `message` where that is ours; else what the manual's sentence leaves open
    source: Source | None  # None: missing


def validate(
    given: Mapping[str, Sequence[Given]], host: Host = UNKNOWN_HOST
) -> tuple[dict[str, Any], list[Problem]]:
    """Check what was given: by each parameter's name, its values in their order (a missing name: not given).

    A name without a value has a problem that is known already.

    Returns the fields of a :class:`Config`, None where there is no good value, and every problem.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for parameter in PARAMETERS:
        parsed: list[tuple[Given, Any]] = []
        for one in given.get(parameter.name, ()):
            directory = host.directory if one.source.directory is None else one.source.directory
            try:
                parsed.append((one, parameter.value(one.text, host._replace(directory=directory))))
            except WrongRulesError as several:
                problems += _problems_of(parameter, one, several)
            except ValueError as wrong:
                problems.append(make_problem(parameter, one, str(wrong)))
        if parameter.repeat:
            values["labels"], wrong_labels = _collect_labels(parameter, parsed)
            problems += wrong_labels
        elif parsed:
            _, values[parameter.name] = parsed[-1]
        elif parameter.name in given:
            values[parameter.name] = None
        else:
            default = parameter.typed_default(host)
            values[parameter.name] = None if default is None else parameter.value(default, host)
            if parameter.required:
                problems.append(make_problem(parameter, None, "is missing"))
    if "workers" not in given and values["max_sessions"] is not None:
        values["workers"] = usual_workers(host, values["max_sessions"])
    values["options"] = _options(given, host)
    values["target"] = values["answer"] = None
    wrong_pairs = [*_check_across(values, host), *_check_workers(values, given, host)]
    for name, wrong_pair in wrong_pairs:
        one_given = given[name][-1] if name in given else None
        if one_given is not None and one_given.source.quote == 0:
            wrong_pair = "does not go with the other parameters"  # noqa: PLW2901 - it may name their values
        problems.append(make_problem(_BY_NAME[name], one_given, wrong_pair))
    if values["target"] is not None and not problems:
        answer = values["answer"] = targets.look_up(values["target"], host)
        if not answer.addresses:
            wrong_name = f"gives no address: {answer.problem}"
            problems.append(make_problem(_BY_NAME["trg_host"], given["trg_host"][-1], wrong_name))
    return values, problems


def _options(given: Mapping[str, Sequence[Given]], host: Host) -> dict[str, str]:
    """Return the parameters that relay.active has no field of its own for, as typed or by default."""
    options: dict[str, str] = {}
    for parameter in PARAMETERS:
        if parameter.name in WITH_A_FIELD:
            continue
        typed = [one.text for one in given.get(parameter.name, ())]
        if (text := typed[-1] if typed else parameter.typed_default(host)) is not None:
            options[parameter.name] = cut(text, OPTION_LIMITS.get(parameter.name, OPTION_LIMIT), "…")
    return options


def make_problem(parameter: Parameter, given: Given | None, wrong: str) -> Problem:
    """Say what is wrong with one parameter, in the manual's words where it has some.

    `wrong` goes on from the parameter's name and its value: what would be right ("must be …"), or what is wrong
    ("is …").
    """
    if given is None:
        return Problem(parameter.name, None, parameter.message, f"{_subject(parameter)} {wrong}.", None)
    text = None if parameter.flag and given.source is ARGUMENT else _repeated(given)
    subject = _subject(parameter, text, given.source.place)
    return Problem(parameter.name, text, parameter.message, f"{subject} {wrong}.", given.source)


def _repeated(given: Given) -> str | None:
    """Return as much of a wrong value as its record may repeat."""
    limit = given.source.quote
    return given.text if limit is None else shown(given.text, limit) if limit else None


def _subject(parameter: Parameter, text: str | None = None, place: str = "") -> str:
    """Name a parameter, with its value and its place."""
    names = (f"<{parameter.position}>" if parameter.position else "", parameter.option or "")
    subject = " or ".join(filter(None, names))  # it may have been given either way
    value = "" if text is None else f" {quoted(text)}"
    return f"{subject}{value} in {place}" if place else f"{subject}{value}"


def _problems_of(parameter: Parameter, given: Given, several: WrongRulesError) -> Iterator[Problem]:
    """Say what is wrong with each entry of a list."""
    for wrong in several.wrong:
        if given.source.quote == 0:
            yield make_problem(parameter, given, "has a wrong entry")
            continue
        source = given.source._replace(place=wrong.place) if wrong.place else given.source
        text = None if wrong.text is None else _repeated(Given(wrong.text, source))
        sentence = f"{_subject(parameter, wrong.text, source.place)} {wrong.problem}."
        yield Problem(parameter.name, text, parameter.message, sentence, source)


def _check_across(values: dict[str, Any], host: Host) -> Iterator[tuple[str, str]]:
    """Find what is wrong between parameters that are right by themselves: the name of one, and what is wrong.

    A value that is wrong by itself is None. What is known of the target is added to the values.
    """
    target = Target(*(values[name] for name in ("trg_host", "trg_port", "fwd_port", "bind", "source")))
    if target.host is not None:
        if not targets.is_name(target.host):
            values["answer"] = Answer.of(target.host)
            if wrong := targets.wrong_with(target.host, target, host):
                yield "trg_host", wrong
        elif values["resolve"] == 0:
            yield "trg_host", "must be an IPv4 or IPv6 address; a name needs --resolve"
        else:
            values["target"] = target
    if values["source"] is not None and (wrong := _wrong_with_source(values, host)):
        yield "source", wrong
    if values["tcp_info"] and not host.tells_paths:
        yield "tcp_info", "needs Linux: this system does not count the segments that are sent again"
    if values["seal"] and values["log_format"] == "text":
        yield "seal", "must not be given with --log-format text: a line of text does not hold all of its record"
    for name in ("seal_key", "checkpoint_to"):
        if values[name] is not None and values["seal"] is False:
            yield name, "must not be given without --seal"
    if values["metrics"] is not None:
        if _meets_listener(values["metrics"], values["bind"], values["fwd_port"]):
            yield "metrics", "must not be where the relay itself listens"
        elif not host.serves_metrics():
            yield "metrics", missing("metrics")
    if values["expires_at"] is not None and values["absolute_timeout"]:
        yield "expires_at", "must not be given beside an absolute timeout"


def _meets_listener(endpoint: Endpoint, bind: str | None, port: int | None) -> bool:
    """Tell whether both would listen on one port of one address."""
    everywhere = bind is None or ip_address(endpoint.host).is_unspecified or ip_address(bind).is_unspecified
    return endpoint.port == port and (everywhere or endpoint.host == bind)


def _check_workers(values: Mapping[str, Any], given: Container[str], host: Host) -> Iterator[tuple[str, str]]:
    """The same between the workers and the sessions."""
    workers, sessions, each = values["workers"], values["max_sessions"], host.sessions_per_worker
    if workers is not None and sessions is not None and each is not None and workers * each < sessions:
        least = fewest_workers(host, sessions)
        if "workers" in given and least <= WORKERS_LIMIT:
            held = f"each worker holds at most {each} sessions, which makes {workers * each}"
            yield "workers", f"must be at least {least}: {held}, not the {sessions} of --max-sessions"
        else:
            most = f"{WORKERS_LIMIT} workers are the most, and each holds at most {each} sessions"
            yield "max_sessions", f"must be at most {WORKERS_LIMIT * each}: {most}"


def _wrong_with_source(values: Mapping[str, Any], host: Host) -> str | None:
    """Say why the target cannot be reached from this address; None: it can, as far as this host can tell."""
    source, target = ip_address(values["source"]), values["trg_host"]
    if target is not None and not targets.is_name(target) and ip_address(target).version != source.version:
        return f"and the target are of two address families: the target is {target}"
    if source.is_unspecified or source.is_multicast or not host.can_send_from(str(source)):
        return "is not an address of this host"
    return None


def _collect_labels(
    parameter: Parameter, parsed: Sequence[tuple[Given, tuple[str, str]]]
) -> tuple[dict[str, str], list[Problem]]:
    labels: dict[str, str] = {}
    problems = []
    for given, (key, value) in parsed:
        if key in labels:  # an audit label that silently replaces another would make the log lie
            problems.append(make_problem(parameter, given, "must not give a key for the second time"))
        else:
            labels[key] = value
    size = len(dumps(labels, ensure_ascii=False).encode())
    if size > LABELS_LIMIT:
        wrong = f"is the longest of labels that take {size} bytes as JSON, with quotes: at most {LABELS_LIMIT}"
        longest, _ = max(parsed, key=lambda label: len(label[1][1]))
        return {}, [*problems, make_problem(parameter, longest, wrong)]
    return labels, problems
