"""The names of errnos are the same on every platform."""

import errno
import os
import socket
import sys

import pytest
from support.peers import accept, free_port, listening, reset

from mprelay.system import errnos, errnos_windows
from mprelay.system.errnos import NO_LOCAL_PORT, errno_name, explain, stream_error


def test_names_of_errnos():
    """They are named as in errno(3), and a reset has only one name."""
    assert errno_name(errno.EMFILE) == "EMFILE"
    assert errno_name(errno.ECONNREFUSED) == "ECONNREFUSED"
    assert errno_name(99999) == "E99999"
    assert errno_name(None) == "ENone"
    assert stream_error(errno.EPIPE) == stream_error(errno.ECONNRESET) == "ECONNRESET"
    assert stream_error(errno.ETIMEDOUT) == "ETIMEDOUT"


def test_no_name_is_winsocks():
    """Windows has two numbers for some: 13 and 10013 are both EACCES."""
    names = [errno_name(number) for number in errno.errorcode]
    assert not [name for name in names if name.startswith("WSA")]
    assert {"EACCES", "EADDRINUSE", "ECONNRESET", "EINVAL", "EMFILE", "ETIMEDOUT"} <= set(names)


def test_what_a_socket_raises_has_the_usual_name():
    """This holds for an exception as for the number that connect_ex() returns."""
    with socket.socket() as sock:
        assert errno_name(sock.connect_ex(("127.0.0.1", free_port()))) == "ECONNREFUSED"
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        reset(accept(server))
        assert stream_error(error_of_sending(client)) == "ECONNRESET"


def error_of_sending(sock):
    """Send until that fails; return the errno."""
    try:
        while sock.send(b"x"):
            pass
    except OSError as failure:
        return failure.errno


def test_a_lack_of_ports_is_known_by_its_name():
    """connect(2) has one error for it on Linux. Windows has three."""
    assert "EADDRNOTAVAIL" in NO_LOCAL_PORT
    assert "ECONNREFUSED" not in NO_LOCAL_PORT


def test_an_errno_is_explained_by_its_name():
    """There is no text for what is no errno."""
    assert explain("EHOSTUNREACH") == "No route to host"
    assert explain("ENOMEM") == "Cannot allocate memory"
    assert (explain(None), explain("NXDOMAIN"), explain("ENone")) == (None, None, None)


def test_windows_explains_as_linux_does():
    """Where it has no text, the name must do."""
    assert errnos_windows.text("ECONNABORTED", 10053) == "Software caused connection abort"
    assert errnos_windows.text("ENOENT", errno.ENOENT) == "No such file or directory"


@pytest.mark.skipif(sys.platform == "win32", reason="strerror(3) has no text for errors of sockets there")
@pytest.mark.parametrize("name", errnos_windows._TEXTS)
def test_each_text_for_windows_is_that_of_linux(name):
    """A reader of records finds the same sentence for the same errno."""
    assert errnos_windows.text(name, 0) == errnos.explain(name) == os.strerror(getattr(errno, name))


def test_without_any_text_an_errno_is_explained_by_its_name(monkeypatch):
    """Windows answers `Unknown error` for all of Winsock's numbers."""
    monkeypatch.setattr(os, "strerror", lambda _number: "Unknown error")
    assert errnos_windows.text("ESTALE", 10070) == "ESTALE"
