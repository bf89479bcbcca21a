"""The commands of mprelayctl that read logs: verify, prove, anchor, report. They need neither relay nor socket.

Exit codes of verify: 0 whole and closed, 3 whole but open, 1 broken, 2 usage. Of prove: 0 done, 3 done, but lines
that nothing has sealed yet are left out, 1 nothing can be proved, 2 usage. Of anchor: 0 done, or nothing to do,
1 there is a checkpoint that has got no token, 2 usage.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

from mprelay.audit import anchor, anchored, lines, prove
from mprelay.audit.anchor import NOTES_LIMIT, Anchors
from mprelay.audit.anchored import NoToken, Stamp
from mprelay.audit.forms import parsed
from mprelay.audit.forms import read as read_record
from mprelay.audit.lines import STDIN, Piece, Unreadable
from mprelay.audit.output import complain
from mprelay.audit.prove import Proved, Prover, Search, WrongProof
from mprelay.audit.run import Check, Fault, RunVerdict
from mprelay.audit.story import amount
from mprelay.audit.verify import CODES, Verdict, Verifier
from mprelay.core.exits import Exit
from mprelay.core.texts import missing
from mprelay.ctl.figures import escaped
from mprelay.seal import notes
from mprelay.seal.notes import Note, NotNote

HELP: Final = {
    "verify": "tell whether logs, or a proof, are as they were written",
    "prove": "make a proof of the lines of one session",
    "report": "tell who came through the door, when, how much, and why it ended",
    "anchor": "let an authority (RFC 3161) say when the last checkpoint was there",
}
"""The commands, and what they do."""

OPEN: Final = CODES["open"]
"""The exit code if nothing is wrong, but nothing has sealed the end yet."""

_BROKEN: Final = CODES["broken"]
_HEAD: Final = 256  # bytes that tell a proof from a log
_PROOF: Final = re.compile(rb'\s*\{\s*"proof"\s*:')
_PROOF_LIMIT: Final = 64 * 2**20  # bytes
_OURS: Final = notes.origin_of("")
_SHOWN: Final = 8  # runs, of many
_DIGITS: Final = 18  # of a session's number, at most


class _Usage(Exception):  # noqa: N818 - it says what is wrong
    """What was asked for cannot be done."""


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands; `add` makes the parser of one, out of its name and what it does."""
    verify = add("verify", HELP["verify"])
    _add_trust(verify)
    anchor.add_options(verify)
    verify.add_argument(
        "files", metavar="FILE", nargs="+", help="a log, or a proof; a log may be compressed; -: stdin"
    )
    proving = add("prove", HELP["prove"])
    proving.add_argument("--session", metavar="NUMBER", type=_number, required=True, help="the session's number")
    proving.add_argument("--relay", metavar="RELAY_ID", help="the run, if several have a session of this number")
    proving.add_argument("--output", metavar="FILE", help="where the proof goes (default: stdout)")
    proving.add_argument("files", metavar="FILE", nargs="+", help="a log; it is read twice")
    anchor.add_arguments(add("anchor", HELP["anchor"]))
    report = add("report", HELP["report"])
    _add_trust(report)
    report.add_argument("--html", metavar="OUT", help="also write the report as a page: one HTML file")
    report.add_argument("files", metavar="FILE", nargs="+", help="a log; it may be compressed; -: stdin")


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        metavar="PUBLIC",
        action="append",
        default=[],
        help="a signer's public key (Ed25519): a file (PEM, OpenSSH), or itself (OpenSSH, Base64). Of several "
        "any may have signed a run",
    )
    parser.add_argument(
        "--notes",
        metavar="FILE",
        help="checkpoints that were kept elsewhere (--checkpoint-to): the log must agree with them",
    )


def run(asked: argparse.Namespace, *, as_json: bool) -> int:
    """Do what was asked for; return the exit code."""
    try:
        match asked.command:
            case "anchor":
                return _anchor(asked)
            case "prove":
                return _prove(asked)
            case "report":
                return _report(asked, as_json=as_json)
            case _:
                return _verify(asked, as_json=as_json)
    except (_Usage, Unreadable) as wrong:
        return complain(str(wrong), Exit.USAGE)


def check_of() -> Check:
    """Return what checks signatures. Raises Unreadable where the library for it is missing."""
    check: Check = _library().check
    return check


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        from mprelay.audit import keys  # noqa: PLC0415 - only where the library is installed
    except ImportError as failure:
        raise Unreadable(f"checking signatures {missing('seal', failure)}") from None
    return keys


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise argparse.ArgumentTypeError(f"a session's number has 1 to {_DIGITS} digits")
    return int(text)


def _keys(given: Sequence[str]) -> Iterator[bytes]:
    for key in given:
        try:
            yield _library().read(key)
        except ValueError as wrong:
            raise _Usage(f"--key {key} {wrong}") from None
        except OSError as wrong:
            raise _Usage(f"--key {key}: {wrong.strerror or wrong}") from None


