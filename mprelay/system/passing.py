"""Passing sockets to another process, by the variant that this platform has.

    one process: channel() ─▶ ours, theirs; Sender(ours, pid) ── messages, sockets ─▶ the other: Receiver(theirs)

`theirs` goes to the other process with its arguments. `ours` is wrapped once that process runs and has a pid.

Rules of each variant:

1. A message, bytes with descriptors of sockets, arrives whole and once, or not at all.
2. Ownership: after :meth:`Sender.send` returned, the message owns the sockets; the sender closes its copies at
   once and never touches them again. When it raises, the caller still owns them. A message that nobody receives
   is closed by the kernel with what is in it, which resets the clients.
3. A receiver that has no room for all descriptors gets the first ones, in order.
4. A process that the receiver starts does not inherit what it received.
5. The end comes after all messages, whether the sender closed the channel or died.
"""

import socket
import sys

from mprelay.system.errnos import errno_name

if sys.platform == "linux":
    from mprelay.system.passing_rights import MECHANISM, End, Receiver, Sender, channel, missing, pass_one
else:
    from mprelay.system.passing_share import MECHANISM, End, Receiver, Sender, channel, missing, pass_one

__all__ = ["End", "NoPassing", "NoSockets", "Receiver", "Sender", "channel", "missing", "probe"]


class NoSockets(Exception):  # noqa: N818 - it says what is the matter
    """The system gives no local sockets at all (message 9)."""

    def __init__(self, failure: OSError) -> None:
        super().__init__(failure)
        self.errno = failure.errno


class NoPassing(Exception):  # noqa: N818 - it says what is the matter
    """The system cannot pass a socket to another process (message 10)."""


def probe() -> None:
    """Pass a socket to ourselves. Raises NoSockets or NoPassing if that does not work."""
    try:
        ours, theirs = channel()
    except OSError as failure:
        raise NoSockets(failure) from failure
    with ours, theirs:
        try:
            descriptors = pass_one(ours, theirs)
        except OSError as failure:
            raise NoPassing(f"{MECHANISM}: {errno_name(failure.errno)}") from failure
        if not descriptors:
            raise NoPassing(f"{MECHANISM}: the message arrived without its descriptor")
        socket.close(descriptors[0])
