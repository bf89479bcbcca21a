"""Reads the files of the ACL again, so that no loop waits for a disk, or for the parsing of 100,000 entries.

    supervisor ── the rules, digests of the list in force ─▶ run ── what was read ─▶ supervisor

The process lives for one reading. If it hangs, in a file system that does not answer, only the reading fails.
"""

import io
import os
import pickle
from array import array
from contextlib import suppress

from mprelay.channel import helper
from mprelay.config.rules import Rules, reread
from mprelay.system import files, oneway


def run(question: oneway.End, answer: oneway.End) -> None:
    """Read the rules, answer and exit. An exception ends the process; its stderr is kept by the supervisor."""
    helper.settle("mprelay: rules", "mprelay-rules")
    asked = io.BytesIO(helper.receive(question))
    rules: Rules = pickle.load(asked)  # noqa: S301 - from our supervisor
    digests = array("Q")
    digests.frombytes(asked.read())
    found = reread(rules, digests, files.read, quotes=not files.privileged())
    with suppress(BrokenPipeError):  # nobody wants it any more
        helper.Answering(answer).send(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
    os._exit(0)  # the kernel closes what is open
