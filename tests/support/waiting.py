"""Waits for required events, with a deadline and without sleep."""

import os
import select
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 20.0  # seconds: the timeout of everything that must happen; no test measures time with it


def pass_time(seconds: float) -> None:
    """Sleep. Use this only to show that nothing, or not too much, happens meanwhile."""
    time.sleep(seconds)


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait until `condition()` holds.

    For conditions without a descriptor, record or sentinel to wait on (/proc).
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def read_until(descriptor: int, word: bytes | None) -> bytes:
    """Read until `word` has come, or (None) to the end."""
    data = b""
    deadline = time.monotonic() + PATIENCE
    while word is None or word not in data:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {word!r} in {data!r}"
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # a terminal reports the end as EIO
            part = b""
        if not part:
            assert word is None, f"ended without {word!r}: {data!r}"
            break
        data += part
    return data
