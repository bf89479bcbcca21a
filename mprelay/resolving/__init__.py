"""The process that looks the target's name up again and again (:mod:`mprelay.resolving.process`).

The supervisor loads this file too, because it names :func:`main`. So nothing else is loaded here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mprelay.system.oneway import End


def main(question: "End", answer: "End") -> None:
    """Look up until the supervisor ends it (the entry point of the process). Both pipes are its own."""
    from mprelay.resolving.process import run  # noqa: PLC0415 - not in the supervisor

    run(question, answer)
