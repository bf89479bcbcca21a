"""Tokens of a time-stamping authority (RFC 3161), by the library rfc3161-client. Nothing here uses the network.

A token is good if its certificate was valid when it was made, whatever has become of the certificate since.
Nobody is asked whether the certificate was revoked.
"""

from typing import NamedTuple

from cryptography.x509 import Certificate, load_der_x509_certificate, load_pem_x509_certificates
from cryptography.x509.oid import NameOID
from rfc3161_client import (
    HashAlgorithm,
    TimeStampRequest,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from rfc3161_client.tsp import PKIStatus

from mprelay.audit.anchored import NoToken


class Time(NamedTuple):
    """What a token says."""

    existed: str
    tsa: str


def request_for(text: bytes) -> TimeStampRequest:
    """Make a request, which has the text's SHA-256, a nonce, and asks for the certificate."""
    builder = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256)
    return builder.nonce(nonce=True).cert_request(cert_request=True).build()


def certificates(pem: bytes) -> list[Certificate]:
    """Read what certificates are trusted. Raises ValueError: there is none."""
    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError("holds no certificates (PEM)") from None


def accept(answer: bytes, request: TimeStampRequest) -> None:
    """Check that an answer is the one to a request. Raises NoToken. Its signature is :func:`judge`'s business."""
    try:
        response = decode_timestamp_response(answer)
        status = PKIStatus(response.status).name.lower()
        if status != "granted":
            said = "; ".join(response.status_string)
            raise NoToken(f"has not granted it: {said or status}")
        info, asked = response.tst_info, request.message_imprint
        imprint = info.message_imprint
        if (imprint.hash_algorithm, imprint.message) != (asked.hash_algorithm, asked.message):
            raise NoToken("has answered with the token of another text")
        if info.nonce != request.nonce:
            raise NoToken("has answered another request: the nonce is not the one that was sent")
        if not response.signed_data.certificates:
            raise NoToken("has answered without its certificate")
    except ValueError as wrong:
        raise NoToken(f"has sent no token that can be read: {wrong}") from None


def judge(token: bytes, text: bytes, trusted: list[Certificate]) -> Time:
    """Tell what a token says of a text, if a trusted certificate stands behind it. Raises NoToken."""
    try:
        response = decode_timestamp_response(token)
        VerifierBuilder(roots=trusted).build().verify_message(response, text)
        return Time(f"{response.tst_info.gen_time:%Y-%m-%dT%H:%M:%SZ}", _signer(response))
    except (VerificationError, ValueError) as wrong:
        raise NoToken(f"is not good: {wrong}") from None


def _signer(response: TimeStampResponse) -> str:
    """Return the name of who has signed a token that is good."""
    (info,) = response.signed_data.signer_infos
    signer = info.issuer, info.serial_number
    found = map(load_der_x509_certificate, response.signed_data.certificates)
    subject = next(cert.subject for cert in found if (cert.issuer, cert.serial_number) == signer)
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else subject.rfc4514_string()
