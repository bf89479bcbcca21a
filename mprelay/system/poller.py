"""Readiness of descriptors: one Poller, of the variant that this platform has.

``selectors`` folds hang-up and error into readable and writable, which is too coarse for a relay, and
``multiprocessing.connection.wait`` builds a selector at each call.

On a platform without a variant importing works, and :func:`missing` names what it lacks.
"""

import sys

if sys.platform == "linux":
    from mprelay.system.poller_epoll import EDGE, END, ERROR, HANGUP, READ, URGENT, WRITE, Poller, missing
else:
    from mprelay.system.poller_none import EDGE, END, ERROR, HANGUP, READ, URGENT, WRITE, Poller, missing

__all__ = ["EDGE", "END", "ERROR", "HANGUP", "READ", "URGENT", "WRITE", "Poller", "missing"]
