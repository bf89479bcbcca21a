"""Ed25519 keys (RFC 8032), by the library cryptography. Loaded only where something is sealed or verified.

A private key is in memory only. When the last reference to it goes, OpenSSL overwrites it.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key


class Key:
    """A key that signs."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        """Its public half, 32 bytes."""

    def sign(self, text: str) -> bytes:
        """Return the signature of a text, 64 bytes."""
        return self._private.sign(text.encode())


def new() -> Key:
    """Make a key."""
    return Key(Ed25519PrivateKey.generate())


def load(data: bytes) -> Key:
    """Take a private key out of a file: PEM, or OpenSSH's own form. Raises ValueError: what is wrong with it."""
    load_private = load_ssh_private_key if b"BEGIN OPENSSH" in data else load_pem_private_key
    try:
        private = load_private(data, password=None)
    except TypeError:  # what the library says of a key that is encrypted
        raise ValueError("is protected by a passphrase, which a relay cannot be asked for") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key, neither PEM nor OpenSSH's") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError("holds a key of another kind than Ed25519")  # noqa: TRY004 - the file is wrong
    return Key(private)
