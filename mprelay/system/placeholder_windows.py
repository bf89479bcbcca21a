"""A closed standard stream is replaced by the null device, on Windows, where a socket is no descriptor.

A process without a console has no standard streams, unless they are redirected. Its descriptors 0 to 2 are taken
all the same, and of no use.
"""

import os


def fill(descriptor: int) -> None:
    """Fill the place `descriptor`. Raises OSError."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
