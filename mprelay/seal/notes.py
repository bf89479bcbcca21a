"""What is signed: the statement of a key, and the note of a checkpoint (C2SP signed-note, tlog-checkpoint). Pure.

    mprelay/3f0c9a1d2b4e5f60                          the origin: this run
    1000                                              the size of the tree
    dYrwG3aHkT…=                                      its root
    record 9oZ8vQ…=                                   the checkpoint's own record, without the signature
                                                      an empty line ends what is signed
    — mprelay/3f0c9a1d2b4e5f60 Zk3p8A…==              the key's ID and the signature

Rules:

1. Binary values are Base64 with padding, as RFC 4648 has it, and no other spelling of one is accepted.
2. A signature says which text it stands under by that text's first line. So none of one kind passes for another.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, NamedTuple

KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
"""Bytes of an Ed25519 public key, and of a signature (RFC 8032)."""

_ID_SIZE: Final = 4
_ED25519: Final = b"\x01"  # the kind of the key, in its ID
_STATEMENT: Final = "mprelay log.key v1"
DASH: Final = "— "
"""Stands before each signature."""

_RECORD: Final = "record "
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")


class NotNote(ValueError):  # noqa: N818 - it says what the text is not
    """A text is no note of this program."""


class Checkpoint(NamedTuple):
    """What a checkpoint says."""

    origin: str
    size: int
    """Lines that it covers: all before its own record."""
    root: bytes
    record: bytes
    """SHA-256 of its own record, with an empty signature and without the newline."""

    def text(self) -> str:
        """Return what is signed."""
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n{_RECORD}{encoded(self.record)}\n"


class Note(NamedTuple):
    """A checkpoint, and who has signed it."""

    checkpoint: Checkpoint
    signatures: list[tuple[str, bytes, bytes]]
    """Each with its key's name and ID. Others may sign too (witnesses), so unknown ones are no fault."""


def origin_of(relay_id: str) -> str:
    """Return the origin of a run's notes, which is also the name of its keys."""
    return f"mprelay/{relay_id}"


def statement(origin: str, size: int, root: bytes, public_key: bytes) -> str:
    """Return what is signed when a key is announced by another one.

    It binds the key to the run, and to the place in its log: `size` lines stand before it, under `root`.
    """
    return f"{_STATEMENT}\n{origin}\n{size}\n{encoded(root)}\n{encoded(public_key)}\n"


def key_id(name: str, public_key: bytes) -> bytes:
    """Return the ID of a key (C2SP signed-note): the first four bytes of a hash over its name and itself."""
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:_ID_SIZE]


def signed(checkpoint: Checkpoint, public_key: bytes, signature: bytes) -> str:
    """Return the note of a checkpoint, signed by the run's key."""
    name = checkpoint.origin
    return f"{checkpoint.text()}\n{DASH}{name} {encoded(key_id(name, public_key) + signature)}\n"


def parse(text: str) -> Note:
    """Read a note. Raises NotNote."""
    if "\r" in text:
        raise NotNote("it has carriage returns, so something has converted it")
    body, empty, rest = text.partition("\n\n")
    if not empty or not rest.endswith("\n"):
        raise NotNote("an empty line and signatures must follow its text")
    match body.split("\n"):
        case [origin, size, root, record] if size.isascii() and size.isdigit() and record.startswith(_RECORD):
            checkpoint = Checkpoint(
                origin, int(size[:20]), decoded(root, 32), decoded(record.removeprefix(_RECORD), 32)
            )
        case _:
            raise NotNote("its text must be an origin, a size, a root and the hash of a record")
    if f"{body}\n" != checkpoint.text():
        raise NotNote("its size has another spelling")
    return Note(checkpoint, [_signature(line) for line in rest.removesuffix("\n").split("\n")])


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, blank, blob = line.removeprefix(DASH).partition(" ")
    if not line.startswith(DASH) or not name or not blank:
        raise NotNote("a signature is a dash, a name and Base64")
    both = decoded(blob)
    return name, both[:_ID_SIZE], both[_ID_SIZE:]


def split(text: str) -> Iterator[str]:
    """Split a file of notes, one after the other, into notes: a line that begins one follows signatures.

    What stands at the end and has no signature yet is being written, or was torn, and counts for nothing.
    """
    note: list[str] = []
    for line in _LINE.findall(text):
        if note and note[-1].startswith(DASH) and not line.startswith(DASH):
            yield "".join(note)
            note = []
        if note or line != "\n":  # somebody may have put empty lines between notes
            note.append(line)
    if note and note[-1].startswith(DASH) and note[-1].endswith("\n"):
        yield "".join(note)


def encoded(data: bytes) -> str:
    """Return Base64."""
    return b64encode(data).decode()


def decoded(text: str, size: int | None = None) -> bytes:
    """Read Base64 of so many bytes (None: any number). Raises NotNote, also for another spelling of the same."""
    try:
        data = b64decode(text, validate=True)
    except (Error, ValueError):
        data = b""
    if encoded(data) != text or (size is not None and len(data) != size):
        raise NotNote("Base64 of another size, or none")
    return data
