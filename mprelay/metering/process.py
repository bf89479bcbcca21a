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
        server, trouble = _listen(where["host"], where["port"], source)
        answering.send(orjson.dumps(trouble, option=orjson.OPT_APPEND_NEWLINE))
        if server is not None:
            # Not before: each request asks a question, and nothing may be said before what was sent.
            threading.Thread(target=server.serve, daemon=True).start()
            for line in said:
                source.take(orjson.loads(line))
    except (BrokenPipeError, StopIteration):  # the supervisor is gone
        pass
    os._exit(0)  # threads may hang in connections


def _listen(host: str, port: int, source: Source) -> tuple[Server | None, dict[str, str | None]]:
    """Listen; return what serves, and what is said of it: why it does not, if it does not."""
    try:
        return Server(host, port, source), {"problem": None, "error": None}
    except OSError as failure:
        problem = f"cannot be listened at: {failure.strerror}"
        return None, {"problem": problem, "error": errno_name(failure.errno)}
