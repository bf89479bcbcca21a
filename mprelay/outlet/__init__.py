"""The outlet process: it owns stdout and stderr, and nothing else (:mod:`mprelay.outlet.copying`).

The supervisor loads this file too, because it names :func:`main`. So nothing else is loaded here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mprelay.system.stdio import ComplaintEnd, RecordEnd


def main(records: "RecordEnd", complaints: "ComplaintEnd", voice: "ComplaintEnd", *files: int) -> None:
    """Be the outlet until the end of the records (the entry point of the process). It owns all its arguments."""
    from mprelay.outlet.copying import run  # noqa: PLC0415 - not in the supervisor

    run(records, complaints, voice, *files)
