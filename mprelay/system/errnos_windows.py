"""What errnos mean on Windows.

An OSError of a socket has the WSA number as its errno, except for six that have an older number (CPython,
winerror_to_errno): EINTR, EBADF, EACCES, EFAULT, EINVAL and EMFILE. SO_ERROR and connect_ex() give the WSA number
of these, too.
"""

import errno
import os
from typing import Final

RESET_ERRNOS: Final = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.ESHUTDOWN, errno.EPIPE})
"""Errors of a connected stream after a reset.

ECONNABORTED is given when the connection is gone and the reset was reported before, or when the peer has not
acknowledged anything for too long.
"""

NO_LOCAL_PORT_ERRNOS: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENOBUFS})
"""Errors of connect() if no local port is free: EADDRINUSE or ENOBUFS; or there is no address to send from."""

_TEXTS: Final = {
    "EACCES": "Permission denied",
    "EADDRINUSE": "Address already in use",
    "EADDRNOTAVAIL": "Cannot assign requested address",
    "EAFNOSUPPORT": "Address family not supported by protocol",
    "ECONNABORTED": "Software caused connection abort",
    "ECONNREFUSED": "Connection refused",
    "ECONNRESET": "Connection reset by peer",
    "EHOSTDOWN": "Host is down",
    "EHOSTUNREACH": "No route to host",
    "EINVAL": "Invalid argument",
    "EMFILE": "Too many open files",
    "ENETDOWN": "Network is down",
    "ENETRESET": "Network dropped connection on reset",
    "ENETUNREACH": "Network is unreachable",
    "ENOBUFS": "No buffer space available",
    "ENOTCONN": "Transport endpoint is not connected",
    "ENOTSOCK": "Socket operation on non-socket",
    "ETIMEDOUT": "Connection timed out",
}
"""Linux's texts. Windows' own are in the language of the machine, and its strerror() has none for these."""


def text(name: str, number: int) -> str:
    """Return the text of an errno; its name if there is none."""
    if found := _TEXTS.get(name):
        return found
    told = os.strerror(number)
    return name if told == "Unknown error" else told
