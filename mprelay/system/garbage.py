"""How often the interpreter looks for cycles."""

import gc
from typing import Final

_THRESHOLD: Final = 50_000
"""Containers made before the collector looks for cycles. This program makes none. With the default of 700 the
collector would walk all sessions many times a second under load."""


def collect_rarely() -> None:
    """Exclude everything loaded so far from collection, and collect the rest rarely."""
    gc.freeze()
    gc.set_threshold(_THRESHOLD)
