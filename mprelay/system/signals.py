"""What stops the relay from outside becomes readiness of one descriptor: signals, or the events of a console.

With :mod:`mprelay.system.early`, the only place that knows signals, by the variant that this platform has.
"""

import signal
import sys

if sys.platform == "win32":
    from mprelay.system.signals_windows import (
        HANGUP,
        Signals,
        begin,
        die_with_parent,
        has_terminal,
        held_back,
        ignore,
        leave_console,
        pending,
        release,
    )
else:
    from mprelay.system.signals_posix import (
        HANGUP,
        Signals,
        begin,
        die_with_parent,
        has_terminal,
        held_back,
        ignore,
        leave_console,
        pending,
        release,
    )

__all__ = [
    "HANGUP",
    "Signals",
    "begin",
    "die_with_parent",
    "has_terminal",
    "held_back",
    "ignore",
    "leave_console",
    "name",
    "pending",
    "release",
]


def name(number: int) -> str:
    """Name a signal: 9 is SIGKILL. A number without a name becomes SIG and the number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
