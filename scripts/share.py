"""Writes the manual pages and the completions for shells, which stand in share/ and come with the wheel.

    .venv/bin/python scripts/share.py

They come from the parsers that write the help, by argparse-manpage and shtab. A test
(``tests/unit/test_share.py``) fails if a file differs from what :func:`render` makes.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import shtab
from argparse_manpage.manpage import Manpage

from mprelay.audit import program as audit
from mprelay.config import cli
from mprelay.config.parameters import CONFIG_FILE, PARAMETERS, Parameter, variable_of
from mprelay.core.exits import Exit
from mprelay.ctl import program as ctl

ROOT: Final = Path(__file__).resolve().parent.parent

PATHS: Final = {
    "man": "share/man/man1/{}.1",
    "bash": "share/bash-completion/completions/{}",
    "zsh": "share/zsh/site-functions/_{}",
}
"""Where man(1) and the shells look for a program's file, below the prefix of an installation."""

_NAMES_OF_FILES: Final = {"FILE", "OUT", "PATH", "PUBLIC"}


class Program(NamedTuple):
    """One program of the package."""

    make_parser: Callable[[], argparse.ArgumentParser]
    summary: str
    sections: Callable[[], dict[str, str]]
    """Makes what its manual page has behind the options, in the language of man(7)."""


def render(program: Program) -> dict[str, str]:
    """Make all files of a program: their texts by their paths from the project's root."""
    name = program.make_parser().prog
    files = {PATHS["man"].format(name): _manual(program)}
    for shell in ("bash", "zsh"):
        parser = program.make_parser()
        for action in _actions(parser):
            _describe_values(action, shell)
        files[PATHS[shell].format(name)] = shtab.complete(parser, shell)
    return {path: "\n".join(line.rstrip() for line in text.splitlines()) + "\n" for path, text in files.items()}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """List what a parser takes, and what its commands take. argparse has no other way to do so."""
    for action in parser._actions:  # noqa: SLF001
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _actions(command)


def _manual(program: Program) -> str:
    parser = program.make_parser()
    parser.epilog = None  # the sections have it
    page = Manpage(parser)
    page.manual = "User Commands"
    page.date = ""  # a page that says when it was made differs each time
    page.description = program.summary
    for heading, text in program.sections().items():
        page.add_section(heading, "=", text)
    return str(page)


def _describe_values(action: argparse.Action, shell: str) -> None:
    """Tell shtab what stands behind an option: one of a few words, or a file."""
    if isinstance(action.metavar, tuple):  # zsh would be shown the tuple
        action.metavar = " ".join(action.metavar)
    if action.metavar in _NAMES_OF_FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined] # shtab looks for it
    elif action.metavar == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif shell == "zsh" and not action.option_strings and not action.choices:
        # No words. Without this zsh would show what the position means, and complete an option at the second try.
        action.complete = {"zsh": "( )"}  # type: ignore[attr-defined]
    for parameter in PARAMETERS:
        if parameter.option in action.option_strings:
            action.choices = _choices(parameter)


def _choices(parameter: Parameter) -> list[str] | None:
    """Return the words of which a parameter takes one; None: it takes others."""
    words = parameter.values.split(", ")
    try:
        for word in words:
            parameter.parse(word)
    except ValueError:
        return None
    return words if len(words) > 1 else None


def _relay_sections() -> dict[str, str]:
    example = r"mprelay 8080 192.0.2.10 80 10.1.2.3/32 \-\-absolute\-timeout 10m"
    meaning = "Let 10.1.2.3 reach a web server through port 8080 for ten minutes:"
    return {
        "environment": "\n".join(_environment()),
        "exit status": "\n".join(f".TP\n.B {code:d}\n{code.meaning}" for code in Exit),
        "example": f"{meaning}\n.PP\n.nf\n{example}\n.fi",
    }


def _ctl_sections() -> dict[str, str]:
    codes = {
        Exit.OK: "done",
        ctl.REFUSED: "the relay has refused, or has not found what was asked for; verify: the log is broken; "
        "anchor: there is no token",
        Exit.USAGE: "wrong usage",
        audit.OPEN: "verify: the log is whole, but open; prove: some lines are not sealed yet",
        Exit.UNAVAILABLE: "no relay is there, or none that answers",
    }
    return {
        "environment": f".TP\n.B {ctl.VARIABLE}\nthe control socket, if --control names none".replace(
            "--", r"\-\-"
        ),
        "exit status": "\n".join(f".TP\n.B {code:d}\n{meaning}" for code, meaning in codes.items()),
    }


def _environment() -> Iterator[str]:
    yield "What is not given on the command line comes from one of these, from the file, or by default."
    yield "An empty variable is not given."
    yield f".TP\n.B {variable_of(CONFIG_FILE)}\nthe configuration file"
    for parameter in PARAMETERS:
        same = parameter.option or f"<{parameter.metavar}>"
        yield f".TP\n.B {variable_of(parameter)}\nthe same as {same}".replace("-", r"\-")


PROGRAMS: Final = (
    Program(lambda: cli.make_help(None), "relay one TCP port to one target, for a while", _relay_sections),
    Program(ctl.make_parser, "see and steer a running relay, verify its logs", _ctl_sections),
)
"""The programs of the package."""


if __name__ == "__main__":
    for program in PROGRAMS:
        for path, text in render(program).items():
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text)