def _notes(file: str | None) -> Iterator[Note] | None:
    """Read a file of notes; None: there is none."""
    return None if file is None else _notes_in(file)


def _notes_in(file: str) -> Iterator[Note]:
    for number, note in enumerate(notes.split(lines.text(Path(file), NOTES_LIMIT, "--notes")), 1):
        if note.startswith(_OURS):  # others may keep theirs in the same file
            yield _parsed(note, f"--notes {file}: note {number}")


def _parsed(note: str, name: str) -> Note:
    try:
        return notes.parse(note)
    except NotNote as wrong:
        raise _Usage(f"{name} is damaged: {wrong}") from None


# -- verify --------------------------------------------------------------------------------------------------


def _verify(asked: argparse.Namespace, *, as_json: bool) -> int:
    trusted = frozenset(_keys(asked.key))
    first, *others = asked.files
    with lines.opened(first) as stream:
        text = None if others else _text_of_proof(stream)
        if text is None:
            pieces = chain(lines.pieces_of(first, stream), lines.read(others))
            verdict, stamps = _judged(asked, trusted, pieces)
    if text is not None:
        for option in ("notes", "anchors"):
            if getattr(asked, option):
                raise _Usage(f"--{option} is about a log, not about a proof")
        return _verify_proof(first, text, trusted, as_json=as_json)
    if as_json:
        _print(json_of(verdict) | ({"anchors": [stamp._asdict() for stamp in stamps]} if asked.anchors else {}))
    else:
        for line in chain(told(verdict, keys_given=bool(trusted)), map(anchored.told, stamps)):
            _say(line)
    return CODES[verdict.verdict]


def _judged(
    asked: argparse.Namespace, trusted: frozenset[bytes], pieces: Iterator[Piece]
) -> tuple[Verdict, list[Stamp]]:
    """Judge logs. What their tokens say counts too."""
    anchors = Anchors(asked.anchors, asked.tsa_cert)
    verifier = Verifier(check_of(), trusted, _notes(asked.notes), anchors.notes())
    for piece in pieces:
        verifier.take(piece)
    verdict = verifier.end()
    stamps = anchors.judge(verdict.runs)
    if any(stamp.problem for stamp in stamps):
        verdict = verdict._replace(verdict="broken")
    return verdict, stamps


