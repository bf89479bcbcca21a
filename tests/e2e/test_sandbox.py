"""Systems that say no: without /dev, and with system calls that are refused."""

import errno
import os
import subprocess

import pytest
from support.peers import accept, echo, listening
from support.processes import opened
from support.relay import PROGRAM, Relay, failing


@pytest.fixture
def without_dev(tool):
    """A command that runs a program where /dev is empty; skip where this user can have no such place."""
    unshare = (tool("unshare"), "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
    script = 'mount -t tmpfs mprelay-test /dev && test ! -e /dev/null && eval "exec \\"\\$@\\" $0"'
    command = (*unshare, tool("bash"), "-c", script)
    probe = subprocess.run([*command, "", "true"], stdin=subprocess.PIPE, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no /dev of its own to be had: {probe.stderr.decode().strip()}")
    return command


@pytest.mark.parametrize("closed", ["", "<&-", "2>&-", "<&- 2>&-"])
def test_an_empty_dev(without_dev, closed):
    """/dev/null is not needed, not even where a standard stream is closed: no socket gets its number."""
    command = (*without_dev, closed, PROGRAM)
    with listening() as server, Relay(server.getsockname(), command=command) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        complaints = opened(relay.process.pid, 2)
        for pid in (relay.process.pid, *relay.workers().values()):
            assert [opened(pid, descriptor) for descriptor in range(3)] == [complaints] * 3
    assert relay.records[-1]["reason"] == "drained"


def test_an_empty_dev_and_no_stdout(without_dev):
    """Said on stderr: 74."""
    done = subprocess.run(
        [*without_dev, ">&-", PROGRAM, "1", "127.0.0.1", "9", "ANY"],
        stdin=subprocess.PIPE,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (74, b"")
    assert done.stderr == b"mprelay: nothing can be written to stdout: Bad file descriptor\n"


# -- system calls that are refused ---------------------------------------------------------------------------

NOT_NEEDED = {
    call: (call,)
    for call in (
        *("chdir", "close_range", "getpid", "getrlimit", "kill", "pidfd_open"),
        *("prctl", "prlimit64", "sched_getaffinity", "setitimer", "timerfd_create", "timerfd_settime", "waitid"),
    )
}
NOT_NEEDED["all of them"] = tuple(NOT_NEEDED)

# What the machine calls it differs: some calls are not there on aarch64, and the C library makes others.
NEEDED = {
    "dup2": (("dup2", "dup3"), "pool.start_failed", "the outlet could not be started"),
    "epoll_create1": (("epoll_create1",), "platform.init_failed", "epoll: "),
    "epoll_ctl": (("epoll_ctl",), "platform.init_failed", "epoll: "),
    "epoll_wait": (("epoll_wait", "epoll_pwait"), "platform.init_failed", "epoll: "),
    "fork": (("vfork", "fork", "clone", "clone3"), "pool.start_failed", "the outlet could not be started"),
    "getsockname": (("getsockname",), "platform.init_failed", "getsockname: "),
    "pipe2": (("pipe2",), "platform.init_failed", "signals: "),
    "poll": (("poll", "ppoll"), "pool.start_failed", "the outlet ended before it was ready (exit code 71)"),
    "recvfrom": (("recvfrom",), "pool.start_failed", "the outlet ended before it was ready"),
    "recvmsg": (("recvmsg",), "platform.unsupported", "SCM_RIGHTS: "),
    "rt_sigaction": (("rt_sigaction",), "platform.init_failed", "signals: "),
    "rt_sigprocmask": (("rt_sigprocmask",), "pool.start_failed", "the outlet could not be started"),
    "sendmsg": (("sendmsg",), "platform.unsupported", "SCM_RIGHTS: "),
    "sendto": (("sendto",), "pool.start_failed", "the outlet ended before it was ready (exit code 71)"),
    "socketpair": (("socketpair",), "platform.init_failed", "socketpair"),
    "wait4": (("wait4",), "platform.init_failed", "waitpid: "),
}
CODES = {"pool.start_failed": 70, "platform.init_failed": 71, "platform.unsupported": 71}


def refusing(calls, error):
    """A command in which the kernel refuses these calls to the relay and all that it starts."""
    return failing(*(f"{call}:{error}" for call in calls))


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("what", NOT_NEEDED)
def test_a_call_that_is_not_needed(what, error):
    """It relays, measures itself, and ends, without a word on stderr."""
    options = ("--absolute-timeout", "3600", "--stats-interval", "0.1")
    command = refusing(NOT_NEEDED[what], error)
    with (
        listening() as server,
        Relay(server.getsockname(), *options, command=command) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        relay.wait("relay.stats", 2)
        client.close()
    assert relay.records[-1]["reason"] == "drained"


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("what", NEEDED)
def test_a_call_that_is_needed(what, error):
    """It ends at once, and the record names the step and the error."""
    calls, event, detail = NEEDED[what]
    options = {"wait_active": False, "expect_code": CODES[event], "quiet": False}
    with Relay(("127.0.0.1", 9), command=refusing(calls, error), **options) as relay:
        relay.finish()
    failed, stopped = (record for record in relay.records if not record["event"].startswith("worker."))
    assert (failed["event"], stopped["reason"]) == (event, "failed")
    assert failed["detail"].startswith(detail)
    reason = os.strerror(getattr(errno, error))
    assert failed.get("error") == error or error in failed["detail"] or reason in failed["detail"] + relay.errors
