"""Unix sockets at a path, and whom they belong to (unix(7))."""

import errno
import os
import secrets
import select
import socket
import stat
import struct
import sys
from contextlib import ExitStack
from typing import Final

assert sys.platform != "win32"  # noqa: S101 - for mypy, which checks the other platforms too

PATH_LIMIT: Final = 107 if hasattr(socket, "SO_PEERCRED") else 0
"""Bytes of a path, at most: sun_path without its NUL (unix(7)). 0: the system does not say who connects."""

_PRIVATE: Final = 0o177  # the umask under which a socket gets mode 0600
_HOLD: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_BACKLOG: Final = 1024  # a connect(2) that does not wait fails if it is full
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
            self._make_way(path)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(self._socket.close)
            self._socket.setblocking(False)  # noqa: FBT003 - socket's signature
            # It gets its name when it listens already. Before that, another relay would take it for a dead one.
            first_name = _new_name()
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
            except FileExistsError as failure:
                raise Unusable("belongs to another relay that has just begun") from failure
            finally:
                os.unlink(first_name, dir_fd=self._directory)
            # Held, so that its inode's number goes to no other file.
            self._held = os.open(self._name, _HOLD, dir_fd=self._directory)
            undo.pop_all()

    def _make_way(self, path: str) -> None:
        """Remove a socket of ours that is left from a process that has ended."""
        try:
            held = os.open(self._name, _HOLD, dir_fd=self._directory)
        except FileNotFoundError:
            return
        try:
            self._replace(held, path)
        except FileNotFoundError as failure:
            raise Unusable("was taken by another relay that has just begun") from failure
        finally:
            os.close(held)

    def _replace(self, held: int, path: str) -> None:
        found = os.fstat(held)
        if not stat.S_ISSOCK(found.st_mode):
            raise Unusable(f"is {_kind(found.st_mode)}, which stays as it is")
        if found.st_uid != os.geteuid():
            raise Unusable("is a socket of another user")
        if _listens(path):
            raise Unusable("belongs to a relay that is running")
        # Renamed first: what stands there by now may be another one, which then gets its name back.
        aside = _new_name()
        here = self._directory
        os.rename(self._name, aside, src_dir_fd=here, dst_dir_fd=here)
        if not os.path.samestat(os.stat(aside, dir_fd=here, follow_symlinks=False), found):
            os.link(aside, self._name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
            os.unlink(aside, dir_fd=here)
            raise Unusable("belongs to another relay that has just begun")
        os.unlink(aside, dir_fd=here)

    def _bind(self, name: str) -> None:
        """Bind to a name in the directory. There is no bindat(2) on Linux."""
        try:
            before = os.open(".", os.O_PATH | os.O_CLOEXEC)
        except PermissionError:  # whoever started the relay was in a directory that this user may not search
            before = os.open("/", os.O_PATH | os.O_CLOEXEC)
        mask = os.umask(_PRIVATE)
        try:
            os.fchdir(self._directory)
            self._socket.bind(name)
        finally:
            os.umask(mask)
            os.fchdir(before)
            os.close(before)

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


def _new_name() -> str:
    """Return a name that nobody has. A pid would not do: containers that share a directory have the same ones."""
    return f".mprelay-{secrets.token_hex(8)}"


def may_ask(uid: int) -> bool:
    """Tell whether a peer is this user or root."""
    return uid in {os.geteuid(), 0}


def hung_up(sock: socket.socket) -> bool:
    """Tell whether the peer has closed its socket, and not only ended its own sending (poll(2), POLLHUP)."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def _listens(path: str) -> bool:
    """Tell whether a process listens to the socket at this path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError as failure:
            if failure.errno == errno.EPROTOTYPE:  # a datagram socket has a reader, or it has none
                raise Unusable("is a socket of another kind") from failure
            if failure.errno != errno.EAGAIN:  # its backlog is full
                raise
    return True


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
