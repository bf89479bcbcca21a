"""Which checkpoints get a token, how its files are named, what is said of it. Pure. See docs/seal.md, "Anchors".

A checkpoint says all that the ones before it in its run have said. So only the newest of a run needs a token.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from mprelay.seal import notes
from mprelay.seal.notes import Checkpoint, NotNote

_ORIGIN: Final = notes.origin_of("")
_RELAY_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")
_NAME: Final = re.compile(r"([0-9A-Za-z]{1,64})-(0|[1-9][0-9]{0,18})")


class NoToken(Exception):  # noqa: N818 - it says what is missing
    """There is no token, or none that is good; the text says why."""


class Stamp(NamedTuple):
    """What a token says of a run."""

    relay_id: str
    size: int
    """Lines that the checkpoint covers."""
    existed: str | None
    """When these lines were there. None: that was not checked, or is not so."""
    tsa: str | None
    """Who says so."""
    proved: bool
    """Whether the log has these lines. It may be broken before, or was not looked at."""
    problem: str | None
    """What is wrong with the token, or with its note."""


def newest(text: str) -> Iterator[tuple[str, str]]:
    """Find the newest note of each run in a file of notes. Give each with its name. Raises NotNote."""
    found: dict[str, tuple[int, str, str]] = {}
    for number, note in enumerate(notes.split(text), 1):
        if not note.startswith(_ORIGIN):
            continue
        try:
            checkpoint = notes.parse(note).checkpoint
            name = name_of(checkpoint)
        except NotNote as wrong:
            raise NotNote(f"note {number} is damaged: {wrong}") from None
        if checkpoint.size >= found.get(checkpoint.origin, (0, "", ""))[0]:
            found[checkpoint.origin] = checkpoint.size, name, note
    for _, name, note in found.values():
        yield name, note


def name_of(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint's files, without the ending. Raises NotNote: it is of no run."""
    relay_id = checkpoint.origin.removeprefix(_ORIGIN)
    if not _RELAY_ID.fullmatch(relay_id):  # it becomes a file's name
        raise NotNote("its origin is no run")
    return f"{relay_id}-{checkpoint.size}"


def meant(name: str) -> tuple[str, int] | None:
    """Read such a name: the run, and the lines that the checkpoint covers. None: it is another file's."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def told(stamp: Stamp) -> str:
    """Tell a person what a token says."""
    lines = f"{stamp.size:,} lines"
    if stamp.problem:
        return f"broken: the token of run {stamp.relay_id} for {lines} {stamp.problem}"
    if not stamp.existed:
        return f"run {stamp.relay_id}: a token for {lines} is there, and was not checked (--tsa-cert)"
    if stamp.proved:
        return f"run {stamp.relay_id}: its first {lines} existed at {stamp.existed} (TSA {stamp.tsa})"
    return f"run {stamp.relay_id}: a checkpoint of {lines} existed at {stamp.existed} (TSA {stamp.tsa})"
