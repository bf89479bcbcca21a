"""Public keys as people have them, and signatures, by the library cryptography."""

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

from mprelay.seal.notes import KEY_SIZE, NotNote, decoded

_SSH: Final = b"ssh-ed25519 "
_LARGEST: Final = 64 * 1024  # bytes of a file


def check(public_key: bytes, signature: bytes, text: bytes) -> bool:
    """Tell whether a key has made a signature of a text."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def read(given: str) -> bytes:
    """Return a public key: given as Base64, as OpenSSH has it, or as the name of a file of these or of PEM.

    Raises ValueError, whose text says what is wrong, and OSError.
    """
    try:
        return decoded(given, KEY_SIZE)
    except NotNote:
        text = given.encode(errors="replace")
    if not text.startswith(_SSH):
        with Path(given).open("rb") as file:
            text = file.read(_LARGEST).strip()
    if b"PRIVATE KEY" in text:
        raise ValueError("is a private key, and the public one is asked for")
    try:
        if not text.startswith((_SSH, b"-----BEGIN ")):
            return decoded(text.decode(), KEY_SIZE)
        key = load_ssh_public_key(text) if text.startswith(_SSH) else load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is no Ed25519 public key: neither PEM, nor OpenSSH's, nor Base64")  # noqa: TRY004
    return key.public_bytes_raw()
