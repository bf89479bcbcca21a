"""Files that a person wrote for the relay: which are read, and which are refused."""

import os
import socket

import pytest

from mprelay.system import files


@pytest.mark.posix("links that anybody can make")
def test_a_regular_file_is_read_also_through_links(tmp_path):
    (tmp_path / "real").write_bytes(b"\x00\xff\r\n")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to link").symlink_to(tmp_path / "link")
    assert files.read(str(tmp_path / "to link")) == b"\x00\xff\r\n"


def test_a_file_may_be_just_so_long(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SIZE_LIMIT", 10)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert len(files.read(str(path))) == 10
    path.write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        files.read(str(path))


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "file"))


@pytest.mark.posix("FIFOs, devices and sockets as files")
def test_nothing_else_is_read_and_nothing_waits(tmp_path):
    """A FIFO without a writer would hold up whoever opens it."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path, "/dev/null", "/dev/zero"):
            with pytest.raises(ValueError, match="not a regular file"):
                files.read(str(path))
        with pytest.raises(OSError, match="No such device"):
            files.read(str(tmp_path / "socket"))


@pytest.mark.posix("owners and permissions")
def test_nobody_else_may_be_able_to_write_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"any\n")
    for mode, wrong in ((0o644, None), (0o400, None), (0o620, "by others"), (0o602, "by others")):
        path.chmod(mode)
        if wrong is None:
            assert files.read(str(path)) == b"any\n"
        else:
            with pytest.raises(ValueError, match=wrong):
                files.read(str(path))


@pytest.mark.posix("owners and permissions")
def test_it_must_belong_to_root_or_to_this_user(tmp_path):
    if os.geteuid():
        pytest.skip("not root, who alone may give a file away")
    path = tmp_path / "file"
    path.write_bytes(b"any\n")
    os.chown(path, 12345, -1)
    with pytest.raises(ValueError, match="belongs to user 12345"):
        files.read(str(path))


def test_this_process_has_the_rights_of_who_started_it():
    assert not files.privileged()
