"""The command line: arguments → :class:`~mprelay.config.parameters.Config`, or all that is wrong with them.

argparse splits the arguments and writes the help. The parser is made from the table of parameters
(:mod:`mprelay.config.parameters`). argparse stops at the first error and writes it to stderr. Here each error
becomes a :class:`~mprelay.config.parameters.Problem`, because the contract wants a record for every one.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from mprelay import __version__
from mprelay.config.parameters import PARAMETERS, UNASKED, Config, Network, Parameter, Problem, problem, validate
from mprelay.records import catalogue

_BY_POSITION = [parameter for parameter in PARAMETERS if parameter.position]

_EPILOG = """\
Example: let 10.1.2.3 reach a web server through port 8080 for ten minutes:

  mprelay 8080 192.0.2.10 80 10.1.2.3/32 --absolute-timeout 10m

Seconds may have a unit: 90s, 10m, 2h, 1d.

Records go to stdout: one JSON object a line, or text on a terminal.
Exit codes: 0 expired or stopped by a signal, 2 wrong parameters, 69 no
listener, 70 internal failure or no workers, 71 platform, 74 stdout is gone.
"""


class Text(NamedTuple):
    """What the command line asked to be shown, and the exit code after it."""

    text: str
    code: int


class Refusal(NamedTuple):
    """All that is wrong, and how the records about it shall look, as far as that is known."""

    problems: list[Problem]
    log_format: str
    labels: dict[str, str]


def parse(argv: Sequence[str], network: Network = UNASKED) -> Config | Text | Refusal:
    """Understand the arguments (without the program's name). `network` is asked about the target."""
    if not argv:
        return Text(make_parser(for_help=True).format_help(), 2)
    asked, others = make_parser().parse_known_args(argv)
    positions, unknown = _split(others)
    if not {"--help", "-h"}.isdisjoint(unknown):
        return Text(make_parser(for_help=True).format_help(), 0)
    if "--version" in unknown:
        return Text(f"mprelay {__version__}\n", 0)
    problems = [_usage("unknown option", text) for text in unknown]
    problems += [_usage("one parameter too many", text) for text in positions[len(_BY_POSITION) :]]
    given: dict[str, list[str]] = {}
    for parameter in PARAMETERS:
        for text in getattr(asked, parameter.name, None) or ():
            if text is None:
                problems.append(problem(parameter, None, "needs a value"))
            else:
                given.setdefault(parameter.name, []).append(text)
    for parameter, text in zip(_BY_POSITION, positions, strict=False):
        if parameter.name in given:
            twice = f"is given by position ({text[:60]!r}) and by option: give it once"
            both = problem(parameter, given[parameter.name][-1], twice)
            problems.append(both._replace(message=catalogue.CONFIG_INVALID))
        else:
            given[parameter.name] = [text]
    values, wrong_values = validate(given, network)
    problems += wrong_values
    if problems:
        return Refusal(problems, values["log_format"] or "auto", values["labels"])
    return Config(**values)


def _split(others: list[str]) -> tuple[list[str], list[str]]:
    """Tell parameters by position from unknown options. What follows ``--`` is never an option."""
    end = others.index("--") if "--" in others else len(others)
    unknown = [text for text in others[:end] if text.startswith("-") and not text[1:2].isdigit()]
    return [text for text in others[:end] if text not in unknown] + others[end + 1 :], unknown


def make_parser(*, for_help: bool = False) -> argparse.ArgumentParser:
    """Make the parser from the table.

    All values stay text. The parameters by position are in it only for the help: else argparse would stop at
    the first that is missing, or one too many, and could not say which.
    """
    parser = argparse.ArgumentParser(
        prog="mprelay",
        usage="mprelay [options] FWD_PORT TRG_HOST TRG_PORT ACL [C_TO [I_TO [A_TO [BUF]]]]",
        description="Relay TCP connections from a port of this host to one target: only for the addresses of\n"
        "the ACL, only until the absolute timeout, with a record of everything.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    if for_help:
        positions = parser.add_argument_group("parameters")
        for parameter in _BY_POSITION:
            text = f"the same as {parameter.option}" if parameter.option else _help(parameter)
            positions.add_argument(f"_{parameter.name}", metavar=parameter.metavar, help=text)
    options = parser.add_argument_group("options")
    for parameter in PARAMETERS:
        if parameter.option:
            options.add_argument(
                parameter.option,
                dest=parameter.name,
                metavar=parameter.metavar,
                action="append",
                nargs=None if for_help else "?",
                help=_help(parameter),
            )
    if for_help:  # flags are looked for among what argparse does not know: it would stop at --version=1
        options.add_argument("--version", action="store_true", help="show the version")
        options.add_argument("--help", "-h", action="store_true", help="show this help")
    return parser


def _help(parameter: Parameter) -> str:
    default = "" if parameter.default is None else f"; default {parameter.default}"
    return f"{parameter.help} ({parameter.values}{default})"


def _usage(what: str, text: str | None) -> Problem:
    shown = "" if text is None else f": {text[:60]!r}"
    return Problem("arguments", text, catalogue.CONFIG_INVALID, f"{what}{shown}; see mprelay --help.")
