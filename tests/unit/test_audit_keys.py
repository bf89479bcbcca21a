"""Public keys as people have them."""

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.sealed import b64, key_of, public

from mprelay.audit import keys

KEY = key_of(1).public_key()
RAW = public(key_of(1))
SSH = KEY.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
PEM = KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
EC = generate_private_key(SECP256R1()).public_key()


@pytest.mark.parametrize("given", [b64(RAW), SSH.decode(), f"{SSH.decode()} somebody@example.com"])
def test_a_key_can_be_given_itself(given):
    assert keys.read(given) == RAW


@pytest.mark.parametrize("text", [PEM, SSH + b" a comment\n", b64(RAW).encode() + b"\n"])
def test_a_key_can_be_given_as_a_file(tmp_path, text):
    (tmp_path / "key").write_bytes(text)
    assert keys.read(str(tmp_path / "key")) == RAW


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"AAAA",
        SSH[:40],
        PEM[:60],
        EC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        EC.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_key(tmp_path, text):
    (tmp_path / "key").write_bytes(text)
    with pytest.raises(ValueError, match="is no Ed25519 public key"):
        keys.read(str(tmp_path / "key"))


def test_no_key_is_given_at_all():
    with pytest.raises(ValueError, match="is no Ed25519 public key"):
        keys.read("ssh-ed25519 AAAA")
    with pytest.raises(FileNotFoundError):
        keys.read(b64(RAW)[:-4])
    with pytest.raises(ValueError, match="null byte"):
        keys.read("\0")


@pytest.mark.parametrize(
    "how", [(Encoding.PEM, PrivateFormat.PKCS8), (Encoding.PEM, PrivateFormat.OpenSSH)], ids=["PEM", "OpenSSH"]
)
def test_a_private_key_is_not_what_is_asked_for(tmp_path, how):
    (tmp_path / "key").write_bytes(key_of(1).private_bytes(*how, NoEncryption()))
    with pytest.raises(ValueError, match="is a private key"):
        keys.read(str(tmp_path / "key"))


def test_signatures():
    signature = key_of(1).sign(b"text")
    assert keys.check(RAW, signature, b"text")
    assert not keys.check(RAW, signature, b"other")
    assert not keys.check(public(key_of(2)), signature, b"text")
    assert not keys.check(RAW, signature[:-1], b"text")
    assert not keys.check(b"", signature, b"text")
    assert not keys.check(b"\xff" * 32, signature, b"text")
