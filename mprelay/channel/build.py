"""Which program a process runs. Supervisor and worker load it at different times."""

import zlib
from typing import Final

from mprelay import __version__
from mprelay.channel.down import TICKET_FORMAT
from mprelay.channel.up import FRAME, KINDS
from mprelay.core.protocol import CloseReason, Settings, Ticket


def _build() -> str:
    # A CRC is enough: this guards against mistakes, not against forgery. hashlib would load OpenSSL, which takes
    # 4 ms and 3.7 MiB in each worker.
    fields = [(shape.__name__, list(shape.__annotations__.items())) for shape in (Settings, Ticket, *KINDS)]
    shapes = repr((fields, list(CloseReason), TICKET_FORMAT, FRAME))
    return f"{__version__} {zlib.crc32(shapes.encode()):08x}"


BUILD: Final = _build()
"""Names the program: its version, and a checksum of the shapes of all that travels between supervisor and worker.
They load the program at different times, and the package may be upgraded in between."""
