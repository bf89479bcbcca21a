"""How many CPUs this process may use, on Windows: those of its affinity (``start /affinity``)."""

import ctypes
import os
import sys

assert sys.platform == "win32"  # noqa: S101 - for mypy, which checks the other platforms too


def usable() -> int:
    """Count the CPUs that this process may use, at least one."""
    kernel = ctypes.WinDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.GetProcessAffinityMask.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    ours, systems = ctypes.c_size_t(), ctypes.c_size_t()
    kernel.GetProcessAffinityMask(kernel.GetCurrentProcess(), ctypes.byref(ours), ctypes.byref(systems))
    return ours.value.bit_count() or os.cpu_count() or 1  # 0: it has CPUs of several groups, of 64 each
