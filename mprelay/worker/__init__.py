"""The worker processes: each relays the sessions that are handed to it.

What is loaded here is loaded by the supervisor too, which names :func:`main` and needs nothing else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mprelay.channel.up import Queue
    from mprelay.core.protocol import Settings
    from mprelay.system.passing import End


def main(settings: "Settings", inbox: "End", queue: "Queue") -> None:
    """Be a worker until the inbox ends (the entry point of the process). Both channels are its own."""
    from mprelay.worker.process import run  # noqa: PLC0415 - not in the supervisor

    run(settings, inbox, queue)
