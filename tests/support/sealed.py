"""Sealed logs, written after docs/seal.md alone: nothing of mprelay is used, so no error can be shared."""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

RELAY_ID = "3f0c9a1d2b4e5f60"


def b64(data: bytes) -> str:
    """Return Base64."""
    return b64encode(data).decode()


def key_of(seed: int) -> Ed25519PrivateKey:
    """Return a private key: always the same one for a number."""
    return Ed25519PrivateKey.from_private_bytes(sha256(b"key %d" % seed).digest())


def public(key: Ed25519PrivateKey) -> bytes:
    """Return the public half of a key."""
    return key.public_key().public_bytes_raw()


def root_of(lines: Sequence[bytes]) -> bytes:
    """Return the root over lines, as RFC 6962 defines it: by recursion."""
    match len(lines):
        case 0:
            return sha256(b"").digest()
        case 1:
            return sha256(b"\x00" + lines[0]).digest()
    half = 1
    while half * 2 < len(lines):
        half *= 2
    return sha256(b"\x01" + root_of(lines[:half]) + root_of(lines[half:])).digest()


def path_of(index: int, lines: Sequence[bytes]) -> list[bytes]:
    """Return the inclusion proof of a line, as RFC 6962 defines it: by recursion."""
    if len(lines) == 1:
        return []
    half = 1
    while half * 2 < len(lines):
        half *= 2
    if index < half:
        return [*path_of(index, lines[:half]), root_of(lines[half:])]
    return [*path_of(index - half, lines[half:]), root_of(lines[:half])]


class Log:
    """A sealed log that grows."""

    def __init__(
        self,
        relay_id: str = RELAY_ID,
        *,
        key: int = 1,
        signer: Ed25519PrivateKey | None = None,
        labels: Any = None,
    ) -> None:
        self.relay_id = relay_id
        self.origin = f"mprelay/{relay_id}"
        self.lines: list[bytes] = []
        self.notes: list[str] = []
        self.key = key_of(key)
        self._labels = labels
        self._write_key(self.key, signer)

    @property
    def data(self) -> bytes:
        """The log as it stands in a file."""
        return b"".join(line + b"\n" for line in self.lines)

    def record(self, event: str, **fields: Any) -> bytes:
        """Write a record."""
        self.lines.append(self.shaped(event, fields))
        return self.lines[-1]

    def shaped(self, event: str, fields: dict[str, Any]) -> bytes:
        """Return a record's line. Other formats replace this."""
        seq = len(self.lines) + 1
        record: dict[str, Any] = {"timestamp": f"2026-11-26T12:00:00.{seq:06}Z", "level": "info", "event": event}
        record |= {"message": f"Message {seq}.", "msg_id": None, "seq": seq, "relay_id": self.relay_id, **fields}
        if self._labels:
            record["labels"] = self._labels
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()

    def session(self, number: int) -> None:
        """Write the records of a session."""
        fields = {"session": number, "client_ip": "192.0.2.7", "client_port": 4711}
        self.record("connection.accepted", **fields)
        self.record("session.closed", **fields, reason="target_read_closed", bytes_from_client=number)

    def checkpoint(self, key: Ed25519PrivateKey | None = None) -> None:
        """Write a checkpoint; `key`: of another signer than the one it should be."""
        key = key or self.key
        size, root = len(self.lines), root_of(self.lines)
        bare = self.shaped("log.checkpoint", {"size": size, "root": b64(root), "signature": ""})
        text = f"{self.origin}\n{size}\n{b64(root)}\nrecord {b64(sha256(bare).digest())}\n"
        signature = key.sign(text.encode())
        self.record("log.checkpoint", size=size, root=b64(root), signature=b64(signature))
        key_id = sha256(self.origin.encode() + b"\n\x01" + public(key)).digest()[:4]
        self.notes.append(f"{text}\n\u2014 {self.origin} {b64(key_id + signature)}\n")

    def renew(self, key: int) -> None:
        """Write another key, signed by the one before."""
        before, self.key = self.key, key_of(key)
        self._write_key(self.key, before)

    def close(self) -> None:
        """Write the end of the run."""
        self.record("relay.stopped", reason="signal")
        self.checkpoint()

    def _write_key(self, key: Ed25519PrivateKey, signer: Ed25519PrivateKey | None) -> None:
        said = [
            "mprelay log.key v1",
            self.origin,
            str(len(self.lines)),
            b64(root_of(self.lines)),
            b64(public(key)),
        ]
        text = "".join(f"{line}\n" for line in said)
        self.record(
            "log.key",
            public_key=b64(public(key)),
            signed_by=b64(public(signer)) if signer else None,
            signature=b64(signer.sign(text.encode())) if signer else None,
        )


def whole(
    relay_id: str = RELAY_ID,
    *,
    sessions: int = 6,
    every: int = 2,
    renewed: int = 3,
    key: int = 1,
    signer: Ed25519PrivateKey | None = None,
) -> Log:
    """Make a closed log: a checkpoint after so many sessions each, and another key after so many."""
    log = Log(relay_id, key=key, signer=signer)
    log.record("relay.active", listen_port=8080)
    for number in range(1, sessions + 1):
        log.session(number)
        if number % every == 0:
            log.checkpoint()
        if number == renewed:
            log.checkpoint()
            log.renew(key + 1000)
    log.close()
    return log
