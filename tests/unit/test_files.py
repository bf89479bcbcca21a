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


@pytest.mark.posix("modes of files")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_secret_is_nobody_elses(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    assert files.read_secret(str(path)) == b"secret"
    path.chmod(mode)
    with pytest.raises(ValueError, match="by its group or by others: chmod go-"):
        files.read_secret(str(path))


@pytest.mark.posix("modes of files")
@pytest.mark.parametrize(("mode", "good"), [(0o400, True), (0o440, True), (0o404, False), (0o444, False)])
def test_root_may_hand_over_a_secret_to_a_group(tmp_path, mode, good):
    """So does LoadCredential of systemd, by an access control list, whose mask looks like a group."""
    if os.geteuid():
        pytest.skip("files of root are made by root only")
    path = tmp_path / "secret"
    path.touch()
    path.chmod(mode)
    found = path.stat()
    os.seteuid(65534)
    try:
        wrong = files.wrong_with_secret(found)
    finally:
        os.seteuid(0)
    assert (wrong is None) == good


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
