"""A Unix socket at a path: whose it is, and what it may replace."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: Unix sockets", allow_module_level=True)

import fcntl

from support.waiting import PATIENCE

from mprelay.system import unix_socket_posix
from mprelay.system.unix_socket import Listener, Unusable, hung_up, may_ask


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def left_socket(path):
    """A socket to which nobody listens."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_it_is_for_this_user_alone_and_leaves_nothing(tmp_path):
    """Whatever the umask is, and that stays as it was."""
    before = os.umask(0)
    try:
        listener = Listener(str(tmp_path / "s"))
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert mode(tmp_path / "s") == 0o600
    assert [*tmp_path.iterdir()] == [tmp_path / "s"]
    assert not os.get_inheritable(listener.fileno())
    listener.remove()
    listener.close()
    assert [*tmp_path.iterdir()] == []


def test_the_kernel_says_who_connects(tmp_path):
    """And that only this user and root may ask."""
    listener = Listener(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        accepted, uid, pid = listener.accept()
        assert (uid, pid) == (os.getuid(), os.getpid())
        assert may_ask(uid)
        assert may_ask(0)
        assert not may_ask(uid + 1)
        assert accepted.gettimeout() == 0
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
        assert not hung_up(accepted)
        client.close()
        assert hung_up(accepted)
        accepted.close()
        with pytest.raises(BlockingIOError):
            listener.accept()
    listener.close()
    listener.remove()


def test_a_socket_that_was_left_is_replaced(tmp_path):
    """Its process has ended without a chance to remove it."""
    left_socket(tmp_path / "s")
    listener = Listener(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    assert [*tmp_path.iterdir()] == [tmp_path / "s"]
    listener.close()
    listener.remove()


@pytest.mark.parametrize("is_left", [False, True])
def test_of_three_that_begin_at_once_only_one_has_the_path(tmp_path, is_left):
    """Whether the path is free, or has a dead socket. The others take nothing from it."""
    for _ in range(100):
        if is_left:
            left_socket(tmp_path / "s")
        won, lost = [], []
        barrier = threading.Barrier(3)

        def begin(barrier=barrier, won=won, lost=lost):
            barrier.wait()
            try:
                won.append(Listener(str(tmp_path / "s")))
            except Unusable as why:
                lost.append(str(why))

        threads = [threading.Thread(target=begin) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lost == ["belongs to a relay that is running"] * 2
        (listener,) = won
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
        assert [*tmp_path.iterdir()] == [tmp_path / "s"]
        listener.remove()
        listener.close()


def test_nothing_is_looked_at_while_another_one_begins(tmp_path, monkeypatch):
    """Its socket may look dead just then. It is waited for, but not for ever."""
    left_socket(tmp_path / "s")
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    monkeypatch.setattr(unix_socket_posix, "_LOCK_LIMIT", 0)
    with pytest.raises(Unusable, match="another process has locked"):
        Listener(str(tmp_path / "s"))
    monkeypatch.setattr(unix_socket_posix, "_LOCK_LIMIT", PATIENCE)

    def pause(_seconds):
        """Meanwhile the other one gets its path."""
        (tmp_path / "s").unlink()
        (tmp_path / "s").write_text("precious")
        fcntl.flock(directory, fcntl.LOCK_UN)

    monkeypatch.setattr(unix_socket_posix.time, "sleep", pause)
    with pytest.raises(Unusable, match="is a file"):
        Listener(str(tmp_path / "s"))
    os.close(directory)


def test_a_directory_that_cannot_be_locked_is_refused(tmp_path, monkeypatch):
    """NFS locks for writing only what is open for writing, which no directory is."""

    def flock(_descriptor, _how):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(Unusable, match="cannot be locked: Bad file descriptor"):
        Listener(str(tmp_path / "s"))


FIRST_NAME = ".mprelay-0123456789abcdef"


@pytest.mark.parametrize("call", ["listen", "link", "unlink"])
def test_what_a_killed_one_left_beside_the_path_is_removed(tmp_path, call):
    """By the next one there. It was killed before this call."""
    where = "socket.socket" if call == "listen" else "os"
    code = f"""
import os, signal, socket, sys
from mprelay.system.unix_socket import Listener
{where}.{call} = lambda *_given, **_named: os.kill(os.getpid(), signal.SIGKILL)
Listener(sys.argv[1])
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], timeout=PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob(".mprelay-*")]
    listener = Listener(str(tmp_path / "s"))
    assert [*tmp_path.iterdir()] == [tmp_path / "s"]
    listener.remove()
    listener.close()


def of_another_user(path):
    """A dead socket that is not ours."""
    left_socket(path)
    os.chown(path, 65534, -1)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (FIRST_NAME, lambda path: path.write_text("precious")),
        (FIRST_NAME, lambda path: path.mkdir()),
        (FIRST_NAME, lambda path: path.symlink_to("dead")),
        (FIRST_NAME, os.mkfifo),
        pytest.param(FIRST_NAME, of_another_user, marks=pytest.mark.skipif(os.geteuid() != 0, reason="chown(2)")),
        (".mprelay-0123456789abcde", left_socket),
        (".mprelay-0123456789abcdef0", left_socket),
        (".mprelay-0123456789abcdeF", left_socket),
        ("dead2", left_socket),
    ],
)
def test_what_no_relay_has_left_beside_it_stays(tmp_path, name, make):
    """Nothing but a dead socket of ours, with such a name. What a link leads to stays too."""
    left_socket(tmp_path / "dead")
    make(tmp_path / name)
    before = os.lstat(tmp_path / name)
    listener = Listener(str(tmp_path / "s"))
    assert os.lstat(tmp_path / name).st_ino == before.st_ino
    assert {path.name for path in tmp_path.iterdir()} == {"s", "dead", name}
    listener.remove()
    listener.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_living_one_beside_it_stays(tmp_path, kind):
    """Whatever its name is, and of whatever kind."""
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(tmp_path / FIRST_NAME))
        if kind != socket.SOCK_DGRAM:
            other.listen()
        listener = Listener(str(tmp_path / "s"))
        assert (tmp_path / FIRST_NAME).exists()
        listener.remove()
        listener.close()


def test_a_living_one_is_not(tmp_path):
    """Even if its backlog is full."""
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as first:
        other.bind(str(tmp_path / "s"))
        other.listen(0)
        first.connect(str(tmp_path / "s"))
        for _ in range(2):
            with pytest.raises(Unusable, match="a relay that is running"):
                Listener(str(tmp_path / "s"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("precious"), "is a file"),
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "is a FIFO"),
        (lambda path: path.symlink_to("nowhere"), "is a link"),
        (lambda path: path.symlink_to("victim"), "is a link"),
    ],
)
def test_what_is_no_socket_stays(tmp_path, make, words):
    """A link is not followed, wherever it leads."""
    (tmp_path / "victim").write_text("precious")
    make(tmp_path / "s")
    before = os.lstat(tmp_path / "s")
    with pytest.raises(Unusable, match=words):
        Listener(str(tmp_path / "s"))
    assert os.lstat(tmp_path / "s").st_ino == before.st_ino
    assert (tmp_path / "victim").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"s", "victim"}


def test_a_device_stays():
    """The error names what it is."""
    with pytest.raises(Unusable, match="is a device"):
        Listener("/dev/null")


def test_a_socket_of_another_kind_stays(tmp_path):
    """A datagram socket is somebody's: its reader may be there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        with pytest.raises(Unusable, match="of another kind"):
            Listener(str(tmp_path / "s"))


def test_a_directory_must_be_there(tmp_path):
    """Nothing is made for it."""
    with pytest.raises(FileNotFoundError):
        Listener(str(tmp_path / "no" / "s"))


def test_what_has_taken_its_place_is_not_removed(tmp_path):
    """Another relay's socket, or a file."""
    listener = Listener(str(tmp_path / "s"))
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("precious")
    listener.close()
    listener.remove()
    assert (tmp_path / "s").read_text() == "precious"


def test_a_directory_that_is_gone_is_no_trouble(tmp_path):
    """At the end."""
    (tmp_path / "d").mkdir()
    listener = Listener(str(tmp_path / "d" / "s"))
    (tmp_path / "d" / "s").unlink()
    (tmp_path / "d").rmdir()
    listener.close()
    listener.remove()
