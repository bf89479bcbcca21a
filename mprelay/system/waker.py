"""A way to end a :meth:`mprelay.system.poller.Poller.wait` from a signal handler, or from another thread.

Watch :meth:`Waker.fileno` for READ. Any byte written to the descriptor :attr:`Waker.writer` wakes too.
"""

import sys

if sys.platform == "win32":
    from mprelay.system.waker_windows import Waker
else:
    from mprelay.system.waker_posix import Waker

__all__ = ["Waker"]
