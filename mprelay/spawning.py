"""How the relay's processes start: by multiprocessing's *spawn*, and never interrupted by a stop signal.

Start method *spawn*, by name: with *fork* a child inherits the other workers' channel ends, and the end of a
channel would never come.
"""

import multiprocessing
import multiprocessing.process
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from mprelay import signals


def start(target: Callable[..., None], args: tuple[Any, ...], name: str) -> multiprocessing.process.BaseProcess:
    """Start a process that runs `target`. OSError: no process, or no descriptors, to be had."""
    with signals.held():
        # Started with the first process anyway, but then within the next `held`, whose mask it undoes. It makes
        # itself deaf to SIGINT and SIGTERM alone; the other stop signals stay blocked in it.
        resource_tracker.ensure_running()
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, name=name)
    with signals.held():
        process.start()
    return process


def end_helper() -> None:
    """End the helper process that multiprocessing keeps, so that nothing is left running.

    By force: it has nothing to clean up (:mod:`mprelay.uplink`, rule 1), and it could be stopped (SIGSTOP).
    """
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001 - there is no public way
    if tracker._pid is not None:  # noqa: SLF001
        signals.kill(tracker._pid)  # noqa: SLF001
    tracker._stop()  # noqa: SLF001
