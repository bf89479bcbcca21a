"""Where a relay runs and who opened it, for the record ``relay.active``.

A fact that cannot be found is None. Nothing here ends a relay. Variants: :mod:`mprelay.system.origin_linux`,
:mod:`mprelay.system.origin_windows`.
"""

import os
import socket
import sys
from contextlib import suppress
from typing import NamedTuple

if sys.platform == "win32":
    from mprelay.system.origin_windows import clock_synchronised, opened_by
else:
    from mprelay.system.origin_linux import clock_synchronised, opened_by

__all__ = ["Origin", "clock_synchronised", "find", "host", "opened_by"]


class Origin(NamedTuple):
    """The fields of the record. None: not known."""

    host: str | None
    opened_by: str | None
    clock_synchronised: bool | None


def find() -> Origin:
    """Find everything. Takes milliseconds, or longer if account names come over the network (NSS)."""
    return Origin(host(), opened_by(), clock_synchronised())


def host() -> str | None:
    """Return the name of this machine."""
    with suppress(OSError):
        name = os.fsencode(socket.gethostname())  # UTF-8, whatever the locale says; other bytes become escapes
        return name.decode("utf-8", "backslashreplace") or None
    return None
