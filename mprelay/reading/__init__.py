"""The process that reads the files of the ACL again (:mod:`mprelay.reading.process`).

The supervisor loads this file too, because it names :func:`main`. So nothing else is loaded here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mprelay.system.oneway import End


def main(question: "End", answer: "End") -> None:
    """Read the rules once (the entry point of the process). Both pipes are its own."""
    from mprelay.reading.process import run  # noqa: PLC0415 - not in the supervisor

    run(question, answer)
