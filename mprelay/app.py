"""The program: standard streams, the command line, and one run of the relay.

    argv ─▶ cli ─▶ Config ──▶ Run
                   Text ────▶ stdout
                   Refusal ─▶ records on stdout, one line on stderr

Each of the three ends with an exit code (:mod:`mprelay.core.exits`).
"""

import os
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from mprelay import __version__
from mprelay.config import cli
from mprelay.config.host import Host
from mprelay.config.validation import Config
from mprelay.core.exits import Exit
from mprelay.core.texts import CONTROL, NAME_LIMIT, REMARK_LIMIT, cut, missing, shown
from mprelay.core.unexpected import describe, place_of
from mprelay.records.about import About
from mprelay.records.recorder import Recorder
from mprelay.records.render import Renderer, renderer
from mprelay.records.writer import Writer
from mprelay.seal.sealer import Signer
from mprelay.supervisor.run import Run
from mprelay.system import (
    addresses,
    cpus,
    files,
    limits,
    names,
    origin,
    placeholder,
    signals,
    sockets,
    titles,
    unix_socket,
)
from mprelay.system.inherited import offered
from mprelay.system.notify import Notifier, take
from mprelay.system.streams import STDERR, STDIN, STDOUT, Sink, complain, is_stdout, may_colour, remark


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    started = time.monotonic()
    taken = take(os.environ)  # before any process is started
    host = Host(
        cpus=cpus.usable(),
        sessions_per_worker=limits.SESSIONS_PER_WORKER,
        is_broadcast=addresses.is_broadcast,
        can_send_from=addresses.can_send_from,
        directory=_working_directory(),
        read_file=files.read,
        quotes_files=not files.privileged(),
        control_path_limit=unix_socket.PATH_LIMIT,
        own_addresses=addresses.own_addresses,
        look_up=partial(names.look_up, stop=signals.pending),
        has_route=addresses.has_route,
        tells_paths=sockets.TELLS_PATHS,
        serves_metrics=_serves_metrics,
        cannot_seal=_cannot_seal,
        load_key=_load_key,
        environment=_environment(),
    )
    asked = cli.parse(_as_typed(argv), host)
    if not isinstance(asked, Config):
        signals.release()  # no loop takes signals here, and the reader of stdout may stall: they act by default
    try:
        _need_standard_streams()
        if isinstance(asked, cli.Text):
            Sink(STDOUT).write(asked.text.encode())
            return asked.code
        if isinstance(asked, cli.Refusal):
            return _refuse(asked)
        control = notes = None
        if asked.control is not None:
            try:
                control = unix_socket.Listener(asked.control)
            except (unix_socket.Unusable, OSError) as wrong:
                signals.release()
                return _refuse(_cannot_be_had(asked, "control", asked.control, wrong))
        if asked.checkpoint_to is not None:
            try:
                notes = _open_notes(asked.checkpoint_to)
            except (OSError, ValueError) as wrong:
                signals.release()
                if control is not None:
                    control.remove()
                return _refuse(_cannot_be_had(asked, "checkpoint_to", asked.checkpoint_to, wrong))
    except OSError as failure:
        complain(f"nothing can be written to stdout: {failure.strerror}")
        return Exit.IOERR
    titles.show(" ".join(("mprelay: supervisor", *argv)), "mprelay")
    about = _about()._replace(listen_ip=asked.bind, listen_port=asked.fwd_port, target_host=asked.trg_host)
    # A line of text does not hold all of its record, so what is sealed is JSON, on a terminal too.
    log_format = "json" if asked.seal and asked.log_format == "auto" else asked.log_format
    render = _renderer(log_format, about, asked.log_detail)
    notifier = Notifier(taken)  # not before: its socket must not get the number of a closed standard stream
    run = Run(
        asked,
        started,
        render,
        notifier=notifier,
        offer=offered(taken),
        control=control,
        new_key=_new_key if asked.seal else None,
        notes=notes,
    )
    return _relay(run)


def _open_notes(path: str) -> int:
    """Open the file for notes. Raises OSError, and ValueError: it cannot be this one."""
    notes = files.open_for_notes(path)
    if is_stdout(notes):
        raise ValueError("must not be where the records go: a note among them would break the log")
    return notes


