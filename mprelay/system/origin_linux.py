"""Who opened a relay, and whether its clock is right, on Linux.

The kernel's login uid says who opened the relay, if it is set. su(1) and sudo(8) leave it as it is, and only
root can change it (/proc/self/loginuid, pam_loginuid(8)). Next comes the user that sudo(8) names, if only root
can have set that variable, then the real uid. LOGNAME and USER are never used, because anybody can set them.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

_LOGINUID: Final = Path("/proc/self/loginuid")
_UNSET_UID: Final = 2**32 - 1  # (uid_t) -1: nobody has logged in, a service was started (audit_set_loginuid(3))
_MAXERROR_INDEX: Final = 3  # in struct timex, whose first fields take a long each (adjtimex(2))
_SYNCHRONISED_END: Final = 16_000_000
"""Microseconds of error below which the kernel takes its clock for synchronised: its NTP_PHASE_LIMIT."""


def _text(name: str) -> str:
    """Decode a name that the system gave as UTF-8, whatever the locale says; other bytes become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def opened_by() -> str | None:
    """Return the name of the person or account that started this process; a uid without a name as a number."""
    login_uid = _login_uid()
    if login_uid is not None:
        return _name(login_uid)
    uid = os.getuid()
    sudo_user = os.environ.get("SUDO_USER") if uid == 0 else None
    return _text(sudo_user) if sudo_user else _name(uid)


def _login_uid() -> int | None:
    """Return the kernel's login uid; None if it is not set, or if the kernel has none."""
    with suppress(OSError, ValueError):
        uid = int(_LOGINUID.read_text())
        return None if uid == _UNSET_UID else uid
    return None


def _name(uid: int) -> str:
    with suppress(ImportError, KeyError, OSError):
        import pwd  # noqa: PLC0415 - only needed here

        return _text(pwd.getpwuid(uid).pw_name)
    return str(uid)


def clock_synchronised() -> bool | None:
    """Tell whether something keeps this machine's clock right; None if that is not known.

    While nobody corrects its clock the kernel counts up an error. That error decides here, as it does for
    systemd-timedated(8). The flag STA_UNSYNC would be wrong: it also stays set if the hardware clock must not be
    touched.
    """
    with suppress(ImportError, OSError, AttributeError):  # a Python, or a C library, without it
        import ctypes  # noqa: PLC0415 - slow to load, and only needed here

        timex = (ctypes.c_long * 64)()  # more than twice its size; modes 0: only read it
        if ctypes.CDLL(None).adjtimex(timex) >= 0:
            return timex[_MAXERROR_INDEX] < _SYNCHRONISED_END
    return None
