"""The outlet process: it owns stdout and stderr, and nothing else (:mod:`mprelay.outlet.copying`).

What is loaded here is loaded by the supervisor too, which names :func:`main` and needs nothing else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


def main(
    records: "socket.socket", complaints: "socket.socket", voice: "socket.socket", stdout: int, stderr: int
) -> None:
    """Be the outlet until the end of the records (the entry point of the process). All arguments are its own."""
    from mprelay.outlet.copying import run  # noqa: PLC0415 - not in the supervisor

    run(records, complaints, voice, stdout, stderr)
