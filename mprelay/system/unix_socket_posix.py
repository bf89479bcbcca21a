"""Unix sockets at a path, and whom they belong to (unix(7))."""

import errno
import fcntl
import os
import re
import secrets
import select
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Final

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

PATH_LIMIT: Final = 107 if hasattr(socket, "SO_PEERCRED") else 0
"""Bytes of a path, at most: sun_path without its NUL (unix(7)). 0: the system does not say who connects."""

_PRIVATE: Final = 0o177  # the umask under which a socket gets mode 0600
_HOLD: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_BACKLOG: Final = 1024  # a connect(2) that does not wait fails if it is full
_FIRST_NAME: Final = re.compile(r"\.mprelay-[0-9a-f]{16}")
_ENTRIES_LIMIT: Final = 10_000  # of a directory that are looked at: some milliseconds
_LOCK_LIMIT: Final = 5.0  # seconds; relays hold the lock for less than a millisecond
_LOCK_PAUSE: Final = 0.01  # seconds until it is tried again
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Unusable(Exception):  # noqa: N818 - it says what the path is
    """The path cannot be used, and why."""


class Listener:
    """Listens at an absolute path. Raises Unusable, or OSError."""

    def __init__(self, path: str) -> None:
        directory, self._name = os.path.split(path)
        with ExitStack() as undo:
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._directory)
            self._lock()  # closing the directory takes the lock back
            self._make_way()
            self._clear()
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(self._socket.close)
            self._socket.setblocking(False)  # noqa: FBT003 - socket's signature
            # It gets its name when it listens already. Before that, an operator would take it for a dead one.
            first_name = (
                f".mprelay-{secrets.token_hex(8)}"  # no pid: containers that share a directory have the same
            )
            self._bind(first_name)
            try:
                self._socket.listen(_BACKLOG)
                os.link(
                    first_name,
                    self._name,
                    src_dir_fd=self._directory,
                    dst_dir_fd=self._directory,
                    follow_symlinks=False,
                )
            finally:
                os.unlink(first_name, dir_fd=self._directory)
            # Held, so that its inode's number goes to no other file.
            self._held = os.open(self._name, _HOLD, dir_fd=self._directory)
            fcntl.flock(self._directory, fcntl.LOCK_UN)
            undo.pop_all()

    def _lock(self) -> None:
        """Keep other relays out of the directory while this one looks at what is there, and gets its own socket.

        The kernel releases the lock of a process that has ended. Others have it for a moment (systemd-tmpfiles).
        """
        until = time.monotonic() + _LOCK_LIMIT
        while True:
            try:
                fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Unusable("is in a directory that another process has locked") from None
                time.sleep(_LOCK_PAUSE)
            except OSError as failure:  # NFS
                raise Unusable(f"is in a directory that cannot be locked: {failure.strerror}") from failure
            else:
                return

    def _make_way(self) -> None:
        """Remove a socket of ours that is left from a process that has ended."""
        with suppress(FileNotFoundError):
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if not stat.S_ISSOCK(found.st_mode):
                raise Unusable(f"is {_kind(found.st_mode)}, which stays as it is")
            if found.st_uid != os.geteuid():
                raise Unusable("is a socket of another user")
            if self._listens(self._name):
                raise Unusable("belongs to a relay that is running")
            os.unlink(self._name, dir_fd=self._directory)

    def _clear(self) -> None:
        """Remove what is left from processes that were killed before their sockets had their names."""
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in islice(entries, _ENTRIES_LIMIT) if _FIRST_NAME.fullmatch(entry.name)]
        for name in names:
            with suppress(Unusable, OSError):  # it is no such socket, and stays
                found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                if stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid() and not self._listens(name):
                    os.unlink(name, dir_fd=self._directory)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Work in the directory. There are no bindat(2) and connectat(2) on Linux."""
        try:
            before = os.open(".", os.O_PATH | os.O_CLOEXEC)
        except PermissionError:  # whoever started the relay was in a directory that this user may not search
            before = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            os.fchdir(self._directory)
            yield
        finally:
            os.fchdir(before)
            os.close(before)

    def _bind(self, name: str) -> None:
        mask = os.umask(_PRIVATE)
        try:
            with self._inside():
                self._socket.bind(name)
        finally:
            os.umask(mask)

    def _listens(self, name: str) -> bool:
        """Tell whether a process listens to the socket of this name."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, self._inside():
            probe.setblocking(False)  # noqa: FBT003
            try:
                probe.connect(name)
            except ConnectionRefusedError:
                return False
            except OSError as failure:
                if failure.errno == errno.EPROTOTYPE:  # a datagram socket has a reader, or it has none
                    raise Unusable("is a socket of another kind") from failure
                if failure.errno != errno.EAGAIN:  # its backlog is full
                    raise
        return True

    def fileno(self) -> int:
        """Return the descriptor that is readable while somebody waits to be accepted."""
        return self._socket.fileno()

    def accept(self) -> tuple[socket.socket, int, int]:
        """Accept a connection; return a socket that does not block, and whose it is: uid and pid.

        That is who called connect(2); the pid is 0 if this process cannot see it. Raises OSError: BlockingIOError
        if nobody waits.
        """
        client, _ = self._socket.accept()
        client.setblocking(False)  # noqa: FBT003
        pid, uid, _gid = _CREDENTIALS.unpack(
            client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return client, uid, pid

    def close(self) -> None:
        """Listen no more. Nobody can connect from now on."""
        self._socket.close()

    def remove(self) -> None:
        """Remove the path, unless something else stands there by now. Call it before :meth:`close`."""
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(self._held)):
                os.unlink(self._name, dir_fd=self._directory)
        except OSError:
            pass  # its directory is gone, or no longer ours: the path leads nowhere in any case
        os.close(self._held)
        os.close(self._directory)


def may_ask(uid: int) -> bool:
    """Tell whether a peer is this user or root."""
    return uid in {os.geteuid(), 0}


def hung_up(sock: socket.socket) -> bool:
    """Tell whether the peer has closed its socket, and not only ended its own sending (poll(2), POLLHUP)."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "a link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a FIFO"),
    ):
        if test(mode):
            return name
    return "a device"
