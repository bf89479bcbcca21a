"""One run in a log: which lines it has, what proves them, and the first fault. Pure.

Rules:

1. A run has one fault at most: the first. What comes behind it cannot be proved any more, because the tree needs
   all lines before. It is still looked at, as it may show that missing lines were moved.
2. A checkpoint with a good signature and another root proves that something before it was changed, not what: only
   hashes over many lines were kept. Such a fault names a range.
3. Nothing that a log says is trusted before a signature has proved it.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from mprelay.audit import fields, forms
from mprelay.audit.forms import NotRecord
from mprelay.seal.notes import (
    KEY_SIZE,
    SIGNATURE_SIZE,
    Checkpoint,
    Note,
    NotNote,
    decoded,
    encoded,
    key_id,
    origin_of,
    statement,
)
from mprelay.seal.tree import HASH_SIZE, Frontier, leaf_of

KEY: Final = "log.key"
CHECKPOINT: Final = "log.checkpoint"
_STOPPED: Final = "relay.stopped"
_CONVERTED: Final = " (it ends with a carriage return, so something has converted the file)"

Check: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""Tells whether a public key has made a signature of a text (Ed25519)."""

Word: TypeAlias = Literal["whole", "open", "broken"]

What: TypeAlias = Literal[
    "changed",
    "removed",
    "inserted",
    "moved",
    "twice",
    "signer",
    "unsealed",
    "notes",
    "no record",
    "file",
    "cut",
    "too many",
    "proof",
]
"""What was done to a log, or what else is the matter with it."""


class Place(NamedTuple):
    """Where a line stands."""

    file: str
    line: int
    """Counted from 1."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Fault(NamedTuple):
    """What is wrong, and where that shows first."""

    what: What
    problem: str
    """A sentence about the line."""
    place: Place | None = None
    seq: int | None = None
    seqs: tuple[int, int] | None = None
    """The first and the last seq that this is about, where that is not the one of the line."""


class RunVerdict(NamedTuple):
    """What is known of a run."""

    relay_id: str
    verdict: Word
    lines: int
    """How many there are, up to the fault."""
    sealed: int
    """How many of them are proved: up to the last checkpoint, which is one of them."""
    checkpoints: int
    sealed_at: str | None
    """When the last checkpoint was written."""
    signer: str | None
    """Who has signed the run's first key, else that key; Base64."""
    signer_known: bool
    """Whether one of the keys given has signed something of this run. To be named in it is not enough."""
    fault: Fault | None

    @property
    def unsealed(self) -> tuple[int, int] | None:
        """The first and the last seq behind the last checkpoint; None: there are none, or it is broken."""
        return (self.sealed + 1, self.lines) if self.fault is None and self.sealed < self.lines else None


class Sealed(NamedTuple):
    """The last good checkpoint of a run, and the key that has signed it."""

    checkpoint: Checkpoint
    public_key: bytes
    signature: bytes


