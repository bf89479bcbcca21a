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
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

WHOLE: Final = 0
BROKEN: Final = 1
OPEN: Final = 3
"""The exit codes of `mprelayctl verify`."""

_JSON: Final = "relay_id", "seq", "event", ""
_ECS: Final = "service.ephemeral_id", "event.sequence", "event.action", "mprelay"
_OCSF: Final = "metadata.correlation_uid", "metadata.sequence", "metadata.event_code", "unmapped"
"""Where a format has relay_id, seq and event, and the fields that its schema has no place for."""

_DER: Final = bytes.fromhex("302a300506032b6570032100")  # stands before the 32 bytes of a public key (RFC 8410)
_LONGEST: Final = 64 * 1024


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
    relay_id, seq, event, fields = (_at(record, place) for place in places)
    if (type(relay_id), type(seq), type(event)) != (str, int, str):
        raise ValueError("no relay_id, seq and event")
    return relay_id, seq, event, fields or {}


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
            key, signer = fields["public_key"], fields.get("signed_by")
            _binary(key, 32)
            unsigned = signer is signature is None and not self.key
            if not unsigned and not _signed(signer, signature, "mprelay log.key v1", *place, key):
                raise ValueError("not signed for this place")
            if self.key and signer != self.key:
                raise ValueError("not signed by the key before it")
            if not self.key and trusted and not {key, signer} & trusted:
                raise ValueError("not signed by somebody who is trusted")
            self.key = key
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


def judge(log: bytes, trusted: Iterable[str] = ()) -> tuple[int, str]:
    """Return the exit code that a log deserves, and why. `trusted`: public keys in PEM (none: anybody's)."""
    ders = [base64.b64decode("".join(pem.split("-----")[2].split())) for pem in trusted]
    keys = {_base64(der.removeprefix(_DER)) for der in ders}
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


if __name__ == "__main__":
    verdict, why = judge(Path(sys.argv[1]).read_bytes(), [Path(name).read_text() for name in sys.argv[2:]])
    print(why)  # noqa: T201 - it speaks to a person
    sys.exit(verdict)
