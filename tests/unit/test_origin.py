"""The origin of a run: its host and its opener. The kernel's knowledge comes first, and a failure is a null."""

import ctypes
import os
import socket
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: login uids and adjtimex(2)", allow_module_level=True)

import pwd

from mprelay.system import origin, origin_linux

UNSET = str(2**32 - 1)
NOBODY_HAS = 2**31 - 77
"""A uid without a name."""


@pytest.fixture
def login_uid(tmp_path, monkeypatch):
    """Set the login uid that the kernel reports."""
    monkeypatch.setattr(origin_linux, "_LOGINUID", tmp_path / "loginuid")
    monkeypatch.setenv("LOGNAME", "mallory")
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path / "loginuid"


def uid_is(monkeypatch, uid):
    monkeypatch.setattr(os, "getuid", lambda: uid)


def test_the_login_uid_comes_first(login_uid, monkeypatch):
    """Neither sudo nor su changes it."""
    login_uid.write_text(str(pwd.getpwnam("daemon").pw_uid))
    uid_is(monkeypatch, 0)
    monkeypatch.setenv("SUDO_USER", "mallory")
    assert origin.opened_by() == "daemon"


@pytest.mark.parametrize("text", [UNSET, None, "", "x"])
def test_without_a_login_uid_sudo_is_believed_if_we_are_root(login_uid, monkeypatch, text):
    """The login uid is unset, has no file, or is unreadable.

    Only root is believed, because anybody can set SUDO_USER.
    """
    if text is not None:
        login_uid.write_text(text)
    monkeypatch.setenv("SUDO_USER", "alice")
    uid_is(monkeypatch, 0)
    assert origin.opened_by() == "alice"
    uid_is(monkeypatch, pwd.getpwnam("daemon").pw_uid)
    assert origin.opened_by() == "daemon"


@pytest.mark.parametrize("sudo_user", [None, ""])
def test_otherwise_it_is_the_real_uid(login_uid, monkeypatch, sudo_user):
    """It is never LOGNAME, which anybody can set."""
    login_uid.write_text(UNSET)
    if sudo_user is not None:
        monkeypatch.setenv("SUDO_USER", sudo_user)
    uid_is(monkeypatch, 0)
    assert origin.opened_by() == pwd.getpwuid(0).pw_name


@pytest.mark.parametrize(("raw", "name"), [("žofie".encode(), "žofie"), (b"a\xff", "a\\xff")])
def test_a_name_is_a_valid_text(login_uid, monkeypatch, raw, name):
    """The environment may have any bytes."""
    login_uid.write_text(UNSET)
    monkeypatch.setenv("SUDO_USER", os.fsdecode(raw))
    uid_is(monkeypatch, 0)
    assert origin.opened_by() == name


def test_a_uid_without_a_name_is_a_number(login_uid, monkeypatch):
    """A container may have no entry for it."""
    login_uid.write_text(str(NOBODY_HAS))
    assert origin.opened_by() == str(NOBODY_HAS)
    login_uid.write_text(UNSET)
    uid_is(monkeypatch, NOBODY_HAS)
    assert origin.opened_by() == str(NOBODY_HAS)


def test_the_name_of_the_machine():
    """It is the name that uname(2) gives."""
    assert origin.host() == os.uname().nodename


def test_a_fact_that_cannot_be_found_is_none(monkeypatch):
    """No exception leaves the module."""

    def refuse(*_arguments):
        raise PermissionError

    monkeypatch.setattr(socket, "gethostname", refuse)
    assert origin.host() is None
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert origin.clock_synchronised() is None


@pytest.mark.parametrize(
    ("maxerror", "state", "expected"),
    [(0, 0, True), (15_999_999, 5, True), (16_000_000, 5, False), (0, -1, None)],
)
def test_the_clock_is_judged_by_the_error_that_the_kernel_counts(monkeypatch, maxerror, state, expected):
    """STA_UNSYNC (state 5) does not count, because it stays set if the hardware clock must not be touched."""

    class Library:
        def adjtimex(self, timex):
            assert timex[0] == 0, "this would set something"
            timex[3] = maxerror
            return state

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library())
    assert origin.clock_synchronised() is expected


def test_the_kernel_answers():
    """This machine's own adjtimex(2) gives the same answer twice."""
    assert origin.clock_synchronised() is origin.clock_synchronised()
    assert origin.find() == (origin.host(), origin.opened_by(), origin.clock_synchronised())