class Run:
    """The state of one run."""

    def __init__(
        self,
        relay_id: str,
        check: Check,
        trusted: frozenset[bytes] = frozenset(),
        notes: Sequence[Note] = (),
    ) -> None:
        """Expect a run whose key was signed by a trusted one (none: by anybody), and that `notes` agree."""
        self.relay_id = relay_id
        self.expected = 0
        """The seq of the next line, if anything can come; 0: :meth:`take` decides."""
        self.event = ""
        """That of the last line."""
        self._leaf = b""  # of the last line
        self.tree = Frontier()
        self.fault: Fault | None = None
        self.sealed: Sealed | None = None
        self.files: list[tuple[str, int, int]] = []
        """The files that it is in, each with the first and the last seq there."""
        self.keys: list[bytes] = []
        """Its keys so far. The last one is in force."""
        self._origin = origin_of(relay_id)
        self._check = check
        self._trusted = trusted
        self._notes = sorted(notes, key=lambda note: note.checkpoint.size, reverse=True)
        self._last = 0  # seq
        self._seen = 0  # seq of the last line, in order or not
        self._begun = 0  # number of the file that it is in
        self._first_leaf = b""
        self._closed = False
        self._checkpoints = 0
        self._sealed_at: str | None = None
        self._signer: bytes | None = None
        self._signer_known = False
        self._key_known = False  # the first key, which is proved to be the run's by what it has signed

    @property
    def last(self) -> int:
        """The seq of the last line in order."""
        return self.expected - 1 if self.expected else self._last

    def enter(self, begun: int, file: str, seq: int) -> None:
        """Learn that the next line, of this seq, is in this file, before which `begun` - 1 others were begun."""
        if begun != self._begun:
            self._begun = begun
            self._leave()
            self.files.append((file, seq, seq))

    def take(self, place: Place, line: bytes, shaped: Mapping[str, Any], seq: int, event: str) -> None:
        """Take a line. `seq` and `event` are those of its object `shaped`."""
        self._last, self.expected, self._seen = self.last, 0, seq
        if self.fault is not None:
            self._find_missing(place, seq)
            return
        if seq > self._last + 1:
            missing = self._last + 1, seq - 1
            fault: Fault | None = Fault("removed", f"is where {_lines(*missing)} missing", seqs=missing)
        elif seq <= self._last:
            fault = self._again(line, seq)
        elif self._closed:
            fault = Fault("inserted", "stands behind the last record of its run")
        else:
            fault = self._in_order(line, shaped, seq, event)
        if fault is not None:
            problem = fault.problem + (_CONVERTED if line.endswith(b"\r") else "")
            self.fault = fault._replace(problem=problem, place=place, seq=seq)
            return
        self._last, self.event, self._leaf = seq, event, leaf_of(line)
        self._first_leaf = self._first_leaf or self._leaf
        self.tree.append(self._leaf)
        self.expected = 0 if self._closed else seq + 1

    def extend(self, lines: Sequence[bytes], expected: int, event: str) -> None:
        """Take lines that follow each other, as expected, and have nothing to prove: `expected` follows them."""
        leaves = [sha256(b"\0" + line).digest() for line in lines]
        self.tree.extend(leaves)
        self.expected, self.event, self._leaf = expected, event, leaves[-1]

    def end(self) -> None:
        """Take the end of all files."""
        self._leave()
        self._last, self.expected = self.last, 0
        if self.fault is None and self._notes:
            size = self._notes[0].checkpoint.size
            problem = f"the notes have a checkpoint of {size} lines, which the log has not"
            if size >= self._last:
                problem = (
                    f"is the last line, but the notes have a checkpoint of {size} lines: the log was cut off"
                )
            self.fault = Fault("notes", problem, seq=self._last)

    def verdict(self) -> RunVerdict:
        """Say what is known."""
        return RunVerdict(
            relay_id=self.relay_id,
            verdict="broken" if self.fault else "whole" if self._closed else "open",
            lines=self._last,
            sealed=self._sealed_to(),
            checkpoints=self._checkpoints,
            sealed_at=self._sealed_at,
            signer=encoded(self._signer) if self._signer else None,
            signer_known=self._signer_known or (self._key_known and self.sealed is not None),
            fault=self.fault,
        )

    def _leave(self) -> None:
        """Note the last seq in the last file."""
        if self.files:
            file, first, _ = self.files[-1]
            self.files[-1] = file, first, self.expected - 1 if self.expected else self._seen

    def _sealed_to(self) -> int:
        """Return the seq of the last good checkpoint."""
        return self.sealed.checkpoint.size + 1 if self.sealed else 0

    def _find_missing(self, place: Place, seq: int) -> None:
        """Take a line behind the fault: it may be one of those that were missing."""
        fault = self.fault
        if fault and fault.what == "removed" and fault.seqs and fault.seqs[0] <= seq <= fault.seqs[1]:
            problem = (
                f"stands where seq {fault.seqs[0]} should; seq {seq} comes later, at {place}: lines were moved"
            )
            self.fault = fault._replace(what="moved", problem=problem)

    def _again(self, line: bytes, seq: int) -> Fault:
        """Tell how a line has come here whose seq was there before."""
        if leaf_of(line) in {self._first_leaf, self._leaf}:
            return Fault("twice", "was there before")
        if seq == self._last:
            return Fault("inserted", "has the seq of the line before, and is another: one of them was inserted")
        return Fault("twice", "has a seq that was there before")

    def _in_order(self, line: bytes, shaped: Mapping[str, Any], seq: int, event: str) -> Fault | None:
        """Judge a line that has the seq which is expected; None: nothing is wrong."""
        if event == KEY:
            return self._take_key(shaped, seq)
        if not self.keys:
            return Fault("unsealed", "is the first line of its run and no log.key: the run is not sealed")
        if event == CHECKPOINT:
            return self._take_checkpoint(line, shaped, seq)
        return None

    def _take_key(self, shaped: Mapping[str, Any], seq: int) -> Fault | None:
        said = key_line(shaped)
        if said is None:
            return Fault("changed", "was changed: it is no whole log.key")
        public_key, signed_by, signature = said
        if self.keys and signed_by != self.keys[-1]:
            return Fault("changed", "is not signed by the key in force before it")
        if signed_by and signature:
            text = statement(self._origin, seq - 1, self.tree.root(), public_key)
            if not self._check(signed_by, signature, text.encode()):
                return self._changed(seq, "its signature is not one for this place")
        if not self.keys:
            self._signer = signed_by or public_key
            self._signer_known, self._key_known = signed_by in self._trusted, public_key in self._trusted
            if self._trusted and not (self._signer_known or self._key_known):
                which = (
                    "a signer that is not among the keys" if signed_by else "no signer: --seal-key was not given"
                )
                return Fault("signer", f"names {which}")
        self.keys.append(public_key)
        return None

    def _take_checkpoint(self, line: bytes, shaped: Mapping[str, Any], seq: int) -> Fault | None:
        said = checkpoint_line(self._origin, line, shaped)
        if said is None:
            return Fault("changed", "was changed: it is no whole log.checkpoint")
        checkpoint, signature, timestamp = said
        text = checkpoint.text().encode()
        if not self._check(self.keys[-1], signature, text):
            if any(self._check(key, signature, text) for key in self.keys[:-1]):
                return Fault("changed", "is signed by a key of this run which is not in force here")
            if not self.sealed and self._signer == self.keys[-1]:
                return Fault("changed", "or the log.key at seq 1 was changed: that key has not signed it")
            return Fault("changed", "was changed: the key in force has not signed it")
        if checkpoint.size != seq - 1:
            return Fault("changed", f"is a checkpoint of {checkpoint.size} lines, which is not its place")
        if checkpoint.root != self.tree.root():
            return self._changed(seq - 1, "their root is not the one that this checkpoint has signed")
        if fault := self._take_notes(checkpoint):
            return fault
        self.sealed = Sealed(checkpoint, self.keys[-1], signature)
        self._sealed_at = timestamp
        self._checkpoints += 1
        self._closed = self.event == _STOPPED
        return None

    def _changed(self, last: int, why: str) -> Fault:
        """Return the fault that a line behind the last checkpoint was changed, up to `last`."""
        seqs = self._sealed_to() + 1, last
        return Fault("changed", f"shows that {_one_of(*seqs)} changed: {why}", seqs=seqs)

    def _take_notes(self, checkpoint: Checkpoint) -> Fault | None:
        """Compare a good checkpoint with the notes of as many lines, and of fewer."""
        while self._notes and self._notes[-1].checkpoint.size <= checkpoint.size:
            note = self._notes.pop()
            if note.checkpoint.size < checkpoint.size:
                size = note.checkpoint.size
                return Fault("notes", f"comes behind a checkpoint of {size} lines that only the notes have")
            if fault := judge_note(note, self.keys[-1], self._check):
                return Fault("notes", f"has a note, but {fault}")
            if note.checkpoint != checkpoint:
                return Fault("notes", "is another checkpoint than the notes have in its place")
        return None