def json_of(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as an object."""
    return {
        "verdict": verdict.verdict,
        "runs": [
            run._asdict() | {"unsealed": run.unsealed, "fault": _fault_of(run.fault)} for run in verdict.runs
        ],
        "faults": [_fault_of(fault) for fault in verdict.faults],
        "hints": verdict.hints,
    }


def _fault_of(fault: Fault | None) -> dict[str, Any] | None:
    if fault is None:
        return None
    file, line = fault.place or (None, None)
    return {
        "what": fault.what,
        "file": file,
        "line": line,
        "seq": fault.seq,
        "seqs": fault.seqs,
        "problem": fault.problem,
    }


def told(verdict: Verdict, *, keys_given: bool) -> Iterator[str]:
    """Tell a verdict to a person, line by line. They may hold what the log holds."""
    for fault in verdict.faults:
        yield f"{'open' if fault.what == 'cut' else 'broken'}: {_where(fault)}{fault.problem}"
    for run in verdict.runs:
        yield f"run {run.relay_id}: {run.verdict}{_by(run, keys_given=keys_given)}"
        if run.fault is not None:
            yield f"  {_where(run.fault)}{run.fault.problem}"
        yield f"  {_extent(run)}"
    yield from (f"hint: {hint}" for hint in verdict.hints)


def _where(fault: Fault) -> str:
    place = f"{fault.place}" if fault.place else ""
    if fault.seq is not None:
        place += f" (seq {fault.seq})" if place else f"seq {fault.seq}"
    return f"{place} " if place else ""


def _by(run: RunVerdict, *, keys_given: bool) -> str:
    if run.signer_known:
        return f", signed by {run.signer}"
    return "" if keys_given or run.signer is None else f", signer not known ({run.signer})"


def _extent(run: RunVerdict) -> str:
    """Say how much of a run is proved."""
    if run.fault is not None:
        up_to = f", up to seq {run.sealed}" if run.sealed else ""
        return f"lines that are proved nevertheless: {run.sealed:,}{up_to}"
    said = f"{amount(run.lines, 'line')}, {amount(run.checkpoints, 'checkpoint')}"
    if run.sealed_at:
        said += f", the last of {run.sealed_at}"
    if run.verdict == "open":
        said += "; the run is not closed"
    if run.unsealed:
        first, last = run.unsealed
        said += (
            f", and its last line is not sealed (seq {last})"
            if first == last
            else f", and its last {last - first + 1:,} lines are not sealed (seq {first} to {last})"
        )
    return said


def _text_of_proof(stream: BinaryIO) -> bytes | None:
    """Return all of a proof, and leave a log as it is."""
    if not _PROOF.match(stream.peek(_HEAD)[:_HEAD]):  # type: ignore[attr-defined] # both are buffered
        return None
    proof = stream.read(_PROOF_LIMIT + 1)
    if len(proof) > _PROOF_LIMIT:
        raise _Usage(f"a proof has at most {_PROOF_LIMIT:,} bytes")
    return proof


def _verify_proof(file: str, text: bytes, trusted: frozenset[bytes], *, as_json: bool) -> int:
    try:
        proved = prove.judge(text, check_of(), trusted)
    except WrongProof as wrong:
        if as_json:
            _print({"verdict": "broken", "file": file, "problem": str(wrong)})
        else:
            _say(f"broken: {file} {wrong}")
        return _BROKEN
    records = [read_record(parsed(line)) for line in proved.lines]
    if as_json:
        fields = proved._asdict() | {"lines": len(records), "records": records}
        _print({"verdict": "proved", "file": file, **fields})
        return Exit.OK
    for line in _told_proof(proved, records, keys_given=bool(trusted)):
        _say(line)
    return Exit.OK


def _told_proof(proved: Proved, records: Sequence[dict[str, Any]], *, keys_given: bool) -> Iterator[str]:
    by = f"signed by {proved.signer}" if keys_given else f"signer not known ({proved.signer})"
    are = "is" if len(records) == 1 else "are"
    count = amount(len(records), "line")
    yield f"proved: {count} of session {proved.session} {are} in the log of run {proved.relay_id}"
    yield f"  {by}"
    for record in records:
        yield f"  seq {record['seq']}  {record['timestamp']}  {record['event']}  {record.get('message', '')}"
    yield "This does not prove that the log has no other lines of the session."


# -- report --------------------------------------------------------------------------------------------------


def _report(asked: argparse.Namespace, *, as_json: bool) -> int:
    from mprelay.audit import reporting  # noqa: PLC0415 - large, and for this command only

    verifier = Verifier(_check_when_sealed, frozenset(_keys(asked.key)), _notes(asked.notes))
    sealed = bool(asked.key or asked.notes)
    return reporting.run(asked.files, asked.html, verifier, sealed=sealed, as_json=as_json)


def _check_when_sealed(public_key: bytes, signature: bytes, text: bytes) -> bool:
    """Check a signature. A log without one needs no library."""
    try:
        check = check_of()
    except Unreadable as wrong:
        raise _Usage(f"the log is sealed: {wrong}") from None
    return check(public_key, signature, text)


# -- prove ---------------------------------------------------------------------------------------------------


def _prove(asked: argparse.Namespace) -> int:
    for file in asked.files:
        if lines.read_once(file):
            raise _Usage(f"prove reads its files twice, which {'stdin' if file == STDIN else file} cannot be")
    verifier, search = Verifier(check_of()), Search(asked.session)
    for piece in lines.read(asked.files):
        verifier.take(piece)
        search.take(piece)
    verdict = verifier.end()
    found = {relay_id: last for relay_id, last in search.last.items() if asked.relay in {None, relay_id}}
    if not found:
        return complain(f"no line of session {asked.session} is in the files", _BROKEN)
    if len(found) > 1:
        runs = ", ".join(sorted(found)[:_SHOWN])
        raise _Usage(f"several runs have a session {asked.session}: --relay chooses one of {runs}")
    ((relay_id, last),) = found.items()
    state = verifier.run_of(relay_id)
    if state is None or state.sealed is None:
        why = f": {_where(state.fault)}{state.fault.problem}" if state and state.fault else ""
        why = "; hint: ".join([why, *verdict.hints])
        return complain(f"run {relay_id} has no good checkpoint{why}", _BROKEN)
    prover = Prover(relay_id, asked.session, state.sealed)
    for piece in lines.read(asked.files):
        prover.take(piece)
    proof = prover.end()
    if proof is None:
        return complain("the files have changed while they were read", _BROKEN)
    if not proof["lines"]:
        return complain(f"no line of session {asked.session} is sealed yet", _BROKEN)
    _write(f"{json.dumps(proof)}\n".encode(), asked.output)  # ASCII: a terminal may be there
    if last > state.sealed.checkpoint.size:
        return complain("the last lines of the session are not in the proof, as nothing has sealed them", OPEN)
    return Exit.OK


def _write(text: bytes, file: str | None) -> None:
    if file is None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        return
    try:
        Path(file).write_bytes(text)
    except OSError as wrong:
        raise _Usage(f"--output {file}: {wrong.strerror or wrong}") from None


# -- anchor --------------------------------------------------------------------------------------------------


def _anchor(asked: argparse.Namespace) -> int:
    try:
        for stamp in anchor.run(asked):
            if hasattr(asked, "json"):
                _print(stamp._asdict())
            elif sys.stdout.isatty():  # cron sends a letter with all that its jobs say
                _say(anchored.told(stamp))
    except NoToken as none:
        return complain(str(none), _BROKEN)
    return Exit.OK


def _print(answer: object) -> None:
    print(json.dumps(answer))  # noqa: T201 - ASCII, so that nothing in it is an order to a terminal


def _say(line: str) -> None:
    print(escaped(line))  # noqa: T201 - it speaks to a person
