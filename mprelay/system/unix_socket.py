"""A Unix socket at a path: made for this user alone, never in the place of what is not ours to remove.

Variants: :mod:`mprelay.system.unix_socket_posix`, :mod:`mprelay.system.unix_socket_none`.

Rules:

1. The socket has mode 0600 from its first moment, and listens before it can be reached under its path.
2. What stands under the path is removed only if it is a socket of this user to which nobody listens, and so
   is a socket beside it whose process was killed before it had its path. A link is not followed.
3. The directory is locked meanwhile. Of processes that begin at the same moment only one has the path.
4. The kernel says who connects. That is this user or root.
"""

import sys

if sys.platform == "win32":
    from mprelay.system.unix_socket_none import PATH_LIMIT, Listener, Unusable, hung_up, may_ask
else:
    from mprelay.system.unix_socket_posix import PATH_LIMIT, Listener, Unusable, hung_up, may_ask

__all__ = ["PATH_LIMIT", "Listener", "Unusable", "hung_up", "may_ask"]
