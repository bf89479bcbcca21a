"""The command line: arguments become a :class:`~mprelay.config.validation.Config`, a text or a refusal.

What they leave open comes from variables and a file (:mod:`mprelay.config.layers`). Whoever gives neither
arguments nor a variable that names the file or is required gets the help.

argparse splits the arguments and writes the help, both from the table (:mod:`mprelay.config.parameters`). By
itself argparse would stop at the first error and write it to stderr. Here each error becomes a
:class:`~mprelay.config.validation.Problem`, because the contract wants a record of every one.
"""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple

from mprelay import __version__
from mprelay.config.effective import render
from mprelay.config.host import UNKNOWN_HOST, Host
from mprelay.config.layers import Layer, from_variables, merge
from mprelay.config.parameters import CONFIG_FILE, PARAMETERS, Parameter, variable_of
from mprelay.config.parsers import address
from mprelay.config.sources import ARGUMENT, Given, Source
from mprelay.config.validation import Config, Problem, make_problem, validate
from mprelay.core.exits import Exit
from mprelay.core.texts import quoted, shown
from mprelay.records import catalogue

_ACL_TEST: Final = "--acl-test"
_CHECK: Final = "--check"
_CONFIG: Final = variable_of(CONFIG_FILE)
_ACL_TEST_NEEDS: Final = ("ADDRESS", "ACL")
_BY_POSITION: Final = [parameter for parameter in PARAMETERS if parameter.position]
_FLAGS: Final = [parameter for parameter in PARAMETERS if parameter.flag]
_EXAMPLE: Final = """\
Example: let 10.1.2.3 reach a web server through port 8080 for ten minutes:

  mprelay 8080 192.0.2.10 80 10.1.2.3/32 --absolute-timeout 10m

Seconds may have a unit: 90s, 10m, 2h, 1d.

What is not given here comes from a variable (MPRELAY_IDLE_TIMEOUT=10m, MPRELAY_CONFIG for the file), from the
file, or by default, in this order.

Records go to stdout: one JSON object a line, or text on a terminal.
"""
_EPILOG_WIDTH: Final = 79  # argparse does not wrap the epilog, because of the example


class Text(NamedTuple):
    """A text to show instead of running, and the exit code after it."""

    text: str
    code: int


class Refusal(NamedTuple):
    """All that is wrong, and how the records about it shall look, as far as that is known."""

    problems: list[Problem]
    log_format: str
    labels: dict[str, str]


class _Arguments(NamedTuple):
    """What the command line gives."""

    layer: Layer
    problems: list[Problem]  # what belongs to no parameter
    file: Given | None  # the configuration file
    check: bool


def parse(argv: Sequence[str], host: Host = UNKNOWN_HOST) -> Config | Text | Refusal:
    """Understand the arguments (without the program's name) on `host`, and what its variables and a file add."""
    if not argv and not _is_meant(host.environment):
        return Text(_help(host), Exit.USAGE)
    if argv and argv[0] == _ACL_TEST:
        return _test_acl(argv[1:], host)
    asked, others = _make_parser().parse_known_args(argv)
    positions, unknown = _split(others)
    if not {"--help", "-h"}.isdisjoint(unknown):
        return Text(_help(host), Exit.OK)
    if "--version" in unknown:
        return Text(f"mprelay {__version__}\n", Exit.OK)
    arguments = _take(asked, positions, unknown)
    file = _read_file(arguments, host)
    layers = [arguments.layer, from_variables(host.environment), *([file] if isinstance(file, Layer) else [])]
    problems = [*arguments.problems, *([file] if isinstance(file, Problem) else [])]
    problems += [wrong for layer in layers for wrong in layer.wrong.get(CONFIG_FILE.name, ())]
    given, wrong_sources = merge(layers)
    values, wrong_values = validate(given, host)
    if isinstance(file, Problem) or CONFIG_FILE.name in arguments.layer.wrong:  # nobody knows what it gives
        wrong_values = [wrong for wrong in wrong_values if wrong.source is not None]
    problems += [*wrong_sources, *wrong_values]
    if not problems and arguments.check:
        in_force = render(given, values, host)
        if isinstance(in_force, str):
            return Text(in_force, Exit.OK)
        problems = in_force
    if problems:
        return Refusal(problems, values["log_format"] or "auto", values["labels"])
    return Config(**values)


