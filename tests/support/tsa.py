"""A time-stamping authority: openssl ts, behind a server of HTTP."""

import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAME = "Time & Sons"

# No `certs`: openssl would not sort them as DER demands, and the library would refuse the answer.
CONFIG = """
[tsa]
default_tsa = ours
[ours]
serial = {directory}/serial
signer_cert = {directory}/tsa.pem
signer_key = {directory}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""

EXPIRED_TEXT = b"existed\n"
EXPIRED_TIME, EXPIRED_SECONDS = "2026-11-26T19:10:03Z", "1795720203"
EXPIRED_ROOT = b"""-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUemm8Y9edZq7fBhQEOhd5ALEy/TQwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEUm9vdDAeFw0xNTA3MDEwNDEwMDNaFw0zODA0MjQxMDEwMDNa
MA8xDTALBgNVBAMMBFJvb3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARvv7mh
JYNtwMnunrDdMRwzGNPxrd8WSStazEKgYpSQe7LizU2crNqwFY5AtnVGUsiNu/oS
Pv5+2CsOyujWR+hdo1MwUTAdBgNVHQ4EFgQU/hAAR6d+OrJPXXmzCBGQt7iRa9Aw
HwYDVR0jBBgwFoAU/hAAR6d+OrJPXXmzCBGQt7iRa9AwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiAHoUi6C9Q0DdkdCOO/4mNtvyF+aQ7qWyCSiki1
25o6WQIhAP3x2bf8jPAHLI8sIc8wX+S4Tff/bL+MzJeU0cSQKY97
-----END CERTIFICATE-----
"""
EXPIRED_TOKEN = b64decode(
    """
    MIIDbDADAgEAMIIDYwYJKoZIhvcNAQcCoIIDVDCCA1ACAQMxDzANBglghkgBZQMEAgEFADByBgsqhkiG9w0BCRABBKBjBGEwXwIB
    AQYDKgMEMDEwDQYJYIZIAWUDBAIBBQAEILJo+dhDTLDVew0uAebtOgB5np9V5oRJnEE06uzpT7PNAgECGA8yMDI2MTEyNjE5MTAw
    M1owAwIBAQIJAOjmIljOiLmZoIIBhTCCAYEwggEnoAMCAQICFCV+KLjmmoeEAgKieGu4LQ2HpP96MAoGCCqGSM49BAMCMA8xDTAL
    BgNVBAMMBFJvb3QwHhcNMjYxMTI2MTgxMDAzWhcNMjYxMTI2MTkxMDEzWjAWMRQwEgYDVQQDDAtUaW1lICYgU29uczBZMBMGByqG
    SM49AgEGCCqGSM49AwEHA0IABIt1Uo0psfC1hVgNyBj0xTioLK7Kwwn0LKWZ9lKWZmDtTGHVFfzefFotM6Mxp3u3u/uIB07sdy75
    G7yTVyV4OEOjWjBYMB0GA1UdDgQWBBRhO3loa7fMcC1xKvSr1e2FkeRi0TAfBgNVHSMEGDAWgBT+EABHp346sk9debMIEZC3uJFr
    0DAWBgNVHSUBAf8EDDAKBggrBgEFBQcDCDAKBggqhkjOPQQDAgNIADBFAiALASzTvy3L0MWV7KsGhiyMIdEw+wdCe2Q/z24qlI/f
    2AIhANtPzXUQtoENpehCmH+dnRq/u7m/5t9gZiRu5EGrhDqPMYIBOzCCATcCAQEwJzAPMQ0wCwYDVQQDDARSb290AhQlfii45pqH
    hAIConhruC0Nh6T/ejANBglghkgBZQMEAgEFAKCBpDAaBgkqhkiG9w0BCQMxDQYLKoZIhvcNAQkQAQQwHAYJKoZIhvcNAQkFMQ8X
    DTI2MTEyNjE5MTAwM1owLwYJKoZIhvcNAQkEMSIEIA0dheioWldFvDVgWndNIpGutEXXirM/t3fvQQBdn9hwMDcGCyqGSIb3DQEJ
    EAIvMSgwJjAkMCIEIFEgmWK16WC0yTqoXdfTp38eZJvcbI9unteCZ2vJDUVEMAoGCCqGSM49BAMCBEcwRQIhAN9ka+ZUIB8e1JoZ
    P2v6I+19fMTZQRQ2Nc56+L1CPwtPAiAHrHlH4lSI3ZwwcAbYjrYyaELRnLZBvYw8GXRivUAXEQ==
    """
)
"""A token whose certificate was valid for a few seconds then. openssl ts knows no time but the present."""


class Authority:
    """Gives tokens. Its certificate is valid from and until so many hours from now; its root for years."""

    def __init__(self, directory: Path, *, valid: tuple[float, float] = (-1, 1), purpose: bool = True) -> None:
        directory.mkdir()
        root_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
        root = _certificate("Root", root_key, "Root", root_key, (-99999, 99999)).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        own = _certificate(NAME, key, "Root", root_key, valid)
        if purpose:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
            own = own.add_extension(usage, critical=True)
        self.root = directory / "root.pem"
        self.root.write_bytes(root.sign(root_key, SHA256()).public_bytes(Encoding.PEM))
        (directory / "tsa.pem").write_bytes(own.sign(root_key, SHA256()).public_bytes(Encoding.PEM))
        (directory / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (directory / "serial").write_text("01\n")
        self._config = directory / "openssl.cnf"
        self._config.write_text(CONFIG.format(directory=directory))

    def reply(self, query: bytes) -> bytes:
        """Answer a request."""
        command = ["openssl", "ts", "-reply", "-config", str(self._config), "-queryfile", "/dev/stdin"]
        return subprocess.run(command, input=query, capture_output=True, check=True, timeout=60).stdout

    def token(self, text: bytes, *more: str) -> bytes:
        """Give a token for a text, as openssl itself would ask for it."""
        command = ["openssl", "ts", "-query", "-data", "/dev/stdin", "-sha256", *(more or ("-cert",))]
        query = subprocess.run(command, input=text, capture_output=True, check=True, timeout=60).stdout
        return self.reply(query)


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: EllipticCurvePrivateKey,
    valid: tuple[float, float],
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(hours=valid[0]))
        .not_valid_after(now + timedelta(hours=valid[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )


def accepted(token: Path, text: Path, root: Path, *more: str) -> bool:
    """Tell whether openssl accepts a token for a text."""
    command = ["openssl", "ts", "-verify", "-in", str(token), "-data", str(text), "-CAfile", str(root), *more]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


class Heard:
    """A request that a server has got."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.path = handler.path
        self.headers = handler.headers
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(answer: Callable[[Heard], Answer | bytes | None]) -> Iterator[tuple[str, list[Heard]]]:
    """Serve. `answer` returns an answer, or its body; None: never. Yields the URL, and what was heard."""
    heard: list[Heard] = []
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            heard.append(Heard(self))
            said = answer(heard[-1])
            if said is None:
                over.wait()
                return
            code, headers, body = (200, {}, said) if isinstance(said, bytes) else said
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # who asks may have had enough
                self.wfile.write(body)

        do_GET = do_POST = _handle  # noqa: N815 - http.server's

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsr", heard
        finally:
            over.set()
            server.shutdown()
            thread.join()
