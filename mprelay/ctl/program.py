"""The program mprelayctl: the command line, one request, its answer as a table or as JSON.

Exit codes: 0 done, 1 refused or not found, 2 usage, 69 no relay there. The commands that read logs need no relay.
They stand in :mod:`mprelay.audit.program`, with their exit codes.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import orjson

from mprelay import __version__
from mprelay.audit import program as audit
from mprelay.audit.output import complain
from mprelay.config.parsers import seconds
from mprelay.core.exits import Exit
from mprelay.core.requests import LOOKS, NotRequest, clients_of
from mprelay.core.texts import missing
from mprelay.ctl.client import Client, Denied, NoRelay, Refused
from mprelay.records.render import RENDERERS

REFUSED: Final = 1
"""The exit code if the relay has refused, or has not found what was asked for."""

VARIABLE: Final = "MPRELAYCTL_CONTROL"
"""Names the socket, if no option does. Not MPRELAY_CONTROL, which a relay started here would take for its own."""

_DIGITS: Final = 18  # of a session's number, at most
_RELOAD_TIME: Final = 75.0  # seconds for an answer to reload: a reading ends after 60

_HELP: Final = {
    "status": "show what the relay does, for whom, and until when",
    "sessions": "list the sessions",
    "kill": "end sessions",
    "drain": "stop listening, and let sessions finish within the drain timeout",
    "pause": "let new connections wait",
    "resume": "admit new connections again",
    "reload": "read the files (@FILE) of the ACL again",
    "extend": "put the absolute timeout off, within the relay's --max-extend",
    "watch": "show records as they are written",
    "top": "watch sessions and workers on the terminal",
}


def main() -> None:
    """Run the program, and exit."""
    if sys.platform != "win32":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What is closed gets no answer, but the command is given all the same.
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the program
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if isinstance(sys.stdout, TextIOWrapper):  # stderr is like that from the beginning
        sys.stdout.reconfigure(errors="backslashreplace")  # what the locale cannot write is shown escaped
    try:
        code = run(sys.argv[1:], os.environ)
        sys.stdout.flush()
    except OSError as failure:  # the disk is full, for example
        code = complain(f"the answer cannot be written: {failure.strerror}", REFUSED)
        os._exit(code)  # the interpreter would try once more to write it
    sys.exit(code)


def run(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do what the command line says; return the exit code. Wrong usage exits at once, as argparse does it."""
    parser = make_parser()
    asked = parser.parse_args(argv)
    if asked.command in audit.HELP:
        return audit.run(asked, as_json=hasattr(asked, "json") or not sys.stdout.isatty())
    path = getattr(asked, "control", None) or environment.get(VARIABLE)
    if not path:
        parser.error(f"where is the relay? --control PATH, or the variable {VARIABLE}, names its control socket")
    try:
        if asked.command == "top":
            return _top(path, as_json=hasattr(asked, "json") or not _on_terminal(environment))
        with Client(path) as client:
            return _ask(client, asked, as_json=hasattr(asked, "json") or not sys.stdout.isatty())
    except Refused as refused:
        if hasattr(asked, "json"):
            _print(refused.answer)
        return complain(str(refused), REFUSED)
    except Denied as denied:
        return complain(str(denied), REFUSED)
    except NoRelay as nobody:
        return complain(str(nobody), Exit.UNAVAILABLE)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    control = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    control.add_argument(
        "--control", metavar="PATH", help=f"the relay's control socket (default: the variable {VARIABLE})"
    )
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="JSON, also on a terminal")
    parser = argparse.ArgumentParser(
        prog="mprelayctl",
        parents=[control, common],
        description="See and steer a running relay; verify, prove and report its logs.",
        epilog=f"Exit codes: 0 done, {REFUSED} refused or not found, or a log that is broken, "
        f"{Exit.USAGE:d} usage, {audit.OPEN} a log that is whole but open, {Exit.UNAVAILABLE:d} no relay there.",
    )
    parser.add_argument("--version", action="version", version=f"mprelayctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}."
        return commands.add_parser(name, parents=[*parents, common], help=text, description=description)

    made = {name: add(name, text, control) for name, text in _HELP.items()}
    audit.add_parsers(add)
    made["kill"].add_argument(
        "target",
        metavar="SERIAL|ADDRESS|CIDR",
        type=_kill_target,
        help="one session by its number, or all of a client's address or network",
    )
    made["extend"].add_argument(
        "seconds", metavar="SECONDS", type=_seconds, help="by how much; it may have a unit: 90s, 10m, 2h, 1d"
    )
    return parser


def _kill_target(text: str) -> dict[str, object]:
    if text.isascii() and text.isdigit():
        if len(text) > _DIGITS:
            raise argparse.ArgumentTypeError(f"a session's number has at most {_DIGITS} digits")
        return {"session": int(text)}
    try:
        clients_of(text)
    except NotRequest as wrong:
        raise argparse.ArgumentTypeError(
            f"must be a session's number, an address or a network: {wrong}"
        ) from None
    return {"client": text}


def _seconds(text: str) -> float:
    try:
        value = seconds(text)
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(f"{text!r} {wrong}") from None
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def _ask(client: Client, asked: argparse.Namespace, *, as_json: bool) -> int:
    answer: Any
    match asked.command:
        case "watch":
            return _watch(client, as_json=as_json)
        case "sessions":
            *answer, _count = client.lines("sessions")
        case "kill":
            answer = client.ask("kill", **asked.target)
        case "extend":
            answer = client.ask("extend", seconds=asked.seconds)
        case "reload":
            answer = client.ask("reload", _RELOAD_TIME)
        case command:
            answer = client.ask(command)
    if as_json or not _show(asked.command, answer):
        _print(answer)
    return Exit.OK


def _on_terminal(environment: Mapping[str, str]) -> bool:
    """Tell whether there is a terminal that can show a screen, and keys to press."""
    streams = (sys.stdin, sys.stdout)
    if any(stream is None or not stream.isatty() for stream in streams):
        return False
    return environment.get("TERM", "dumb") not in {"", "dumb"}


def _top(path: str, *, as_json: bool) -> int:
    if as_json:
        with Client(path) as client:
            status = client.ask("status")
            *sessions, _count = client.lines("sessions")
        _print({"status": status, "sessions": sessions})
        return Exit.OK
    try:
        from mprelay.ctl import feed, top  # noqa: PLC0415 - only for a person, and only where it is installed
    except ImportError as failure:
        return complain(f"top {missing('top', failure)}", Exit.USAGE)
    return top.run(feed.Feed(path))


def _show(command: str, answer: Any) -> bool:  # noqa: ANN401 - as the command has it
    """Show an answer to a person. False: rich is not there, which makes the tables."""
    if command not in LOOKS:
        said = [f"{name.replace('_', ' ')}: {value}" for name, value in answer.items() if name != "ok"]
        print(", ".join((f"{command}: done", *said)))  # noqa: T201 - it speaks to a person
        return True
    try:
        from mprelay.ctl import tables  # noqa: PLC0415 - only for a person, and only where it is installed
    except ImportError as failure:
        complain(f"a table {missing('top', failure)}", Exit.OK)
        return False
    tables.show(command, answer)
    return True


def _watch(client: Client, *, as_json: bool) -> int:
    """Show records until the relay ends. Its last record is the sign that nothing is missing."""
    stopped = False
    for line in client.records():
        record = orjson.loads(line)
        stopped = stopped or record["event"] == "relay.stopped"  # of a sealed run one more follows
        text = line + b"\n" if as_json else RENDERERS["text"](record)
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    if stopped:
        return Exit.OK
    return complain("the relay has ended the connection before its last record: records are missing", REFUSED)


def _print(answer: object) -> None:
    print(json.dumps(answer))  # noqa: T201 - ASCII, so that nothing in it is an order to a terminal