class KeyLine(NamedTuple):
    """What a log.key says."""

    public_key: bytes
    signed_by: bytes | None
    signature: bytes | None


def key_line(shaped: Mapping[str, Any]) -> KeyLine | None:
    """Read a log.key out of its object; None: it is no whole one."""
    try:
        record = forms.read(shaped)
        public_key = decoded(record["public_key"], KEY_SIZE)
        if record.get("signed_by") is None and record.get("signature") is None:
            return KeyLine(public_key, None, None)
        signed_by, signature = (
            decoded(record["signed_by"], KEY_SIZE),
            decoded(record["signature"], SIGNATURE_SIZE),
        )
    except (NotRecord, NotNote, KeyError, TypeError, AttributeError):
        return None
    return KeyLine(public_key, signed_by, signature)


def checkpoint_line(origin: str, line: bytes, shaped: Mapping[str, Any]) -> tuple[Checkpoint, bytes, str] | None:
    """Read a log.checkpoint, its signature and its timestamp out of its line; None: it is no whole one."""
    try:
        record = forms.read(shaped)
        size, root, text = record["size"], decoded(record["root"], HASH_SIZE), record["signature"]
        signature = decoded(text, SIGNATURE_SIZE)
    except (NotRecord, NotNote, KeyError, TypeError, AttributeError):
        return None
    signed = f'"signature":"{text}"'.encode()
    if type(size) is not int or line.count(signed) != 1:
        return None
    bare = line.replace(signed, b'"signature":""')
    return (
        Checkpoint(origin, size, root, sha256(bare).digest()),
        signature,
        fields.text(record, "timestamp") or "",
    )


def judge_note(note: Note, public_key: bytes, check: Check) -> str | None:
    """Tell what is wrong with a note that this key must have signed; None: nothing. Others may sign it too."""
    own = note.checkpoint.origin, key_id(note.checkpoint.origin, public_key)
    signatures = [signature for name, key, signature in note.signatures if (name, key) == own]
    if not signatures:
        return "the key in force has not signed the note"
    text = note.checkpoint.text().encode()
    if not all(
        len(signature) == SIGNATURE_SIZE and check(public_key, signature, text) for signature in signatures
    ):
        return "a signature of the note is wrong"
    return None


def _lines(first: int, last: int) -> str:
    """Name lines, with the verb."""
    return f"the line of seq {first} is" if first == last else f"the lines of seq {first} to {last} are"


def _one_of(first: int, last: int) -> str:
    """Name lines of which at least one is meant, with the verb."""
    return f"the line of seq {first} was" if first == last else f"one of the lines of seq {first} to {last} was"
