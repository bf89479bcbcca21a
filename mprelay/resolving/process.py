"""Looks the target's name up again and again, so that no loop waits for a resolver.

    supervisor ── the target, the interval, the first pause ─▶ run ── an answer after each look-up ─▶ supervisor

One look-up is under way at most, and each takes a few seconds at most (:mod:`mprelay.system.names`). What cannot
be used is left out here, because that asks the system too.
"""

import os
import pickle
import time
from contextlib import suppress

import orjson

from mprelay.channel import helper
from mprelay.config.host import Host
from mprelay.config.targets import Target, look_up
from mprelay.system import addresses, names, oneway


def run(question: oneway.End, answer: oneway.End) -> None:
    """Look up and answer again and again. An exception ends the process; the supervisor keeps its stderr."""
    helper.settle("mprelay: resolver", "mprelay-names")
    target: Target
    pause: float
    target, interval, pause = pickle.loads(helper.receive(question))  # noqa: S301 - from our supervisor
    host = Host(
        is_broadcast=addresses.is_broadcast,
        own_addresses=addresses.own_addresses,
        look_up=names.look_up,
        has_route=addresses.has_route,
    )
    answering = helper.Answering(answer)
    with suppress(BrokenPipeError):  # nobody wants it any more
        answering.send(b"")
        while True:
            time.sleep(pause)
            answering.send(orjson.dumps([*look_up(target, host)]) + b"\n")
            pause = interval
    os._exit(0)
