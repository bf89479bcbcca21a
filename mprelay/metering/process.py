"""Serves what the supervisor says of the relay. Whoever asks here, and however slowly, the relay does not notice.

    scraper ──HTTP──▶ server ─▶ source ── a question ─▶ supervisor ── a snapshot ─▶ source ─▶ server ──▶ scraper

It holds nothing of the relay: no listener, no session, no way to stdout. It ends with the supervisor.
"""

import os
import threading

import orjson

from mprelay.channel import helper
from mprelay.metering.server import Server
from mprelay.metering.source import Source
from mprelay.system import oneway
from mprelay.system.errnos import errno_name


def run(question: oneway.End, answer: oneway.End) -> None:
    """Say whether it can serve, and serve. An exception ends the process; the supervisor keeps its stderr."""
    helper.settle("mprelay: metrics", "mprelay-metrics")
    said = helper.lines(question)
    answering = helper.Answering(answer)
    try:
        where = orjson.loads(next(said))
        source = Source(answering.offer)
        _serve(where["host"], where["port"], source, answering)
        for line in said:
            source.take(orjson.loads(line))
    except (BrokenPipeError, StopIteration):  # the supervisor is gone
        pass
    os._exit(0)  # threads may hang in connections


def _serve(host: str, port: int, source: Source, answering: helper.Answering) -> None:
    """Listen, and serve in a thread. Say so, or why not. Raises BrokenPipeError."""
    problem: str | None = None
    error: str | None = None
    try:
        server = Server(host, port, source)
        threading.Thread(target=server.serve, daemon=True).start()
    except OSError as failure:
        problem, error = f"cannot be listened at: {failure.strerror}", errno_name(failure.errno)
    answering.send(orjson.dumps({"problem": problem, "error": error}, option=orjson.OPT_APPEND_NEWLINE))
