"""Pipes through which the kernel moves pages from socket to socket (splice(2)).

The only place that knows splice(2), with the variants beside it: :mod:`mprelay.system.pipes_linux` and
:mod:`mprelay.system.pipes_none`. Splicing can always be left out: recv(2) and send(2) move the same bytes.
"""

import errno
import sys
from socket import SocketType
from typing import Final

from mprelay.system import sockets

if sys.platform == "linux":
    from mprelay.system.pipes_linux import Pipe
else:
    from mprelay.system.pipes_none import Pipe

__all__ = ["Pipe", "is_refusal", "is_refused_to_all"]

_OF_THE_CONNECTION: Final = {
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ETIMEDOUT,
}
"""Errors that an established connection usually ends with (tcp(7); ICMP's by way of tcp_write_err)."""
_REFUSED_TO_ALL: Final = {errno.EPERM, errno.ENOSYS}
"""Errors of splice(2) where the system refuses the call: a filter (seccomp(2)), or a kernel without it."""
_REFUSED: Final = _REFUSED_TO_ALL | {errno.EINVAL}
"""The same, and the error for a socket that cannot be spliced. No connection ends with any of these."""


def is_refusal(failure: OSError, sock: SocketType) -> bool:
    """Tell a refusal of splice(2) from an error of the connection.

    If it is the connection's error, splice(2) has taken it from the socket, and recv(2) would then report a
    normal end. ICMP has rare errors too (EACCES, EPROTO). After any error of its own the connection is over;
    after a refusal it is not.
    """
    if failure.errno in _REFUSED:
        return True
    return failure.errno not in _OF_THE_CONNECTION and sockets.is_open(sock)


def is_refused_to_all(failure: OSError) -> bool:
    """Tell whether the system refuses splice(2) for every socket."""
    return failure.errno in _REFUSED_TO_ALL
