"""The lines of one session with what proves them, without the rest of the log. Pure. See docs/seal.md, "Proofs".

    first reading:   the log is verified; which runs have the session is found out
    second reading:  the run's lines, up to its last checkpoint ──▶ Witness ──▶ a path for each line that counts

Rules:

1. A proof is one JSON document. It has raw lines as texts, because a line is proved byte for byte.
2. What is read back is not trusted. All members must be there, and no others; a path must be as long as the size
   of the tree demands.
3. It proves that these lines are in the log, at these places. That the log has no other lines of the session, a
   proof cannot show: only the log can.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from mprelay.audit import forms
from mprelay.audit.forms import NotRecord, parsed, place_of
from mprelay.audit.lines import Piece, Trouble
from mprelay.audit.run import KEY, Check, Sealed, judge_note, key_line
from mprelay.seal import notes
from mprelay.seal.notes import NotNote, decoded, encoded, origin_of, statement
from mprelay.seal.tree import EMPTY_ROOT, HASH_SIZE, leaf_of, node_of, root_by_path

KIND: Final = "mprelay proof v1"
"""What the first member of a proof says."""

_MEMBERS: Final = {"proof", "relay_id", "session", "note", "keys", "lines"}


class Witness:
    """A tree that grows, and the path of each leaf that somebody has asked for."""

    def __init__(self) -> None:
        self.size = 0
        self.paths: dict[int, list[bytes]] = {}
        """By the leaves' indices. They are complete after :meth:`end`."""
        self._subtrees: list[tuple[bytes, list[int]]] = []  # from the largest; each with the asked leaves in it

    def append(self, leaf: bytes, *, asked: bool) -> None:
        """Add a leaf."""
        subtree = leaf, [self.size] if asked else []
        if asked:
            self.paths[self.size] = []
        size = self.size
        while size & 1:
            subtree = self._joined(self._subtrees.pop(), subtree)
            size >>= 1
        self._subtrees.append(subtree)
        self.size += 1

    def root(self) -> bytes:
        """Return the root as it is."""
        hashes = [subtree for subtree, _ in self._subtrees]
        root = hashes.pop() if hashes else EMPTY_ROOT
        while hashes:
            root = node_of(hashes.pop(), root)
        return root

    def end(self) -> bytes:
        """Complete the paths, and return the root."""
        while len(self._subtrees) > 1:
            right = self._subtrees.pop()
            self._subtrees.append(self._joined(self._subtrees.pop(), right))
        return self.root()

    def _joined(self, left: tuple[bytes, list[int]], right: tuple[bytes, list[int]]) -> tuple[bytes, list[int]]:
        for index in left[1]:
            self.paths[index].append(right[0])
        for index in right[1]:
            self.paths[index].append(left[0])
        return node_of(left[0], right[0]), left[1] + right[1]


class Search:
    """Finds out which runs have a session of some number."""

    def __init__(self, session: int) -> None:
        self.last: dict[str, int] = {}
        """The last seq of the session's lines, by relay_id."""
        self._session = session

    def take(self, piece: Piece) -> None:
        """Take what comes next."""
        for _, line in _of_session(piece, self._session):
            relay_id, seq, _ = place_of(parsed(line))
            self.last[relay_id] = max(seq, self.last.get(relay_id, 0))


class Prover:
    """Makes a proof out of a log that was verified."""

    def __init__(self, relay_id: str, session: int, sealed: Sealed) -> None:
        self._relay_id = relay_id
        self._session = session
        self._sealed = sealed
        self._witness = Witness()
        self._keys: dict[int, tuple[bytes, bytes]] = {}  # lines and the roots before them, by index
        self._lines: dict[int, bytes] = {}

    def take(self, piece: Piece) -> None:
        """Take what comes next."""
        if isinstance(piece, Trouble):
            return
        ours = dict(_of_session(piece, self._session))
        for place, line in enumerate(piece.lines):
            index = self._witness.size
            try:
                relay_id, seq, event = place_of(parsed(line))
            except NotRecord:
                continue
            if relay_id != self._relay_id or seq != index + 1 or index == self._sealed.checkpoint.size:
                continue
            if event == KEY:
                self._keys[index] = line, self._witness.root()
            elif place in ours:
                self._lines[index] = line
            self._witness.append(leaf_of(line), asked=event == KEY or place in ours)

    def end(self) -> dict[str, Any] | None:
        """Return the proof; None: the log is not the one that was verified."""
        checkpoint, public_key, signature = self._sealed
        if self._witness.end() != checkpoint.root:
            return None
        keys = {index: {"root": encoded(root)} for index, (_, root) in self._keys.items()}
        lines = self._lines | {index: line for index, (line, _) in self._keys.items()}
        entries = {
            index: {
                "index": index,
                "line": line.decode(),
                "path": [encoded(beside) for beside in self._witness.paths[index]],
                **keys.get(index, {}),
            }
            for index, line in lines.items()
        }
        return {
            "proof": KIND,
            "relay_id": self._relay_id,
            "session": self._session,
            "note": notes.signed(checkpoint, public_key, signature),
            "keys": [entries[index] for index in self._keys],
            "lines": [entries[index] for index in self._lines],
        }


def _of_session(piece: Piece, session: int) -> Iterator[tuple[int, bytes]]:
    """Find the lines of a session, and their places in a block."""
    mark = b'"session":%d' % session  # in each format
    for place, line in enumerate(() if isinstance(piece, Trouble) else piece.lines):
        if mark in line and _session_of(line) == session:
            yield place, line


