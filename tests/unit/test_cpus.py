"""The number of usable CPUs, from the texts that real systems show."""

import math
import os

import pytest

from mprelay.system import cpus_linux as cpus

ONE_HIERARCHY = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
OF_A_CONTAINER = "31 23 0:28 /docker/4f5e /sys/fs/cgroup/cpu,cpuacct ro master:11 - cgroup cgroup rw,cpu,cpuacct"
BOTH = """\
22 1 0:4 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu\\040and\\134more rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
38 31 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1, V2 = ("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",)


@pytest.mark.parametrize(
    ("membership", "mounts", "found"),
    [
        ("0::/\n", ONE_HIERARCHY, [("/sys/fs/cgroup", V2)]),
        (
            "0::/system.slice/my relay.service\n",
            ONE_HIERARCHY,
            [
                ("/sys/fs/cgroup/system.slice/my relay.service", V2),
                ("/sys/fs/cgroup/system.slice", V2),
                ("/sys/fs/cgroup", V2),
            ],
        ),
        ("4:cpu,cpuacct:/docker/4f5e\n0::/docker/4f5e\n", OF_A_CONTAINER, [("/sys/fs/cgroup/cpu,cpuacct", V1)]),
        ("4:cpu,cpuacct:/else:where\n", OF_A_CONTAINER, [("/sys/fs/cgroup/cpu,cpuacct", V1)]),
        ("0::/../other\n", ONE_HIERARCHY, [("/sys/fs/cgroup", V2)]),
        (
            "2:cpuset:/a\n1:cpu,cpuacct:/b\n0::/c\n",
            BOTH,
            [
                ("/sys/fs/cgroup/cpu and\\more/b", V1),
                ("/sys/fs/cgroup/cpu and\\more", V1),
                ("/sys/fs/cgroup/unified/c", V2),
                ("/sys/fs/cgroup/unified", V2),
            ],
        ),
        ("", BOTH, []),
        ("0::/\n", "", []),
        ("nonsense\n::\n", "nonsense - cgroup2\nmore - cgroup\n\n - ", []),
    ],
)
def test_the_groups_that_limit_a_process(membership, mounts, found):
    """Its own group comes first, then those above it, as far as they are mounted here."""
    assert list(cpus.groups(membership, mounts)) == found


@pytest.mark.parametrize(
    ("limit", "many"),
    [
        ("max 100000\n", math.inf),
        ("-1\n 100000\n", math.inf),
        ("150000 100000\n", 1.5),
        ("20000\n 50000\n", 0.4),
        ("400000 100000", 4.0),
    ],
)
def test_a_quota(limit, many):
    """Version 2 has one file, and version 1 has two."""
    assert cpus.cpus(limit) == many


@pytest.mark.parametrize("limit", ["", "100000", "a b", "1 2 3", "0 100000", "100000 0", "-5 100000"])
def test_texts_that_are_not_a_quota(limit):
    """They limit nothing."""
    with pytest.raises(ValueError, match=r".*"):
        cpus.cpus(limit)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of 64 CPUs. A test may add its files."""

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    return tmp_path, write


@pytest.mark.posix("a file name that is no text")
def test_the_smallest_quota_counts_rounded_up(system):
    """Here it is that of a group above ours. A missing or invalid file limits nothing."""
    place, write = system
    write("proc/self/mountinfo", ONE_HIERARCHY.encode())
    write("proc/self/cgroup", b"0::/a/\xff/c\n")
    assert cpus.usable(str(place)) == 64
    write("sys/fs/cgroup/a/\udcff/c/cpu.max", b"900000 100000\n")
    assert cpus.usable(str(place)) == 9
    write("sys/fs/cgroup/a/cpu.max", b"210000 100000\n")
    assert cpus.usable(str(place)) == 3
    write("sys/fs/cgroup/cpu.max", b"nonsense\n")
    write("sys/fs/cgroup/a/\udcff/cpu.max", b"max 100000\n")
    assert cpus.usable(str(place)) == 3
    write("sys/fs/cgroup/a/\udcff/c/cpu.max", b"1000 100000\n")
    assert cpus.usable(str(place)) == 1


def test_version_1(system):
    """There are two files, and the group's name is the host's."""
    place, write = system
    write("proc/self/mountinfo", OF_A_CONTAINER.encode())
    write("proc/self/cgroup", b"4:cpu,cpuacct:/docker/4f5e\n")
    write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", b"250000\n")
    assert cpus.usable(str(place)) == 64
    write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", b"100000\n")
    assert cpus.usable(str(place)) == 3


def test_without_a_quota_the_cpus_of_the_affinity_mask_count(system, monkeypatch):
    """If the system does not report them, the CPUs of the machine count."""
    place, _write = system
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 5}, raising=False)
    assert cpus.usable(str(place)) == 2

    def refused(_pid):
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_getaffinity", refused, raising=False)
    assert cpus.usable(str(place)) == 64
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpus.usable(str(place)) == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.usable(str(place)) == 1
