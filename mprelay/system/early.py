"""The stop signals are held back here, before anything is loaded that takes time.

Until then such a signal ends the program without a record, as it ends any program that has not begun: while the
interpreter starts, and while the script that pip makes loads ``re``. The module ``signal`` would make that time
longer because it needs ``enum``.
"""

import _signal  # type: ignore[import-not-found,unused-ignore]

NUMBERS: frozenset[int] = frozenset(
    getattr(_signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGXCPU", "SIGHUP", "SIGBREAK")
    if hasattr(_signal, name)  # Windows has the first two and the last
)

noted: list[int] = []
"""Signals that came meanwhile, where they cannot be blocked."""


def note(number: int, _frame: object) -> None:
    """Note a signal for later."""
    noted.append(number)


def hold_back() -> None:
    """Block the stop signals until :func:`mprelay.system.signals.release`, or note them."""
    if hasattr(_signal, "pthread_sigmask"):
        try:  # noqa: SIM105 - contextlib would have to be loaded
            _signal.pthread_sigmask(_signal.SIG_BLOCK, NUMBERS)
        except OSError:  # a sandbox refuses it
            pass
    else:
        for number in NUMBERS:
            _signal.signal(number, note)
