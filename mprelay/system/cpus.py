"""How many CPUs this process may use: the default number of workers."""

import sys

if sys.platform == "win32":
    from mprelay.system.cpus_windows import usable
else:
    from mprelay.system.cpus_linux import usable

__all__ = ["usable"]
