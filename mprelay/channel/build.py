"""Which program a process runs. Supervisor and worker load it at different times."""

import zlib
from typing import Final

from mprelay import __version__
from mprelay.channel import down, up
from mprelay.core.protocol import CloseReason, Settings


def _build() -> str:
    # A CRC is enough, because this guards against mistakes and not against forgery. hashlib would load OpenSSL,
    # which takes 4 ms and 3.7 MiB in each worker.
    shapes = (Settings, *(kind.shape for kind in down.KINDS), *up.KINDS)
    fields = [(shape.__name__, list(shape.__annotations__.items())) for shape in shapes]
    names = [kind.name for kind in down.KINDS]
    everything = repr((fields, names, list(CloseReason), down.TICKET_FORMAT, up.EVENTS_PER_FRAME))
    return f"{__version__} {zlib.crc32(everything.encode()):08x}"


BUILD: Final = _build()
"""The name of the program: its version, and a checksum of the shapes of all that travels between supervisor and
worker. They load the program at different times, and the package may be upgraded in between."""
