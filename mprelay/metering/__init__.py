"""The process that serves metrics, health and a page over HTTP (:mod:`mprelay.metering.process`).

    snapshot: what the supervisor says of the relay when it is asked, one JSON object
    source:   asks for snapshots, for all connections together
    history:  what the page draws: a few figures of past snapshots

The supervisor loads this file too, because it names :func:`main`. So nothing else is loaded here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mprelay.system.oneway import End


def main(question: "End", answer: "End") -> None:
    """Serve until the supervisor ends it (the entry point of the process). Both pipes are its own."""
    from mprelay.metering.process import run  # noqa: PLC0415 - not in the supervisor

    run(question, answer)
