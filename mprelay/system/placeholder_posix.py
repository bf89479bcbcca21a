"""A closed standard stream is replaced by a socket whose other end is closed.

/dev/null would do too, but a sandbox may lack it.
"""

import socket


def fill(_descriptor: int) -> None:
    """Fill the place `descriptor`, which must be the lowest that is free. Raises OSError."""
    place, other = socket.socketpair()  # the kernel gives the lowest free number: this one
    place.detach()
    other.close()
