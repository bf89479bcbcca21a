"""The names of errnos."""

import errno
from typing import Final


def errno_name(number: int | None) -> str:
    """Name an errno as errno(3) does: 104 is ECONNRESET."""
    return errno.errorcode.get(number or 0, f"E{number}")


def stream_error(number: int | None) -> str:
    """Name an errno that a connected TCP socket gave. A reset is always ECONNRESET.

    Linux reports a reset that comes after the peer's FIN as EPIPE (tcp_reset: CLOSE_WAIT). A send after a reset
    that was already reported gives EPIPE too. We never send on a direction that we have shut down, so EPIPE can
    mean nothing else here.
    """
    return "ECONNRESET" if number == errno.EPIPE else errno_name(number)


NO_LOCAL_PORT: Final = errno_name(errno.EADDRNOTAVAIL)
"""The error of connect(2) if no local port towards the target is free, or there is no address to send from."""
