"""The relay under a service manager: what it says (sd_notify(3)), and what it hides from its children."""

import os
import signal
import time

import pytest
from support.launching import PROGRAM
from support.manager import managing
from support.patches import IN_SUPERVISOR, RECORD_ALLOCATED, replaced, with_site
from support.peers import accept, echo, ends_with_reset, listening
from support.relay import NOWHERE, Relay
from support.waiting import eventually

pytestmark = pytest.mark.posix("a service manager that is told by datagrams")

WITH_ITS_PID = ("sh", "-c", 'WATCHDOG_PID=$$ LISTEN_PID=$$ exec "$0" "$@"', PROGRAM)


@pytest.fixture
def manager(tmp_path):
    with managing(tmp_path) as made:
        yield made


def under(manager, **variables):
    """The environment that a manager makes."""
    return os.environ | {"NOTIFY_SOCKET": manager.address} | variables


@pytest.mark.parametrize("abstract", [False, True])
def test_a_run_from_its_start_to_its_end(tmp_path, abstract):
    """It is ready when clients are admitted, and says that it stops while sessions may still finish."""
    with (
        managing(tmp_path, abstract=abstract) as manager,
        listening() as server,
        Relay(server.getsockname(), "--drain-timeout", "60", wait_active=False, env=under(manager)) as relay,
    ):
        *before, ready = manager.until("READY=1")
        assert before == [["STATUS=starting"]]
        assert ready == ["READY=1", "STATUS=0 of 500 sessions"]
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            relay.signal()
            stopping = manager.until("STOPPING=1")[-1]
            assert stopping[1:] == ["EXTEND_TIMEOUT_USEC=65000000", "STATUS=draining, 1 sessions left"]
            echo(client, target)
        assert relay.finish() == 0
        assert manager.rest()[-1] == ["STOPPING=1", "WATCHDOG_USEC=0", "STATUS=ending"]


def test_a_start_that_fails_is_never_ready(manager):
    with listening() as other:
        relay = Relay(NOWHERE, wait_active=False, expect_code=69, env=under(manager))
        relay.args[0] = str(other.getsockname()[1])
        with relay:
            relay.finish()
    assert not any("READY=1" in message for message in manager.rest())


def test_an_expiry_is_a_stop(manager):
    with Relay(NOWHERE, "--absolute-timeout", "1", wait_active=False, env=under(manager)) as relay:
        relay.finish()
    assert manager.rest()[-1][0] == "STOPPING=1"


def test_a_reload_begins_and_ends_whatever_comes_of_it(tmp_path, manager):
    """The manager compares the moment with that of its signal, and waits for the end."""
    rules = tmp_path / "rules"
    rules.write_text("127.0.0.0/8\n")
    with Relay(NOWHERE, acl=f"@{rules}", env=under(manager)) as relay:
        manager.until("READY=1")
        for text, event in (("::/0\n", "acl.reloaded"), ("nobody\n", "acl.reload_failed")):
            rules.write_text(text)
            before = time_usec()
            relay.signal(signal.SIGHUP)
            begins, moment = manager.hear()
            assert begins == "RELOADING=1"
            name, _, usec = moment.partition("=")
            assert name == "MONOTONIC_USEC"
            assert before <= int(usec) <= time_usec()
            assert manager.hear() == ["READY=1"]
            relay.wait(event)


def time_usec():
    """CLOCK_MONOTONIC in microseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("command", [(PROGRAM,), WITH_ITS_PID], ids=["without a pid", "with its pid"])
def test_the_watchdog_hears_of_it(manager, command):
    """All the time that it drains, too."""
    env = under(manager, WATCHDOG_USEC="400000")
    with (
        listening() as server,
        Relay(server.getsockname(), command=command, env=env) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        for _ in range(3):
            manager.until("WATCHDOG=1")
        relay.signal()
        manager.until("STOPPING=1")
        for _ in range(3):
            manager.until("WATCHDOG=1")


def test_a_watchdog_that_means_another_process_hears_nothing(manager):
    """The variables may be inherited from a parent whom they mean."""
    env = under(manager, WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid()))
    with Relay(NOWHERE, "--stats-interval", "0.1", env=env) as relay:
        relay.ticks(5)
    assert not any("WATCHDOG=1" in message for message in manager.rest())


def test_a_loop_that_is_stuck_is_not_heard_of(tmp_path, manager):
    """Although its process lives, with a thread that runs."""
    stuck = """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
def broken(*_):
    while True:
        time.sleep(1)
"""
    env = with_site(tmp_path, IN_SUPERVISOR + "pass\n" + replaced(RECORD_ALLOCATED, stuck))
    env |= under(manager, WATCHDOG_USEC="200000") | {"PYTHONPATH": env["PYTHONPATH"]}
    with Relay(NOWHERE, env=env) as relay, relay.connect() as client:
        manager.until("WATCHDOG=1")

        def is_silent():
            try:
                manager.hear(1.0)
            except TimeoutError:
                return True
            return False

        eventually(is_silent, "the relay is silent")
        relay.kill()
        assert ends_with_reset(client)


def test_no_child_has_what_is_meant_for_the_relay(tmp_path, manager):
    """Not the workers, the outlet, multiprocessing's helper or who reads rules: they must not speak for it."""
    (tmp_path / "rules").write_text("127.0.0.0/8\n")
    (children := tmp_path / "children").mkdir()
    telling = f"""
import os, sys
if "-c" in sys.orig_argv or "--multiprocessing-fork" in sys.orig_argv:
    with open({str(children)!r} + f"/{{os.getpid()}}", "w") as file:
        file.write(" ".join(os.environ))
"""
    env = with_site(tmp_path, telling)
    env |= under(manager, WATCHDOG_USEC="60000000", LISTEN_FDS="0", LISTEN_FDNAMES="", PYTHONPATH=str(tmp_path))
    with Relay(NOWHERE, command=WITH_ITS_PID, acl=f"@{tmp_path / 'rules'}", env=env) as relay:
        relay.signal(signal.SIGHUP)
        relay.wait("acl.reloaded")
        pids = {str(child.pid) for child in relay.family()}
    told = {path.name: path.read_text().split() for path in children.iterdir()}
    assert pids < told.keys()  # whoever read the rules has ended
    for names in told.values():
        assert "PATH" in names
        assert not [name for name in names if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))]


def test_a_manager_that_does_not_listen_holds_up_nothing(manager):
    """Its socket is full after a few messages, and nothing waits for it."""
    env = under(manager, WATCHDOG_USEC="2000")
    with listening() as server, Relay(server.getsockname(), "--stats-interval", "0.1", env=env) as relay:
        relay.ticks(3)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert relay.stop() == 0


def test_a_manager_that_is_not_there_holds_up_nothing(tmp_path):
    env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "nothing"), "WATCHDOG_USEC": "many"}
    with listening() as server, Relay(server.getsockname(), env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert relay.stop() == 0
