"""What errnos mean on Linux."""

import errno
import os
from typing import Final

RESET_ERRNOS: Final = frozenset({errno.ECONNRESET, errno.EPIPE})
"""Errors of a connected stream after a reset.

Linux reports a reset that comes after the peer's FIN as EPIPE (tcp_reset: CLOSE_WAIT). A send after a reset that
was already reported gives EPIPE too.
"""

NO_LOCAL_PORT_ERRNOS: Final = frozenset({errno.EADDRNOTAVAIL})
"""Errors of connect(2) if no local port is free, or there is no address to send from."""


def text(_name: str, number: int) -> str:
    """Return the text of an errno."""
    return os.strerror(number)
