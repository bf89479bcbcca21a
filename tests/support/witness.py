"""A second verifier of sealed logs: `python witness.py LOG [KEY.pem …]`.

It was written from docs/seal.md alone (and docs/formats.md, for the names of fields), before its author had seen
how mprelay does it. It shares nothing with mprelay, no line and no library, so the two are not wrong in the same
way. It needs Python's standard library and the command `openssl` (3.0 or later), holds the whole log in memory,
and says only the verdict, as an exit code, and the first fault.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

WHOLE: Final = 0
BROKEN: Final = 1
OPEN: Final = 3
"""The exit codes of `mprelayctl verify`."""

_JSON: Final = "relay_id", "seq", "event", "timestamp", ""
_ECS: Final = "service.ephemeral_id", "event.sequence", "event.action", "@timestamp", "mprelay"
_OCSF: Final = (
    *("metadata.correlation_uid", "metadata.sequence", "metadata.event_code"),
    *("metadata.original_time", "unmapped"),
)
"""Where a format has relay_id, seq, event and timestamp, and the fields that its schema has no place for."""

_DER: Final = bytes.fromhex("302a300506032b6570032100")  # stands before the 32 bytes of a public key (RFC 8410)
_LONGEST: Final = 64 * 1024
_PROOF: Final = "mprelay proof v1"


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _binary(value: str, length: int) -> bytes:
    """Decode Base64, if it could not have been written in another way. Raises ValueError and TypeError."""
    decoded = base64.b64decode(value, validate=True)
    if len(decoded) != length or _base64(decoded) != value:
        raise ValueError(f"{value!r} is not {length} bytes in Base64")
    return decoded


@cache
def _signed(key: str, signature: str, *lines: object) -> bool:
    """Whether a key has signed lines of text. Raises ValueError and TypeError."""
    contents = {"inkey": _DER + _binary(key, 32), "sigfile": _binary(signature, 64)}
    contents["in"] = "".join(f"{line}\n" for line in lines).encode()
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"]
    with tempfile.TemporaryDirectory() as directory:
        for name, content in contents.items():
            file = Path(directory, name)
            file.write_bytes(content)
            command += [f"-{name}", str(file)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _at(record: Any, place: str) -> Any:
    for name in place.split(".") if place else ():
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _read(line: bytes) -> tuple[str, int, str, dict[str, Any]]:
    """Return relay_id, seq, event and the other fields of a line in any format. Raises ValueError."""
    record = json.loads(line.decode())
    places = _JSON if "relay_id" in record else _ECS if "ecs" in record else _OCSF
    relay_id, seq, event, timestamp, fields = (_at(record, place) for place in places)
    if (type(relay_id), type(seq), type(event)) != (str, int, str):
        raise ValueError("no relay_id, seq and event")
    if event in {"log.key", "log.checkpoint"} and type(timestamp) is not str:
        raise ValueError("no timestamp")
    return relay_id, seq, event, fields or {}


def _next_key(fields: dict[str, Any], place: Sequence[object], before: str, trusted: set[str]) -> str:
    """Return the key that a log.key makes known at its place. `before`: the one in force; "": none."""
    key: str = fields["public_key"]
    signer, signature = fields.get("signed_by"), fields.get("signature")
    _binary(key, 32)
    unsigned = signer is signature is None and not before
    if not unsigned and not _signed(signer, signature, "mprelay log.key v1", *place, key):
        raise ValueError("not signed for this place")
    if before and signer != before:
        raise ValueError("not signed by the key before it")
    if not before and trusted and not {key, signer} & trusted:
        raise ValueError("not signed by somebody who is trusted")
    return key


class _Run:
    def __init__(self) -> None:
        self.lines = 0
        self.subtrees: list[tuple[int, bytes]] = []  # leaves and hash of full trees, the largest first
        self.key = ""  # in force
        self.events = ("", "")  # of the last two lines

    @property
    def closed(self) -> bool:
        return self.events == ("relay.stopped", "log.checkpoint")

    def root(self) -> str:
        node = self.subtrees[-1][1] if self.subtrees else _hash()
        for _, left in self.subtrees[-2::-1]:
            node = _hash(b"\x01", left, node)
        return _base64(node)

    def take(self, line: bytes, trusted: set[str]) -> None:
        """Judge the next line. Raises ValueError, TypeError and KeyError."""
        relay_id, seq, event, fields = _read(line)
        if seq != self.lines + 1 or self.closed or (not self.key and event != "log.key"):
            raise ValueError("not the line that must follow")
        place = (f"mprelay/{relay_id}", self.lines, self.root())
        signature = fields.get("signature")
        if event == "log.key":
            self.key = _next_key(fields, place, self.key, trusted)
        if event == "log.checkpoint":
            if type(fields["size"]) is not int or (fields["size"], fields["root"]) != place[1:]:
                raise ValueError("not the size and the root of the lines before it")
            there = f'"signature":"{signature}"'.encode()
            if line.count(there) != 1:
                raise ValueError("not one signature")
            bare = line.replace(there, b'"signature":""')
            if not _signed(self.key, signature, *place, f"record {_base64(_hash(bare))}"):
                raise ValueError("not signed by the key in force")
        self.lines, self.events = seq, (self.events[1], event)
        self.subtrees.append((1, _hash(b"\x00", line)))
        while len(self.subtrees) > 1 and self.subtrees[-2][0] == self.subtrees[-1][0]:
            (leaves, left), (_, right) = self.subtrees[-2:]
            self.subtrees[-2:] = [(2 * leaves, _hash(b"\x01", left, right))]


def _keys(pems: Iterable[str]) -> set[str]:
    ders = [base64.b64decode("".join(pem.split("-----")[2].split())) for pem in pems]
    return {_base64(der.removeprefix(_DER)) for der in ders}


def judge(log: bytes, trusted: Iterable[str] = ()) -> tuple[int, str]:
    """Return the exit code that a log deserves, and why. `trusted`: public keys in PEM (none: anybody's)."""
    keys = _keys(trusted)
    runs: dict[str, _Run] = {}
    *lines, rest = log.split(b"\n")
    for number, line in enumerate([*lines, rest], 1):
        if b"\0" in line or len(line) > _LONGEST:
            return BROKEN, f"line {number}: zeros, or too long"
        if number > len(lines):
            break  # it has no newline, so it counts for nothing
        try:
            runs.setdefault(_read(line)[0], _Run()).take(line, keys)
        except (ValueError, TypeError, KeyError, RecursionError) as wrong:
            return BROKEN, f"line {number}: {wrong}"
    if not runs:
        return BROKEN, "nothing is sealed"
    return (WHOLE, "closed") if all(run.closed for run in runs.values()) and not rest else (OPEN, "no end yet")


def _root(leaf: bytes, index: int, size: int, path: Sequence[str]) -> str:
    """Follow a path (RFC 9162, section 2.1.3.2). Raises ValueError and TypeError."""
    if type(index) is not int or not 0 <= index < size:
        raise ValueError(f"no index: {index!r}")
    node, last = leaf, size - 1
    for other in path:
        if not last:
            raise ValueError("a path that is too long")
        if index & 1 or index == last:
            node = _hash(b"\x01", _binary(other, 32), node)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = _hash(b"\x01", node, _binary(other, 32))
        index, last = index >> 1, last >> 1
    if last:
        raise ValueError("a path that is too short")
    return _base64(node)


def _check_note(note: str, origin: str, key: str) -> None:
    """Check that a key has signed a note. Others may have done so too. Raises ValueError and TypeError."""
    body, _, signatures = note.partition("\n\n")
    *lines, end = signatures.split("\n")
    key_id = _hash(origin.encode(), b"\n\x01", _binary(key, 32))[:4]
    good = 0
    for line in lines:
        dash, name, blob = line.split(" ")
        decoded = base64.b64decode(blob, validate=True)
        if dash != "\N{EM DASH}" or not name or _base64(decoded) != blob:
            raise ValueError("not a signature of a note")
        if (name, decoded[:4]) == (origin, key_id):
            if not _signed(key, _base64(decoded[4:]), *body.split("\n")):
                raise ValueError("not signed by the last of the keys")
            good += 1
    if end or not good:
        raise ValueError("not signed by the last of the keys, or cut off")


def _check_proof(proof: dict[str, Any], trusted: set[str]) -> None:
    """Check a proof. Raises ValueError, TypeError, KeyError and AttributeError."""
    if set(proof) != {"proof", "relay_id", "session", "note", "keys", "lines"} or proof["proof"] != _PROOF:
        raise ValueError("not a proof")
    origin = f"mprelay/{proof['relay_id']}"
    said, size, root, record = proof["note"].partition("\n\n")[0].split("\n")
    _binary(record.removeprefix("record "), 32)
    if said != origin or size != str(int(size)) or not record.startswith("record "):
        raise ValueError("not a note of this run")
    key = ""
    for part, more in (("keys", {"root"}), ("lines", set())):
        before = -1
        for entry in proof[part]:
            line, index = entry["line"].encode(), entry["index"]
            relay_id, seq, event, fields = _read(line)
            if set(entry) != {"index", "line", "path"} | more or index <= before:
                raise ValueError(f"not what may stand in {part}")
            if _root(_hash(b"\x00", line), index, int(size), entry["path"]) != root:
                raise ValueError(f"not in the log: {index}")
            if (relay_id, seq) != (proof["relay_id"], index + 1):
                raise ValueError(f"not of this run and place: {index}")
            if part == "keys":
                if event != "log.key" or (not key and (index, entry["root"]) != (0, _base64(_hash()))):
                    raise ValueError(f"not the key that must follow: {index}")
                key = _next_key(fields, (origin, index, entry["root"]), key, trusted)
            elif type(proof["session"]) is not int or fields.get("session") != proof["session"]:
                raise ValueError(f"not of this session: {index}")
            before = index
    _check_note(proof["note"], origin, key)
    if not proof["lines"]:
        raise ValueError("no lines")


def judge_proof(text: bytes, trusted: Iterable[str] = ()) -> tuple[int, str]:
    """Return 0 or 1, as `mprelayctl verify` does of a proof, and why."""
    try:
        _check_proof(json.loads(text.decode()), _keys(trusted))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as wrong:
        return BROKEN, str(wrong)
    return WHOLE, "proved"


if __name__ == "__main__":
    verdict, why = judge(Path(sys.argv[1]).read_bytes(), [Path(name).read_text() for name in sys.argv[2:]])
    print(why)  # noqa: T201 - it speaks to a person
    sys.exit(verdict)
