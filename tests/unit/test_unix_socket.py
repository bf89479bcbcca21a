"""A Unix socket at a path: whose it is, and what it may replace."""

import contextlib
import os
import socket
import stat
import sys
import threading

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: Unix sockets", allow_module_level=True)

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


def test_of_two_that_replace_the_same_one_only_one_has_the_path(tmp_path):
    """The number of an inode that is gone is given to the next file at once, so it is no sign of sameness."""
    for _ in range(200):
        left_socket(tmp_path / "s")
        won = []

        def begin(won=won):
            with contextlib.suppress(Unusable, OSError):
                won.append(Listener(str(tmp_path / "s")))

        threads = [threading.Thread(target=begin) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) <= 1
        for listener in won:
            listener.remove()
            listener.close()
        (tmp_path / "s").unlink(missing_ok=True)


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
