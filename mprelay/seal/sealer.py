"""The seal of one run: it follows the lines of the log, and signs what they are. Pure.

Rules:

1. Every line is added in the order of `seq`, checkpoints included. The tree's frontier is kept, and a few lines
   that are not in it yet: many at once take less time than one by one.
2. A key that is renewed is forgotten. From then on nobody can sign what it has signed, not even this process.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, Protocol

from mprelay.seal.notes import Checkpoint, encoded, origin_of, signed, statement
from mprelay.seal.tree import Frontier, leaf_of

CHECKPOINT_LINES: Final = 1000
"""Lines between two checkpoints, at most."""

_WAITING_LINES: Final = 64  # until they are hashed, which takes 0.1 ms then

KEY_CHECKPOINTS: Final = 360
"""Checkpoints that one key signs. At the slowest pace of a busy relay that is an hour."""


class Signer(Protocol):
    """A private key."""

    public: bytes

    def sign(self, text: str) -> bytes:
        """Return the signature of a text."""


class Sealer:
    """Knows the tree over the lines of one run, and has the key in force.

    `owner` is the long-lived key that vouches for the run's first key; None: nobody does.
    """

    def __init__(self, relay_id: str, new_key: Callable[[], Signer], owner: Signer | None) -> None:
        self.uncovered = 0
        """Lines that no checkpoint covers, without the last checkpoint itself."""
        self.notes: list[str] = []
        """Checkpoints as notes, until somebody takes them."""
        self._origin = origin_of(relay_id)
        self._new_key = new_key
        self._voucher = owner
        self._key: Signer | None = None
        self._signed = 0  # checkpoints by this key
        self._tree = Frontier()
        self._waiting: list[bytes] = []  # lines that are not in the tree yet

    @property
    def worn(self) -> bool:
        """Whether the key has signed enough."""
        return self._signed >= KEY_CHECKPOINTS

    def add(self, lines: list[bytes]) -> None:
        """Add lines, each with its newline."""
        self._waiting += lines
        self.uncovered += len(lines)
        if len(self._waiting) >= _WAITING_LINES:
            self._grow()

    def renew(self) -> dict[str, str | None]:
        """Take a new key; return the fields of its ``log.key``, which must be the next record."""
        key = self._new_key()
        voucher, self._key, self._voucher, self._signed = self._voucher, key, key, 0
        if voucher is None:
            return {"public_key": encoded(key.public), "signed_by": None, "signature": None}
        tree = self._grow()
        signature = voucher.sign(statement(self._origin, tree.size, tree.root(), key.public))
        return {
            "public_key": encoded(key.public),
            "signed_by": encoded(voucher.public),
            "signature": encoded(signature),
        }

    def checkpoint(self, line_of: Callable[[dict[str, Any]], bytes]) -> dict[str, Any]:
        """Sign the tree as it is; return the fields of the ``log.checkpoint``, which must be the next record.

        `line_of` returns the line that the record would be with these fields.
        """
        assert self._key is not None  # noqa: S101 - the first record is log.key
        tree = self._grow()
        size, root = tree.size, tree.root()
        fields = {"size": size, "root": encoded(root), "signature": ""}
        checkpoint = Checkpoint(self._origin, size, root, sha256(line_of(fields)[:-1]).digest())
        signature = self._key.sign(checkpoint.text())
        self._signed += 1
        self.uncovered = -1  # the checkpoint itself is added next
        self.notes.append(signed(checkpoint, self._key.public, signature))
        return {**fields, "signature": encoded(signature)}

    def take_notes(self) -> list[str]:
        """Return the notes since the last call."""
        notes, self.notes = self.notes, []
        return notes

    def _grow(self) -> Frontier:
        """Return the tree with all lines in it."""
        self._tree.extend([leaf_of(line[:-1]) for line in self._waiting])
        self._waiting.clear()
        return self._tree