def _session_of(line: bytes) -> object:
    try:
        return forms.read(parsed(line)).get("session")
    except NotRecord:
        return None


class WrongProof(ValueError):  # noqa: N818 - it says what is wrong
    """A proof proves nothing; the text says why."""


class Proved(NamedTuple):
    """What a proof has proved."""

    relay_id: str
    session: int
    lines: list[bytes]
    size: int
    """Lines that the log had, at least."""
    signer: str
    """Who has signed the run's first key, else that key; Base64."""
    signer_known: bool
    """Whether that is one of the keys given."""


def judge(text: bytes, check: Check, trusted: Collection[bytes] = ()) -> Proved:
    """Tell what a proof proves. Raises WrongProof."""
    try:
        proof = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise WrongProof("is not JSON") from None
    if _is_ambiguous(text):
        raise WrongProof("has a member twice, or is nested too deeply: others may read something else in it")
    try:
        if type(proof) is not dict or proof.keys() != _MEMBERS or proof["proof"] != KIND:
            raise WrongProof("is no proof of this kind")
        return _Judge(proof, check, trusted).judge()
    except (NotNote, NotRecord, KeyError, TypeError, AttributeError, UnicodeEncodeError) as wrong:
        raise WrongProof(f"is not in order ({wrong})") from None


def _is_ambiguous(text: bytes) -> bool:
    """Tell whether readers of a JSON text can take it for different objects (RFC 8259, section 4)."""

    def once(members: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in members}) != len(members):
            raise ValueError  # the text is JSON, so nothing else raises it

    try:
        json.loads(text, object_pairs_hook=once, parse_int=len)
    except (ValueError, RecursionError):
        return True
    return False


class _Judge:
    """Judges a proof. Whatever is not of its type raises TypeError, or another error that :func:`judge` knows."""

    def __init__(self, proof: Mapping[str, Any], check: Check, trusted: Collection[bytes]) -> None:
        self._relay_id: str = proof["relay_id"]
        self._session: int = proof["session"]
        self._keys: list[dict[str, Any]] = proof["keys"]
        self._lines: list[dict[str, Any]] = proof["lines"]
        self._origin = origin_of(self._relay_id)
        self._note = notes.parse(proof["note"])
        self._check = check
        self._trusted = trusted

    def judge(self) -> Proved:
        """Tell what it proves."""
        checkpoint = self._note.checkpoint
        if checkpoint.origin != self._origin:
            raise WrongProof("has the note of another run")
        in_force, signer, known = self._judge_keys()
        if problem := judge_note(self._note, in_force, self._check):
            raise WrongProof(f"has a wrong note: {problem}")
        if self._trusted and not known:
            raise WrongProof("has a signer that is not among the keys")
        lines: list[bytes] = []
        last = -1
        for entry in self._lines:
            index, line, _ = self._included(entry, {"index", "line", "path"})
            if _session_of(line) != self._session or type(self._session) is not int:
                raise WrongProof(f"has a line of another session at index {index}")
            if index <= last:
                raise WrongProof(f"has its lines out of order at index {index}")
            last = index
            lines.append(line)
        if not lines:
            raise WrongProof("has no lines")
        return Proved(self._relay_id, self._session, lines, checkpoint.size, encoded(signer), known)

    def _judge_keys(self) -> tuple[bytes, bytes, bool]:
        """Follow the keys to the one that has signed the note. Return it, the signer, and whether he is known."""
        in_force: bytes | None = None
        signer = b""
        known = False
        last = -1
        for entry in self._keys:
            index, line, event = self._included(entry, {"index", "line", "path", "root"})
            said = key_line(parsed(line))
            root = decoded(entry["root"], HASH_SIZE)
            if (
                event != KEY
                or said is None
                or index <= last
                or (in_force is None and (index, root) != (0, EMPTY_ROOT))
            ):
                raise WrongProof(f"has no log.key where it should, at index {index}")
            public_key, signed_by, signature = said
            if in_force is None:
                signer = signed_by or public_key
                known = signer in self._trusted or public_key in self._trusted
            elif signed_by != in_force:
                raise WrongProof(f"has a key that the one before it has not signed, at index {index}")
            if signed_by and signature:
                text = statement(self._origin, index, root, public_key)
                if not self._check(signed_by, signature, text.encode()):
                    raise WrongProof(f"has a wrong signature of a key, at index {index}")
            in_force, last = public_key, index
        if in_force is None:
            raise WrongProof("has no log.key")
        return in_force, signer, known

    def _included(self, entry: dict[str, Any], members: set[str]) -> tuple[int, bytes, str]:
        """Check that a line is in the tree. Return its index, itself, and its event."""
        if type(entry) is not dict or entry.keys() != members or type(entry["path"]) is not list:
            raise WrongProof("has a line with other members")
        index, line = entry["index"], entry["line"].encode()
        path = [decoded(beside, HASH_SIZE) for beside in entry["path"]]
        checkpoint = self._note.checkpoint
        if type(index) is not int or root_by_path(leaf_of(line), index, checkpoint.size, path) != checkpoint.root:
            raise WrongProof(f"has a line that is not in the log, at index {index}")
        relay_id, seq, event = place_of(parsed(line))
        if (relay_id, seq) != (self._relay_id, index + 1):
            raise WrongProof(f"has a line that is not of its run and place, at index {index}")
        return index, line, event
