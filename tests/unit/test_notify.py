"""The way to the service manager."""

import os
import socket
import sys
from contextlib import closing

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: a service manager that is told by datagrams", allow_module_level=True)

import resource

from support.manager import managing
from support.peers import fill
from support.processes import limit

from mprelay.system.notify import Notifier, take


def test_what_the_manager_has_put_into_the_environment_is_taken_out():
    """Nothing else is, whatever it is called like."""
    meant = {
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "2",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "2",
        "LISTEN_FDNAMES": "x",
    }
    others = {"PATH": "/bin", "MY_NOTIFY_SOCKET": "/run/notify", "LISTENER": "x", "XDG_LISTEN_FDS": "1"}
    environ = meant | others
    assert take(environ) == meant
    assert environ == others


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_is_one_datagram(tmp_path, abstract):
    with (
        managing(tmp_path, abstract=abstract) as manager,
        closing(Notifier({"NOTIFY_SOCKET": manager.address})) as notifier,
    ):
        assert notifier.present
        notifier.send("READY=1", "STATUS=x")
        assert manager.hear() == ["READY=1", "STATUS=x"]
        notifier.close()
        notifier.send("STOPPING=1")
        assert manager.rest() == []


@pytest.mark.parametrize("address", ["", "run/notify", "vsock:2:1234"])
def test_an_address_of_another_kind_is_none(address):
    """Nor is an empty one."""
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert not notifier.present
    notifier.send("READY=1")


@pytest.mark.parametrize("name", ["/nowhere/notify", "@nobody", "/" + "x" * 200, "/\udcff"])
def test_nobody_who_listens_is_no_error(name):
    with closing(Notifier({"NOTIFY_SOCKET": name})) as notifier:
        assert notifier.send("READY=1")  # it will not be better the next time


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path):
    """What finds no room is not sent, and the caller hears of it."""
    with managing(tmp_path) as manager, closing(Notifier({"NOTIFY_SOCKET": manager.address})) as notifier:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect(manager.address)
            fill(other.fileno())
        assert not notifier.send("READY=1")
        assert ["READY=1"] not in manager.rest()
        assert notifier.send("READY=1")
        assert manager.rest() == [["READY=1"]]


def test_without_descriptors_it_still_speaks(tmp_path):
    """Otherwise a relay that lacks them for a while would be killed as one that is stuck.

    One that has none from the beginning says nothing.
    """
    with managing(tmp_path) as manager, closing(Notifier({"NOTIFY_SOCKET": manager.address})) as notifier:
        with limit(os.getpid(), resource.RLIMIT_NOFILE, 3):
            notifier.send("WATCHDOG=1")
            assert not Notifier({"NOTIFY_SOCKET": manager.address}).present
        assert manager.rest() == [["WATCHDOG=1"]]


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "1"}, 1e-6),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "1.5"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_who_must_be_heard_of(variables, seconds):
    """The process that the manager means, within the time that it says."""
    assert Notifier(variables).watchdog_s == seconds
