"""A process as /proc shows it: descriptors, children, limits."""

import contextlib
import os
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from support.waiting import eventually

with contextlib.suppress(ImportError):  # Windows has none
    import resource


def opened(pid: int | str, descriptor: int) -> str:
    """The target of a process's descriptor, as /proc shows it. OSError: the descriptor is closed."""
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


def links(pid: int | str) -> dict[int, str]:
    """The target of each descriptor of a process, as /proc shows it."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            found[int(entry.name)] = str(entry.readlink())
    return found


def open_files(pid: int) -> int:
    """The number of a process's descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def outlet_of(pid: int) -> psutil.Process:
    """The child of a relay that owns stdout: the only one whose descriptor 1 is not the relay's."""
    found = []

    def is_there() -> bool:
        for child in psutil.Process(pid).children():
            with contextlib.suppress(OSError):  # the process has ended, or has no descriptor 1
                if opened(child.pid, 1) != opened(pid, 1):
                    found.append(child)
        return bool(found)

    eventually(is_there, "an outlet")
    return found[0]


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers of a relay whose records cannot be read."""
    outlet = outlet_of(pid)
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if child != outlet and child.name().startswith("mprelay-w"):
                found.append(child)
    return found


@contextlib.contextmanager
def limit(pid: int, what: int, soft: int) -> Iterator[None]:
    """Lower a limit of a running process for a while."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def descriptors(pid: int, kind: str = "") -> list[int]:
    """The descriptors of a process whose link in /proc starts with `kind`, in ascending order."""
    return sorted(descriptor for descriptor, link in links(pid).items() if link.startswith(kind))


def end_within(seconds: float, processes: list[psutil.Process]) -> bool:
    """Return whether all these processes end in time. :func:`psutil.wait_procs` may notice that a second late."""
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        ends = []
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                ends.append(stack.enter_context(os.fdopen(os.pidfd_open(process.pid), "rb")))
        return all(select.select([end], [], [], max(0, deadline - time.monotonic()))[0] for end in ends)


def listens_at(port: int) -> bool:
    """Return whether anything listens at a port, on any address (proc_net_tcp)."""
    return _has_socket(rf"[0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A")


def connects_to(port: int) -> bool:
    """Return whether somebody waits for a connection to a port (SYN_SENT)."""
    return _has_socket(rf"[0-9A-F]+:[0-9A-F]+ [0-9A-F]+:{port:04X} 02")


def _has_socket(form: str) -> bool:
    line = re.compile(rf" *\d+: {form} ")
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    return any(line.match(text) for table in tables for text in table.read_text().splitlines())