def refuse_value(name: str, value: str, wrong: str, log_format: str, labels: dict[str, str]) -> Refusal:
    """Refuse a value that only its use has shown to be wrong."""
    parameter = next(one for one in PARAMETERS if one.name == name)
    return Refusal([make_problem(parameter, Given(value, ARGUMENT), wrong)], log_format, labels)


def _read_file(arguments: _Arguments, host: Host) -> Layer | Problem | None:
    """Read the configuration file, if there is one: that of the option, or else that of the variable."""
    given = arguments.file
    if (
        given is None
        and CONFIG_FILE.name not in arguments.layer.wrong
        and (name := host.environment.get(_CONFIG))
    ):
        given = Given(name, Source(_CONFIG))
    if given is None:
        return None
    from mprelay.config import toml  # noqa: PLC0415 - a start without a file does without it

    return toml.read(given, host)


def _is_meant(environment: Mapping[str, str]) -> bool:
    """Tell whether to start without arguments: a variable names a file, or gives something that is required."""
    required = [variable_of(parameter) for parameter in PARAMETERS if parameter.required]
    return any(environment.get(name) for name in (_CONFIG, *required))


def _take(asked: argparse.Namespace, positions: list[str], unknown: list[str]) -> _Arguments:
    """Take the arguments by the names of the parameters."""
    layer = Layer({}, {})
    check = _CHECK in unknown
    for flag in _FLAGS:
        if flag.option in unknown:
            layer.given[flag.name] = [Given("true", ARGUMENT)]
    switches = {_CHECK, *(flag.option for flag in _FLAGS)}
    problems = [_usage_problem(_what_is_wrong(text), text) for text in unknown if text not in switches]
    problems += [_usage_problem("one parameter too many", text) for text in positions[len(_BY_POSITION) :]]
    for parameter in (*PARAMETERS, CONFIG_FILE):
        for text in getattr(asked, parameter.name, None) or ():
            if text is None:
                wrong = make_problem(parameter, None, "needs a value")
                layer.wrong.setdefault(parameter.name, []).append(wrong)
            else:
                layer.given.setdefault(parameter.name, []).append(Given(text, ARGUMENT))
    for parameter, text in zip(_BY_POSITION, positions, strict=False):
        if parameter.name in layer.given:
            wrong_twice = f"is given by position ({quoted(text, mark='')}) and by option: give it once"
            twice = make_problem(parameter, layer.given[parameter.name][-1], wrong_twice)
            layer.wrong[parameter.name] = [twice._replace(message=catalogue.CONFIG_INVALID)]
        else:
            layer.given[parameter.name] = [Given(text, ARGUMENT)]
    files = layer.given.pop(CONFIG_FILE.name, [])
    problems += [make_problem(CONFIG_FILE, one, "is one file too many") for one in files[1:]]
    return _Arguments(layer, problems, files[0] if files else None, check)


def _test_acl(argv: Sequence[str], host: Host) -> Text | Refusal:
    """Tell how an ACL decides on an address."""
    if len(argv) != len(_ACL_TEST_NEEDS):
        wrong = f"{_ACL_TEST} needs {' and '.join(_ACL_TEST_NEEDS)}, and nothing else"
        return Refusal([_usage_problem(wrong, " ".join(argv))], "auto", {})
    client, text = argv
    given = {"acl": [Given(text, ARGUMENT)]}
    values, problems = validate(given, host)
    problems = [wrong for wrong in problems if wrong.parameter == "acl"]
    try:
        ip = address(client)
    except ValueError as wrong:
        problems.insert(0, _usage_problem(f"the address {wrong}", client))
    if problems:
        return Refusal(problems, "auto", {})
    allowed, entry = values["acl"][1].acl.decide(ip)
    return Text(f"{'allowed' if allowed else 'rejected'}: {shown(entry)}\n", 0 if allowed else 1)


