"""The page: one file, without anything from elsewhere. Its policy lets a browser run only what is in it."""

import base64
import hashlib
import re
from importlib import resources
from typing import Final

BODY: Final = resources.files(__package__).joinpath("page.html").read_bytes()
"""The page itself."""


def _sources(tag: bytes) -> str:
    """Name the contents of all these elements, by their hashes (CSP Level 3, 2.3.1)."""
    found = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), BODY, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_sources(b'script')}",
        f"style-src {_sources(b'style')}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of each answer."""
