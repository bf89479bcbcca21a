"""Tells the service manager how this program is doing: the protocol of sd_notify(3), one datagram a message.

Rules:

1. Nothing here waits or fails. A datagram that finds nobody is passed over. The caller hears of one that finds no
   room.
2. What the service manager has put into the environment is meant for this process alone. :func:`take` takes it
   out before any other process is started.

There are libraries for this protocol. They are bound to libsystemd; or they wait for room, and have not changed
since 2017.
"""

import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Final

_MEANT_FOR_US: Final = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")  # beginnings of names
_MICROSECONDS: Final = 1_000_000


def take(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Take out of the environment what a service manager has put there, and return it."""
    names = [name for name in environ if name.startswith(_MEANT_FOR_US)]
    return {name: environ.pop(name) for name in names}


class Notifier:
    """The way to the service manager, if :func:`take` has found one. Windows has none."""

    def __init__(self, taken: Mapping[str, str]) -> None:
        self._sock: socket.socket | None = None
        self._address = _address(taken.get("NOTIFY_SOCKET", ""))
        if sys.platform != "win32" and self._address:
            with suppress(OSError):
                # Made now: a relay that has no descriptor left for a while still says that it lives.
                self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.watchdog_s = _watchdog(taken)
        """Seconds of silence after which the service manager takes this process for stuck; None: it does not."""

    @property
    def present(self) -> bool:
        """Whether there is a service manager to be told."""
        return self._sock is not None

    def send(self, *assignments: str) -> bool:
        """Tell it such as ``READY=1``. False: there is no room, because it is busy."""
        if sys.platform != "win32" and self._sock is not None:
            try:
                self._sock.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, self._address)
            except BlockingIOError:
                return False
            except OSError:
                pass
        return True

    def close(self) -> None:
        """Tell it nothing more."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _address(text: str) -> bytes:
    """Return the address of a Unix socket (unix(7)): a path, or a name without one. Empty: it is neither."""
    if text.startswith("@"):
        return b"\0" + os.fsencode(text[1:])
    return os.fsencode(text) if text.startswith("/") else b""


def _watchdog(taken: Mapping[str, str]) -> float | None:
    """Return the seconds of silence that this process may keep (sd_watchdog_enabled(3)); None: any number."""
    if taken.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # another process was meant, whose environment this one has inherited
    text = taken.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**64))):
        return None
    return int(text) / _MICROSECONDS or None
