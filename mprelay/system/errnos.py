"""The names of errnos, and what some of them mean.

Windows numbers the errors of sockets from 10000 on, and calls them WSAECONNRESET and so on. The names here are
those of errno(3) on every platform. What a number means differs: see the variants,
:mod:`mprelay.system.errnos_linux` and :mod:`mprelay.system.errnos_windows`.
"""

import errno
import sys
from typing import Final

if sys.platform == "win32":
    from mprelay.system.errnos_windows import NO_LOCAL_PORT_ERRNOS, RESET_ERRNOS, text
else:
    from mprelay.system.errnos_linux import NO_LOCAL_PORT_ERRNOS, RESET_ERRNOS, text

__all__ = ["NO_LOCAL_PORT", "RESET_ERRNOS", "errno_name", "explain", "stream_error"]

_NAMES: Final = {number: name.removeprefix("WSA") for number, name in errno.errorcode.items()}
_NUMBERS: Final[dict[str | None, int]] = {name: number for number, name in _NAMES.items()}


def errno_name(number: int | None) -> str:
    """Name an errno as errno(3) does: 104 is ECONNRESET, and on Windows 10054 is."""
    return _NAMES.get(number or 0, f"E{number}")


def stream_error(number: int | None) -> str:
    """Name an errno that a connected TCP socket gave. A reset is always ECONNRESET.

    We never send on a direction that we have shut down, so an error that says so means a reset.
    """
    return "ECONNRESET" if number in RESET_ERRNOS else errno_name(number)


def explain(name: str | None) -> str | None:
    """Return the text of the errno `name`, as strerror(3) gives it in English; None if it is no errno."""
    number = _NUMBERS.get(name)
    return None if name is None or number is None else text(name, number)


NO_LOCAL_PORT: Final = frozenset(errno_name(number) for number in NO_LOCAL_PORT_ERRNOS)
"""The errors of connect(2) if no local port towards the target is free, or there is no address to send from."""
