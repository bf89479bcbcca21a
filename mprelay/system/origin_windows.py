"""Who opened a relay, on Windows."""

import os
from contextlib import suppress


def opened_by() -> str | None:
    """Return the name of the account that this process runs under (GetUserName). No variable can change it."""
    with suppress(OSError):
        return os.getlogin()
    return None


def clock_synchronised() -> bool | None:
    """Tell whether something keeps this machine's clock right: the system does not tell."""
    return None
