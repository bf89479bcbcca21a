"""The titles of the relay's processes, as ps(1) and top(1) show them.

The command's name has room for 15 characters and can always be set (proc(5), /proc/self/comm). For the whole
title the command line must be overwritten where the kernel reads it. The package setproctitle does that, if it is
installed. Only its extension module is loaded, because each worker pays the price.
"""

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder


def show(title: str, name: str) -> None:
    """Show `title` instead of the command line, if possible, and `name` instead of the command's name."""
    if sys.platform != "linux":
        return
    with suppress(ImportError, AttributeError, OSError):
        _setproctitle(os.fsencode(title).decode("utf-8", "replace"))
    with suppress(OSError):  # no /proc, or a read-only one
        comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(comm, name.encode())
        finally:
            os.close(comm)


def _setproctitle(title: str) -> None:
    """Load the extension module without its package, which would load logging."""
    package = PathFinder.find_spec("setproctitle")
    spec = PathFinder.find_spec("_setproctitle", package.submodule_search_locations if package else [])
    if spec is None or spec.loader is None:
        raise ImportError("setproctitle is not installed")
    from importlib.util import module_from_spec  # noqa: PLC0415 - only needed if there is something to load

    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.setproctitle(title)
