"""A bad network: two network namespaces, and between them a cable that loses, delays and reorders packets.

    near ── tun ──▶ Cable (a thread) ──▶ tun ── far          192.0.2.1 is near, 192.0.2.2 far, and all of 10/8

A namespace without a name lives as long as a process holds a descriptor of it (namespaces(7)), so nothing is left
behind in any case. A socket, a device and a process belong to the namespace of the thread that made them.
This module does in Python what ``tc netem`` does in the kernel, because not every kernel has that.
"""

import contextlib
import ctypes
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Final

with contextlib.suppress(ImportError):  # Windows has none
    import fcntl

NEAR: Final = "192.0.2.1"
FAR: Final = "192.0.2.2"
MANY: Final = "10.0.0.0/8"
"""More addresses that are far."""

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_TUN_WITHOUT_HEADER: Final = 0x1001  # IFF_TUN | IFF_NO_PI
_MTU: Final = 1500

_libc = ctypes.CDLL(None if os.name == "posix" else "msvcrt", use_errno=True)


class NotHere(Exception):  # noqa: N818 - the name states the condition
    """This machine, or this user, cannot have namespaces or TUN devices."""


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """A separate network."""

    def __init__(self) -> None:
        with _own_namespace() as own:
            _checked(_libc.unshare(_CLONE_NEWNET))
            try:
                self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            finally:
                _checked(_libc.setns(own, _CLONE_NEWNET))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread's new sockets and processes into the namespace."""
        with _own_namespace() as own:
            _checked(_libc.setns(self._descriptor, _CLONE_NEWNET))
            try:
                yield
            finally:
                _checked(_libc.setns(own, _CLONE_NEWNET))

    def run(self, *command: str) -> None:
        """Run a command in the namespace."""
        with self.inside():
            subprocess.run(command, check=True)

    @contextlib.contextmanager
    def device(self, address: str, other: str) -> Iterator[int]:
        """Make a TUN device with a route to `other`. Yields the descriptor of the packets that leave by it."""
        with contextlib.ExitStack() as stack:
            with self.inside():
                descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                stack.callback(os.close, descriptor)
                fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"cable", _TUN_WITHOUT_HEADER))
            self.run("ip", "address", "add", address, "peer", other, "dev", "cable")
            # Without its own IPv6 address the kernel sends nothing unasked.
            self.run("ip", "link", "set", "cable", "mtu", str(_MTU), "addrgenmode", "none", "up")
            yield descriptor

    def close(self) -> None:
        """Close the namespace."""
        os.close(self._descriptor)


@contextlib.contextmanager
def _own_namespace() -> Iterator[int]:
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Cable:
    """The connection between two devices (:meth:`Namespace.device`), which it does not own.

    Its faults can be changed at any time.
    """

    def __init__(self, devices: tuple[int, int]) -> None:
        self.loss = 0.0
        """The share of packets that get lost."""
        self.delay = 0.0
        self.jitter = 0.0
        """The seconds that each packet takes, and up to how many more, so that some overtake others."""
        self.cut = False
        """Whether no packet gets through."""
        self.passed = self.lost = self.overtaken = 0
        self._dice = random.Random(1)  # noqa: S311 - no secret
        self._devices = devices
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        other = dict(zip(self._devices, reversed(self._devices), strict=True))
        numbers = itertools.count()
        last = dict.fromkeys(self._devices, 0)  # the highest number that came out there
        under_way: list[tuple[float, int, int, bytes]] = []
        poll = select.poll()
        for descriptor in (*self._devices, self._stop):
            poll.register(descriptor, select.POLLIN)
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) * 1000 if under_way else None
            ready = [descriptor for descriptor, _ in poll.poll(wait)]
            if self._stop in ready:
                return
            for descriptor in ready:
                with contextlib.suppress(BlockingIOError):
                    packet = os.read(descriptor, _MTU)
                    if self.cut or self._dice.random() < self.loss:
                        self.lost += 1
                        continue
                    due = time.monotonic() + self.delay + self.jitter * self._dice.random()
                    heapq.heappush(under_way, (due, next(numbers), other[descriptor], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _due, number, descriptor, packet = heapq.heappop(under_way)
                os.write(descriptor, packet)
                self.passed += 1
                self.overtaken += number < last[descriptor]
                last[descriptor] = max(number, last[descriptor])

    def close(self) -> None:
        """Stop carrying packets."""
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)


@contextlib.contextmanager
def lonely_network() -> Iterator[Namespace]:
    """Make a namespace without any connection. NotHere: namespaces are not available."""
    with contextlib.ExitStack() as stack:
        try:
            namespace = stack.enter_context(contextlib.closing(Namespace()))
        except OSError as refused:
            raise NotHere(f"no namespace to be had: {refused}") from refused
        namespace.run("ip", "link", "set", "lo", "up")
        yield namespace


@contextlib.contextmanager
def bad_network() -> Iterator[tuple[Namespace, Namespace, Cable]]:
    """Make two namespaces and the cable between them. NotHere: namespaces or TUN devices are not available."""
    with contextlib.ExitStack() as stack:
        try:
            near = stack.enter_context(contextlib.closing(Namespace()))
            far = stack.enter_context(contextlib.closing(Namespace()))
            devices = (
                stack.enter_context(near.device(NEAR, FAR)),
                stack.enter_context(far.device(FAR, NEAR)),
            )
        except OSError as refused:
            raise NotHere(f"no namespace, or no TUN device, to be had: {refused}") from refused
        for namespace in (near, far):
            namespace.run("ip", "link", "set", "lo", "up")
        near.run("ip", "route", "add", MANY, "dev", "cable")
        far.run("ip", "route", "add", "local", MANY, "dev", "lo")
        cable = stack.enter_context(contextlib.closing(Cable(devices)))
        yield near, far, cable
