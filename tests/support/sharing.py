"""Imported in each process of a relay on Linux, this makes it hand sockets over by a pipe, as on Windows.

A stand-in for ``socket.share``: multiprocessing's own way to duplicate a descriptor, by a server in the sender.
"""

import pickle
import struct
import sys
from multiprocessing.resource_sharer import DupFd  # type: ignore[attr-defined,unused-ignore]

from mprelay.system import passing_share

_SIZE = 1000  # bytes of a blob; all must be of one size
_LENGTH = struct.Struct("<I")


def share(descriptor: int, pid: int) -> bytes:
    """Duplicate a socket for another process; return the blob with which it gets it."""
    del pid  # whoever has the blob gets it
    blob = pickle.dumps(DupFd(descriptor))
    return (_LENGTH.pack(len(blob)) + blob).ljust(_SIZE, b"\0")


def received(blob: bytes) -> int:
    """Return the descriptor of the socket that a blob stands for."""
    return int(pickle.loads(blob[_LENGTH.size :][: _LENGTH.unpack_from(blob)[0]]).detach())  # noqa: S301 - from our own supervisor


passing_share._share = share
passing_share._received = received
passing_share.missing = lambda: None
sys.modules["mprelay.system.passing_rights"] = passing_share
