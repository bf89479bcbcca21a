"""How many CPUs this process may use, on Linux. The only file that knows cgroups.

Three things limit the number: the machine, the set of CPUs that the process may run on (taskset, a container's
cpuset), and the CPU time that its control groups get in each period (a container's ``--cpus``, a unit's
CPUQuota=). With more workers than that quota allows, all of them stand still together when it is used up.

A group cannot have more than the groups above it, so the least quota counts, rounded up. A quota that cannot be
read or understood is no limit.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

_V1_FILES: Final = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
_V2_FILES: Final = ("cpu.max",)
_MOUNT_FIELDS: Final = 5  # up to the mount point


def usable(root: str = "/") -> int:
    """Count the CPUs that this process may use, at least one."""
    return max(1, min(_allowed(), math.ceil(_quota(Path(root)))))


def _allowed() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        with suppress(OSError):  # a sandbox refuses it
            return len(affinity(0))
    return os.cpu_count() or 1


def _quota(root: Path) -> float:
    """Read the least quota of our own groups and of those above them, in CPUs."""

    def read(path: str) -> str:
        return (root / path.lstrip("/")).read_text(encoding="utf-8", errors="surrogateescape")

    least: float = os.cpu_count() or 1
    with suppress(OSError):
        for directory, names in groups(read("/proc/self/cgroup"), read("/proc/self/mountinfo")):
            with suppress(OSError, ValueError):
                least = min(least, cpus(" ".join(read(f"{directory}/{name}") for name in names)))
    return least


def groups(membership: str, mounts: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Find the groups that limit this process: for each its directory and the names of the files with its quota.

    Args:
        membership: The text of /proc/self/cgroup (cgroups(7)): hierarchy, controllers and path of each group.
        mounts: The text of /proc/self/mountinfo (proc(5)): where each hierarchy, or a part of it, is mounted.

    """
    paths = {}
    for line in membership.splitlines():
        _hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts.splitlines():
        what, _, kind = line.partition(" - ")
        fields, (file_system, *more) = what.split(" "), kind.split(" ")
        version_1 = file_system == "cgroup" and "cpu" in ",".join(more).split(",")
        controller = "cpu" if version_1 else ""
        if not (version_1 or file_system == "cgroup2") or controller not in paths or len(fields) < _MOUNT_FIELDS:
            continue
        for directory in _upwards(paths[controller], _plain(fields[3]), _plain(fields[4])):
            yield directory, _V1_FILES if version_1 else _V2_FILES


def _upwards(path: str, shown: str, mounted: str) -> Iterable[str]:
    """Name the directories of the group `path` and of all above it; `shown` is mounted at `mounted`.

    A container without a cgroup namespace may see only its own group, under the path that the host knows.
    """
    try:
        below = PurePosixPath(path).relative_to(shown)
    except ValueError:
        below = PurePosixPath()
    if ".." in below.parts:  # outside of what is visible here
        below = PurePosixPath()
    return [str(PurePosixPath(mounted, part)) for part in (below, *below.parents)]


def _plain(field: str) -> str:
    """Undo the octal escapes in a mount's path (proc(5)): blank, tab, newline and backslash."""
    for character in " \t\n\\":
        field = field.replace(f"\\{ord(character):03o}", character)
    return field


def cpus(limit: str) -> float:
    """Convert a quota and its period, both in microseconds, to CPUs. Raises ValueError if they are no quota."""
    quota, period = limit.split()
    if quota in {"max", "-1"}:
        return math.inf
    if int(quota) <= 0 or int(period) <= 0:
        raise ValueError(f"no quota: {limit!r}")
    return int(quota) / int(period)
