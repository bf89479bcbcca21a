"""The program: standard streams, arguments, and one run of the relay; or what is wrong with the arguments."""

import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from mprelay.config import cli
from mprelay.config.parameters import Config, Network
from mprelay.core.exits import Exit
from mprelay.core.texts import CONTROL, shown
from mprelay.core.unexpected import describe, place_of
from mprelay.records.recorder import Recorder
from mprelay.records.render import Renderer, renderer
from mprelay.records.writer import Writer
from mprelay.supervisor.run import Run
from mprelay.system import addresses, signals, titles
from mprelay.system.streams import STDERR, STDIN, STDOUT, Sink, complain, remark

_SPOKEN: Final = 250  # characters of a problem that are said on stderr


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    started = time.monotonic()
    asked = cli.parse(_as_typed(argv), Network(addresses.is_broadcast, addresses.own_addresses))
    if not isinstance(asked, Config):
        signals.release()  # nothing will hear them, and who reads stdout may stall: they act by default
    try:
        _need_standard_streams()
        if isinstance(asked, cli.Text):
            Sink(STDOUT).write(asked.text.encode())
            return asked.code
        if isinstance(asked, cli.Refusal):
            return _refuse(asked)
    except OSError as failure:
        complain(f"nothing can be written to stdout: {failure.strerror}")
        return Exit.IOERR
    titles.show(" ".join(("mprelay: supervisor", *argv)), "mprelay")
    return _relay(Run(asked, started, _renderer(asked.log_format)))


def _as_typed(argv: Sequence[str]) -> list[str]:
    """Read the arguments as UTF-8, whatever the locale is: bytes that are none stay half characters.

    Python has decoded them by the locale, and in LC_ALL=C (with PYTHONUTF8=0) has kept each byte above 127 apart.
    """
    return [os.fsencode(text).decode("utf-8", "surrogateescape") for text in argv]


def _need_standard_streams() -> None:
    """See that descriptors 0 to 2 are open, before a socket gets the number of one. OSError: no stdout.

    In the place of one that is closed comes a socket whose other end is closed. /dev/null would do too, but a
    sandbox may have none.
    """
    no_stdout = None
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError as failure:
            place, other = socket.socketpair()  # the kernel gives the lowest number that is free: this one
            place.detach()
            other.close()
            if descriptor == STDOUT:
                no_stdout = failure
    if no_stdout is not None:
        raise no_stdout


def _relay(run: Run) -> int:
    """Relay until the end; return the exit code. The last barrier is here."""
    try:
        return run.run()
    except Exception as unexpected:  # noqa: BLE001 - not even that it failed could be recorded
        run.kill()
        try:
            complain(f"{describe(unexpected)} at {place_of(unexpected)}")
        finally:
            os._exit(Exit.SOFTWARE)  # a normal exit would wait for the workers, and they for us


def _renderer(log_format: str) -> Renderer:
    return renderer(log_format, terminal=os.isatty(STDOUT))


def _refuse(refusal: cli.Refusal) -> int:
    """Write a record for each wrong value. OSError: nobody will read it."""
    writer = Writer()
    recorder = Recorder(_renderer(refusal.log_format), writer.put, labels=refusal.labels)
    for wrong in refusal.problems:
        recorder.refuse(*wrong)
    recorder.flush()
    writer.write_directly()
    if not os.isatty(STDOUT):
        _tell_person(refusal)
    return Exit.USAGE


def _tell_person(refusal: cli.Refusal) -> None:
    """Say on stderr too what is wrong: records that go to a file tell the person who typed nothing."""
    first, *others = (wrong.problem for wrong in refusal.problems)
    more = f"and {len(others)} more; " if others else ""
    said = shown(first.removesuffix("."), _SPOKEN).translate(CONTROL)
    remark(f"{said} ({more}see the records on stdout)")
