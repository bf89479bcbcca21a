"""Tokens of a time-stamping authority (TSA) for checkpoints: stored, and read again. See docs/seal.md, "Anchors".

    notes ── the newest of each run, if it has no token ──▶ POST ──▶ the answer fits? ──▶ <run>-<size>.note, .tsr
    directory ── its notes ──▶ verifier, as other notes ──▶ runs ──▶ their tokens ──▶ what they say

Rules:

1. A token is stored after its note, each by a new name that is then changed. So where a token is, everything is.
2. The file holds the answer as it came, so that other programs read it.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from mprelay.audit import anchored, lines
from mprelay.audit.anchored import NoToken, Stamp
from mprelay.audit.lines import Unreadable
from mprelay.audit.output import store
from mprelay.audit.run import RunVerdict
from mprelay.core.texts import missing
from mprelay.seal import notes
from mprelay.seal.notes import Note, NotNote

NOTES_LIMIT: Final = 64 * 2**20
"""Bytes of a file of notes."""

TOKEN_LIMIT: Final = 256 * 1024
"""Bytes of a token. One that carries many certificates has some 10,000."""

_NOTE_LIMIT: Final = 64 * 1024
_PEM_LIMIT: Final = 2**20
_CERTIFICATES: Final = "certificates that the authority's must lead to (PEM): each token"
_NOTE: Final = ".note"
_TOKEN: Final = ".tsr"  # noqa: S105 - the ending of a name, as openssl(1) has it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``anchor`` takes."""
    parser.add_argument(
        "--notes", metavar="FILE", required=True, help="the relay's checkpoints (--checkpoint-to)"
    )
    parser.add_argument(
        "--tsa", metavar="URL", type=_url, required=True, help="the authority: http://… or https://…"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where a token is stored, with its note (default: beside the notes)"
    )
    parser.add_argument(
        "--tsa-cert",
        metavar="FILE",
        help="certificates (PEM) that the authority's leads to: check its token at once",
    )


def add_options(verify: argparse.ArgumentParser) -> None:
    """Add what ``verify`` takes."""
    verify.add_argument(
        "--anchors", metavar="DIR", help="tokens of an authority (anchor): the log must agree with their notes"
    )
    verify.add_argument("--tsa-cert", metavar="FILE", help=f"{_CERTIFICATES} is checked")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = None
    if not parts or parts.scheme not in {"http", "https"} or not parts.hostname or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no URL of http or https")
    return text


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        from mprelay.audit import tokens  # noqa: PLC0415 - only where the library is installed
    except ImportError as failure:
        raise Unreadable(f"a token (RFC 3161) {missing('seal', failure)}") from None
    return tokens


def _trusted(file: str | None) -> Any:  # noqa: ANN401 - the library's
    if file is None:
        return None
    try:
        return _library().certificates(lines.whole(Path(file), _PEM_LIMIT, "--tsa-cert"))
    except ValueError as wrong:
        raise Unreadable(f"--tsa-cert {file}: {wrong}") from None


# -- anchor --------------------------------------------------------------------------------------------------


def run(asked: argparse.Namespace) -> Iterator[Stamp]:
    """Get and store a token for the newest checkpoint of each run that has none. Raises Unreadable, NoToken."""
    from mprelay.audit.tsa import ask  # noqa: PLC0415 - urllib takes longer to load than all the rest

    tokens, trusted = _library(), _trusted(asked.tsa_cert)
    file = Path(asked.notes)
    directory = Path(asked.out) if asked.out else file.parent
    if not directory.is_dir():
        raise Unreadable(f"--out {directory}: is no directory")
    try:
        newest = [*anchored.newest(lines.text(file, NOTES_LIMIT, "--notes"))]
    except NotNote as wrong:
        raise Unreadable(f"--notes {file}: {wrong}") from None
    for name, note in newest:
        token, text = directory / f"{name}{_TOKEN}", note.encode()
        if token.exists():
            continue
        request = tokens.request_for(text)
        existed = tsa = None
        try:
            answer = ask(asked.tsa, request.as_bytes(), TOKEN_LIMIT)
            tokens.accept(answer, request)
            if trusted is not None:
                existed, tsa = tokens.judge(answer, text, trusted)
        except NoToken as none:
            raise NoToken(f"no token for {name}: {asked.tsa} {none}") from None
        _store(token.with_suffix(_NOTE), text)
        _store(token, answer)
        relay_id, size = name.rsplit("-", 1)
        yield Stamp(relay_id, int(size), existed, tsa, proved=False, problem=None)


def _store(file: Path, data: bytes) -> None:
    """Write a file: all of it, or nothing. Raises NoToken."""
    try:
        store(file, data)
    except OSError as failure:
        raise NoToken(f"the token cannot be stored: {file}: {failure.strerror}") from None


# -- verify --------------------------------------------------------------------------------------------------


class _Anchor(NamedTuple):
    """A token in the directory."""

    token: Path
    relay_id: str
    size: int
    text: bytes
    """What it is for."""
    note: Note | None
    problem: str | None
    """Why there is no note."""


class Anchors:
    """The tokens of a directory, each with its note. Without a file of certificates they are not checked."""

    def __init__(self, directory: str | None, certificates: str | None) -> None:
        """Read the notes. Raises Unreadable."""
        if certificates and not directory:
            raise Unreadable("--tsa-cert needs --anchors")
        self._trusted = _trusted(certificates)
        self._anchors = [*_anchors(Path(directory))] if directory else []

    def notes(self) -> Iterator[Note]:
        """Give the notes, with which the log must agree."""
        return (anchor.note for anchor in self._anchors if anchor.note)

    def judge(self, runs: Sequence[RunVerdict]) -> list[Stamp]:
        """Tell what the tokens say of these runs. Tokens of others are left alone. Raises Unreadable."""
        # Of notes that the log does not agree with, nobody knows which ones it had.
        sealed = {run.relay_id: 0 if run.fault and run.fault.what == "notes" else run.sealed for run in runs}
        return [
            self._judge(anchor, proved=anchor.size < sealed[anchor.relay_id])
            for anchor in self._anchors
            if anchor.relay_id in sealed
        ]

    def _judge(self, anchor: _Anchor, *, proved: bool) -> Stamp:
        existed = tsa = None
        problem = anchor.problem
        if not problem and self._trusted is not None:
            try:
                token = lines.whole(anchor.token, TOKEN_LIMIT, "--anchors")
                existed, tsa = _library().judge(token, anchor.text, self._trusted)
            except NoToken as none:
                problem = str(none)
        return Stamp(anchor.relay_id, anchor.size, existed, tsa, proved, problem)


def _anchors(directory: Path) -> Iterator[_Anchor]:
    try:
        names = sorted(path.stem for path in directory.iterdir() if path.suffix == _TOKEN)
    except OSError as failure:
        raise Unreadable(f"--anchors {directory}: {failure.strerror or failure}") from None
    for name, meant in ((name, anchored.meant(name)) for name in names):
        if meant is None:
            continue
        token = directory / f"{name}{_TOKEN}"
        text, note, problem = b"", None, None
        try:
            text = lines.whole(token.with_suffix(_NOTE), _NOTE_LIMIT, "--anchors")
            note = notes.parse(text.decode())
            if anchored.name_of(note.checkpoint) != name:
                note, problem = None, "has the note of another checkpoint beside it"
        except Unreadable as wrong:
            problem = f"has no note that can be read: {wrong}"
        except (NotNote, UnicodeDecodeError):
            problem = "has no note beside it, but something else"
        yield _Anchor(token, *meant, text, note, problem)
