"""Readiness of descriptors: one Poller, of the variant that this platform has.

``selectors`` folds hang-up and error into readable and writable, which is too coarse for a relay, and
``multiprocessing.connection.wait`` builds a selector at each call.

Rules of each variant:

1. Without EDGE, readiness is level-triggered.
2. TELLS_EDGES says whether a variant knows EDGE. If it does, a descriptor added with EDGE is told of when
   something is new, and forgotten when it is closed. If not, such a descriptor is not watched: whoever added it
   needs another way.
3. Any other descriptor must be removed before it is closed.
"""

import sys

if sys.platform == "linux":
    from mprelay.system.poller_epoll import (
        EDGE,
        END,
        ERROR,
        HANGUP,
        READ,
        TELLS_EDGES,
        URGENT,
        WRITE,
        Poller,
        missing,
    )
else:
    from mprelay.system.poller_select import (
        EDGE,
        END,
        ERROR,
        HANGUP,
        READ,
        TELLS_EDGES,
        URGENT,
        WRITE,
        Poller,
        missing,
    )

__all__ = ["EDGE", "END", "ERROR", "HANGUP", "READ", "TELLS_EDGES", "URGENT", "WRITE", "Poller", "missing"]
