"""What takes the place of a standard stream that was closed, so that no socket gets its number."""

import sys

if sys.platform == "win32":
    from mprelay.system.placeholder_windows import fill
else:
    from mprelay.system.placeholder_posix import fill

__all__ = ["fill"]