def _split(others: list[str]) -> tuple[list[str], list[str]]:
    """Tell parameters by position from unknown options. What follows ``--`` is never an option."""
    end = others.index("--") if "--" in others else len(others)
    unknown = [text for text in others[:end] if text.startswith("-") and not text[1:2].isdigit()]
    return [text for text in others[:end] if text not in unknown] + others[end + 1 :], unknown


def _what_is_wrong(unknown: str) -> str:
    """Say what is wrong with an option that argparse does not know, and which one is like it."""
    name, equals, _ = unknown.partition("=")
    if equals and (name == _CHECK or any(name == flag.option for flag in _FLAGS)):
        return "this option takes no value"
    options = [parameter.option for parameter in (*PARAMETERS, CONFIG_FILE) if parameter.option]
    alike = get_close_matches(name, [*options, _CHECK, _ACL_TEST], 1)
    return f"unknown option (is {alike[0]} meant?)" if alike else "unknown option"


def _usage_problem(what: str, text: str) -> Problem:
    sentence = f"{what}: {quoted(text, mark='')}; see mprelay --help."
    return Problem("arguments", text, catalogue.CONFIG_INVALID, sentence, ARGUMENT)


def _make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options. Values stay text.

    The parameters by position are not in it: argparse would stop at the first that is missing, or one too many,
    and could not say which. Neither are the flags: argparse would stop at ``--version=1``.
    """
    parser = argparse.ArgumentParser(prog="mprelay", add_help=False, allow_abbrev=False, exit_on_error=False)
    for parameter in (*PARAMETERS, CONFIG_FILE):
        if parameter.option and not parameter.flag:
            parser.add_argument(parameter.option, dest=parameter.name, action="append", nargs="?")
    return parser


def _help(host: Host) -> str:
    return make_help(host).format_help()


def make_help(host: Host | None) -> argparse.ArgumentParser:
    """Make the parser that writes the help, and from which scripts/share.py makes the manual page.

    Args:
        host: Where the defaults hold that depend on the host; None: they are given in words.

    """
    writer = argparse.ArgumentParser(
        prog="mprelay",
        usage="mprelay [options] FWD_PORT TRG_HOST TRG_PORT ACL [C_TO [I_TO [A_TO [BUF]]]]",
        description="Relay TCP connections from a port of this host to one target: only for the addresses of\n"
        "the ACL, only until the absolute timeout, with a record of everything.",
        epilog="\n".join((_EXAMPLE, "Exit codes:", *map(_exit_line, Exit))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    positions = writer.add_argument_group("parameters")
    for parameter in _BY_POSITION:
        text = f"the same as {parameter.option}" if parameter.option else _help_on(parameter, host)
        positions.add_argument(parameter.name, metavar=parameter.metavar, help=text)
    options = writer.add_argument_group("options")
    for parameter in PARAMETERS:
        if parameter.option and parameter.flag:
            options.add_argument(parameter.option, action="store_true", help=parameter.help)
        elif parameter.option:
            options.add_argument(
                parameter.option,
                action="append" if parameter.repeat else "store",
                metavar=parameter.metavar,
                help=_help_on(parameter, host),
            )
    options.add_argument("--config", metavar=CONFIG_FILE.metavar, help=_help_on(CONFIG_FILE, host))
    options.add_argument(
        _CHECK,
        action="store_true",
        help="start nothing: show what is in force as TOML, which --config takes, or what is wrong",
    )
    options.add_argument(
        _ACL_TEST,
        nargs=len(_ACL_TEST_NEEDS),
        metavar=_ACL_TEST_NEEDS,
        help="tell how the ACL decides on an address, and by which entry: exit code 0 if it is allowed, 1 if not",
    )
    options.add_argument("--version", action="store_true", help="show the version")
    options.add_argument("--help", "-h", action="store_true", help="show this help")
    return writer


def _help_on(parameter: Parameter, host: Host | None) -> str:
    default = parameter.default if host is None else parameter.typed_default(host)
    return f"{parameter.help} ({parameter.values}{'' if default is None else f'; default {default}'})"


def _exit_line(code: Exit) -> str:
    return textwrap.fill(f"{code:4d}  {code.meaning}", _EPILOG_WIDTH, subsequent_indent=" " * 6)
