"""A helper process that says it is there, and then neither reads nor ends."""

import threading

from mprelay.channel import helper
from mprelay.system import oneway


def main(_question: oneway.End, answer: oneway.End) -> None:
    """Say so, and wait to be killed."""
    helper.settle("mprelay: deaf", "mprelay-deaf")
    helper.Answering(answer).send(b"here\n")
    threading.Event().wait()
