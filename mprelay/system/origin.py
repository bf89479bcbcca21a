"""Where a relay runs and who opened it, for the record ``relay.active``.

Rules:

1. Who opened it is what the kernel knows where it knows it: the login uid, which su(1) and sudo(8) leave as it is
   and which only root can change (/proc/self/loginuid, pam_loginuid(8)). Then what sudo(8) says, if only root can
   have said it. Then the real uid. LOGNAME and USER are never asked, because anybody can set them.
2. What cannot be found is None. Nothing here ends a relay.
"""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_LOGINUID: Final = Path("/proc/self/loginuid")
_UNSET: Final = 2**32 - 1  # (uid_t) -1: nobody has logged in, a service was started (audit_set_loginuid(3))
_MAXERROR: Final = 3  # the field of struct timex, all of whose first fields take a long each (adjtimex(2))
_MOST_ERROR: Final = 16_000_000  # microseconds: the kernel's NTP_PHASE_LIMIT, that nobody disciplines the clock


class Origin(NamedTuple):
    """What was found, by the fields of the record."""

    host: str | None
    opened_by: str | None
    clock_synchronised: bool | None


def find() -> Origin:
    """Find everything. Takes a few milliseconds, longer where names of accounts come over the network (NSS)."""
    return Origin(host(), opened_by(), clock_synchronised())


def host() -> str | None:
    """Return the name of this machine."""
    with suppress(OSError):
        return _text(socket.gethostname()) or None
    return None


def _text(name: str) -> str:
    """Make a name that the system gave a valid text, in UTF-8 as far as it is, whatever the locale says."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def opened_by() -> str | None:
    """Return the name of the person, or the account, that started this process; a uid without one as a number."""
    if sys.platform == "win32":
        with suppress(OSError):
            return os.getlogin()
        return None
    login_uid = _login_uid()
    if login_uid is not None:
        return _name(login_uid)
    uid = os.getuid()
    sudo_user = os.environ.get("SUDO_USER") if uid == 0 else None
    return _text(sudo_user) if sudo_user else _name(uid)


def _login_uid() -> int | None:
    """Return the kernel's login uid; None where it is not set, or the kernel has none."""
    with suppress(OSError, ValueError):
        uid = int(_LOGINUID.read_text())
        return None if uid == _UNSET else uid
    return None


def _name(uid: int) -> str:
    if sys.platform != "win32":
        with suppress(ImportError, KeyError, OSError):
            import pwd  # noqa: PLC0415 - for this alone

            return _text(pwd.getpwuid(uid).pw_name)
    return str(uid)


def clock_synchronised() -> bool | None:
    """Tell whether something keeps this machine's clock right; None where that is not known.

    The kernel counts up an error while nobody corrects its clock, and that error decides, as it does for
    systemd-timedated(8). The flag STA_UNSYNC would not do: it also stays set where the hardware clock shall not
    be touched.
    """
    if sys.platform != "linux":
        return None
    with suppress(ImportError, OSError, AttributeError):  # a Python, or a C library, without it
        import ctypes  # noqa: PLC0415 - a millisecond

        timex = (ctypes.c_long * 64)()  # more than twice its size; modes 0: only read it
        if ctypes.CDLL(None).adjtimex(timex) >= 0:
            return timex[_MAXERROR] < _MOST_ERROR
    return None