def _cannot_be_had(config: Config, parameter: str, value: str, wrong: Exception) -> cli.Refusal:
    """Say why something cannot be opened or made. That is tried before anything else, so nothing was started."""
    cannot = "cannot be made" if parameter == "control" else "cannot be opened"
    why = f"{cannot}: {wrong.strerror}" if isinstance(wrong, OSError) else str(wrong)
    return cli.refuse_value(parameter, value, why, config.log_format, dict(config.labels))


def _cannot_seal() -> str | None:
    """Say why nothing can be sealed here; None: it can."""
    try:
        from mprelay.seal import keys  # noqa: F401, PLC0415 - only where that is asked for
    except ImportError as failure:
        return missing("seal", failure)
    return None


def _new_key() -> Signer:
    """Make a key that seals a run."""
    from mprelay.seal import keys  # noqa: PLC0415 - only where the log is sealed

    return keys.new()


def _load_key(path: str) -> Signer:
    """Take a private key out of a file. Raises OSError, or ValueError: what is wrong with the file."""
    from mprelay.seal import keys  # noqa: PLC0415 - only where the log is sealed

    return keys.load(files.read_secret(path))


def _working_directory() -> str:
    """Return the working directory. It may have been removed; then a file that is named from it is not found."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def _serves_metrics() -> bool:
    """Look for the library, and do not load it: only the metrics process needs it."""
    return find_spec("prometheus_client") is not None


def _as_typed(argv: Sequence[str]) -> list[str]:
    """Decode the arguments as UTF-8, whatever the locale is. Other bytes become lone surrogates.

    Python has decoded them by the locale. With LC_ALL=C and PYTHONUTF8=0 each byte above 127 is a surrogate.
    A system whose arguments are text (Windows) needs none of that: a lone surrogate there is one that was typed.
    """
    if not os.supports_bytes_environ:
        return list(argv)
    return [os.fsencode(text).decode("utf-8", "surrogateescape") for text in argv]


def _environment() -> dict[str, str]:
    """Return the variables, decoded as the arguments are."""
    return dict(zip(_as_typed([*os.environ]), _as_typed([*os.environ.values()]), strict=True))


def _need_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are open, before a socket gets one of these numbers.

    Raises OSError if stdout was closed, as it is in a Windows service without redirection.
    """
    no_stdout = None
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError as failure:
            placeholder.fill(descriptor)
            if descriptor == STDOUT:
                no_stdout = failure
    if no_stdout is not None:
        raise no_stdout


def _relay(run: Run) -> int:
    """Relay until the end; return the exit code. This is the last barrier for exceptions."""
    try:
        return run.run()
    except Exception as unexpected:  # noqa: BLE001 - not even the failure could be recorded
        run.kill()
        try:
            complain(f"{describe(unexpected)} at {place_of(unexpected)}")
        finally:
            os._exit(Exit.SOFTWARE)  # a normal exit would wait for the workers, which wait for us


def _about() -> About:
    """Return what is known of the relay before its first record."""
    host = origin.host()
    return About(__version__, None if host is None else cut(host, NAME_LIMIT))


def _renderer(log_format: str, about: About, log_detail: str = "full") -> Renderer:
    terminal, coloured = os.isatty(STDOUT), may_colour(STDOUT)
    return renderer(log_format, about, terminal=terminal, coloured=coloured, log_detail=log_detail)


def _refuse(refusal: cli.Refusal) -> int:
    """Write a record of each wrong value. Raises OSError if stdout takes none."""
    writer = Writer()
    recorder = Recorder(_renderer(refusal.log_format, _about()), writer.put, labels=refusal.labels)
    for wrong in refusal.problems:
        recorder.refuse(wrong.parameter, wrong.value, wrong.message, wrong.problem)
    recorder.flush()
    writer.write_directly()
    if not os.isatty(STDOUT):
        _tell_person(refusal)
    return Exit.USAGE


def _tell_person(refusal: cli.Refusal) -> None:
    """Name the problem on stderr too, because the person who typed it does not see records that go to a file."""
    first, *others = (wrong.problem for wrong in refusal.problems)
    more = f"and {len(others)} more; " if others else ""
    sentence = shown(first.removesuffix("."), REMARK_LIMIT).translate(CONTROL)
    remark(f"{sentence} ({more}see the records on stdout)")
