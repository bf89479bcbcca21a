"""How often the interpreter looks for cycles."""

import gc
from typing import Final

_THRESHOLD: Final = 50_000
"""Containers made before the collector looks for cycles. Nothing here makes cycles. With the default of 700 it
walks all sessions many times a second under load."""


def collect_rarely() -> None:
    """Leave what is loaded alone, and look at the rest rarely."""
    gc.freeze()
    gc.set_threshold(_THRESHOLD)
