"""Real refusals by the system: no descriptor, no memory, no room, a call that fails.

The errno always comes from the kernel: from a limit that is really reached, or from a system call that is really
refused (see ``support/seccomp.py``).
"""

import contextlib
import errno
import os
import resource
import socket
import subprocess
import threading
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from support.judge import moment
from support.params import slow
from support.patches import first_in_workers, refusing, with_site
from support.peers import accept, echo, ends_with_reset, listening, pattern, receive, reset, send_whole
from support.processes import descriptors, limit, links, open_files, opened
from support.relay import NOWHERE, PROGRAM, Relay, failed_start, failing
from support.waiting import eventually

pytestmark = pytest.mark.posix("seccomp(2) and resource limits")

# With the default send buffer (net.core.wmem_default) a few hundred messages fill a channel.
# Here setsockopt(SOL_SOCKET, SO_SNDBUF) succeeds and does nothing.
SMALL_CHANNELS = failing("setsockopt,1=1,2=7:0")


CALLS = (
    *("chdir", "close_range", "getpid", "getrlimit", "kill", "pidfd_open"),
    *("prctl", "prlimit64", "sched_getaffinity", "setitimer", "timerfd_create", "timerfd_settime", "waitid"),
)
"""System calls that the relay can do without."""

# Their names differ by machine: some calls do not exist on aarch64, and the C library makes others instead.
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

ONE_HEAP = os.environ | {"PYTHONMALLOC": "malloc"}
"""An environment in which small objects come from the same heap as large ones.

Without memory for the data of a session, the heap still has some for small objects then. CPython's own allocator
wants a whole arena (1 MiB) whenever its last one is full, so a worker might fail at any object.
"""

CODES = {"pool.start_failed": 70, "platform.init_failed": 71, "platform.unsupported": 71}


def test_a_timer_that_cannot_be_watched_ends_the_start():
    """Each user may watch so many (fs.epoll.max_user_watches). The timer has the first free descriptor."""
    command = failing("epoll_ctl,0=4,1=1,2=3:ENOSPC")
    (failure,) = failed_start(71, "--absolute-timeout", "30", command=command)
    assert (failure["event"], failure["error"]) == ("platform.init_failed", "ENOSPC")
    assert failure["detail"] == "epoll: No space left on device"


# -- new connections: 22, 20, 19, 27 -------------------------------------------------------------------------


def test_a_supervisor_without_descriptors_pauses_and_goes_on():
    """Record 22: the relay does not spin, open sessions are unaffected, and waiting clients are served."""
    with listening() as server, Relay(server.getsockname()) as relay:
        with relay.connect() as old, accept(server) as old_target, contextlib.ExitStack() as stack:
            echo(old, old_target)
            with limit(relay.process.pid, resource.RLIMIT_NOFILE, 3):
                waiting = [stack.enter_context(relay.connect()) for _ in range(3)]
                before = sum(psutil.Process(relay.process.pid).cpu_times()[:2])
                relay.wait("connection.accept_failed", count=2)
                assert sum(psutil.Process(relay.process.pid).cpu_times()[:2]) - before < 0.2
                echo(old, old_target)
            for target in [stack.enter_context(accept(server)) for _ in waiting]:
                target.sendall(b"served")
            assert [receive(client, 6) for client in waiting] == [b"served"] * 3
            echo(old, old_target)
        failures = relay.all("connection.accept_failed")
        assert {(22, "EMFILE")} == {(record["msg_id"], record["error"]) for record in failures}
        sentence = "Error number 24 was returned during requester connection attempt."
        assert {sentence} == {record["message"] for record in failures}
        times = [moment(record["timestamp"]) for record in failures]
        assert all(later - earlier > 0.9 for earlier, later in pairwise(times)), times
        assert all(record["count"] <= 11 for record in failures)


def test_a_supervisor_without_descriptors_still_keeps_its_statistics():
    """Measuring needs descriptors as well. A failed measurement must not end anything."""
    with listening() as server, Relay(server.getsockname(), "--stats-interval", "0.1") as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            with limit(relay.process.pid, resource.RLIMIT_NOFILE, 3):
                relay.wait("relay.stats", count=len(relay.all("relay.stats")) + 3)
                echo(client, target)
        assert not relay.all("internal.error")


def next_descriptor(pid: int) -> int:
    """The number of the process's next descriptor."""
    used = set(descriptors(pid))
    return min(set(range(len(used) + 1)) - used)


def says(record: dict) -> tuple:
    """The fields of a closing record that describe the end."""
    return record["msg_id"], record["reason"], record["error"]


def test_a_worker_with_no_descriptor_for_the_target():
    """Record 19: the client's socket still fits, the target's does not."""
    with (
        listening() as server,
        Relay(server.getsockname(), workers=1) as relay,
        relay.connect() as old,
        accept(server) as old_target,
    ):
        echo(old, old_target)
        pid = relay.workers()[1]
        with limit(pid, resource.RLIMIT_NOFILE, next_descriptor(pid) + 1):
            assert relay.knock().reset
            closed = relay.wait("session.closed")
        assert says(closed) == (19, "target_socket_failed", "EMFILE")
        assert closed["message"] == (
            "Could not allocate a socket to target 127.0.0.1.  Request from 127.0.0.1 aborted."
        )
        echo(old, old_target)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert relay.workers() == {1: pid}


def test_a_worker_with_no_descriptor_for_the_client():
    """Record 20: not even the socket that was handed over fits (MSG_CTRUNC)."""
    with (
        listening() as server,
        Relay(server.getsockname(), workers=1) as relay,
        relay.connect() as old,
        accept(server) as old_target,
    ):
        echo(old, old_target)
        pid = relay.workers()[1]
        with limit(pid, resource.RLIMIT_NOFILE, next_descriptor(pid)):
            assert relay.knock().reset
            closed = relay.wait("session.closed")
        assert says(closed) == (20, "handoff_failed", "EMFILE")
        assert closed["message"] == (
            "Connection from 127.0.0.1 was dropped because the session handler thread failed to start."
        )
        echo(old, old_target)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert {1: pid} == relay.workers()


def test_a_target_socket_that_is_refused():
    """Record 19, when the whole system refuses it. The listener is of the other family."""
    with Relay(NOWHERE, command=failing("socket,0=2:ENFILE")) as relay:
        assert relay.knock().reset
        assert says(relay.wait("session.closed")) == (19, "target_socket_failed", "ENFILE")


@pytest.mark.parametrize(
    ("errno_name", "text"),
    [("EADDRNOTAVAIL", "Cannot assign requested address"), ("ENETUNREACH", "Network is unreachable")],
)
def test_a_connect_that_fails_at_once(errno_name, text):
    """Record 27 has the errno of the failure, and its text in the message."""
    with Relay(NOWHERE, command=failing(f"connect:{errno_name}")) as relay:
        assert relay.knock().reset
        closed = relay.wait("session.closed")
        assert (27, "connect_failed", errno_name) == says(closed)
        sentence = "The target refused the connection attempt for session handler serial number 1."
        assert f"{sentence} ({text})" == closed["message"]
        assert closed["connect_ms"] is None


def channels(relay: Relay) -> list[int]:
    """The supervisor's ends of the hand-off channels, in the order of the workers."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    seqpacket = {line[6] for line in lines if line[4] == f"{int(socket.SOCK_SEQPACKET):04d}"}
    held = links(relay.process.pid)
    return [fd for fd in sorted(held) if held[fd].startswith("socket:[") and held[fd][8:-1] in seqpacket]


@pytest.mark.parametrize("errno_name", ["ETOOMANYREFS", *slow("EAGAIN", "ENOBUFS")])
def test_a_refused_hand_over(errno_name):
    """A single worker: 20 with the errno. Of two workers, the other one gets the session."""
    with listening() as server:
        with Relay(server.getsockname()) as relay:
            rule = f"sendmsg,0={min(channels(relay))}:{errno_name}"
        with Relay(server.getsockname(), workers=1, command=failing(rule)) as relay:
            assert relay.knock().reset
            assert (20, "handoff_failed", errno_name) == says(relay.wait("session.closed"))
        with Relay(server.getsockname(), workers=2, command=failing(rule)) as relay:
            for _ in range(3):
                with relay.connect() as client, accept(server) as target:
                    echo(client, target)
            relay.wait("session.closed", count=3)
        assert len({record["worker"] for record in relay.all("session.connected")}) == 1
        assert not relay.all("session.closed", reason="handoff_failed")


def fill(relay: Relay, stack: contextlib.ExitStack, full) -> None:
    """Connect clients one after another, so that each is a message of its own, until `full()`."""
    for count in range(1, 1500):
        stack.enter_context(relay.connect())
        relay.wait("connection.accepted", session=count)
        if full():
            return
    pytest.fail("the channel of a stopped worker never filled")


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_a_full_channel_refuses_and_does_not_block():
    """Record 20 with EAGAIN: the only worker is stopped. The supervisor goes on, and can end the run."""
    options = ("--max-sessions", "1500", "--drain-timeout", "0.1")
    with Relay(NOWHERE, *options, workers=1, command=SMALL_CHANNELS) as relay, contextlib.ExitStack() as stack:
        relay.worker(1).suspend()
        fill(relay, stack, lambda: relay.all("session.closed"))
        assert says(relay.all("session.closed")[0]) == (20, "handoff_failed", "EAGAIN")
        assert relay.stop() == 0
        last = relay.records[-1]
        assert {"handoff_failed", "drained"} == set(last["closed"])
        assert last["admitted"] == sum(last["closed"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_a_full_channel_sends_sessions_to_the_other_worker():
    """No client is refused while another worker takes sessions, and those sessions work."""
    options = ("--max-sessions", "1500", "--drain-timeout", "0.1")
    with (
        listening(backlog=2048) as server,
        Relay(server.getsockname(), *options, command=SMALL_CHANNELS) as relay,
        contextlib.ExitStack() as stack,
    ):

        def taken(worker: int) -> int:
            return len(relay.all("session.allocated", worker=worker))

        relay.worker(1).suspend()
        fill(relay, stack, lambda: taken(2) > taken(1) + 5)
        assert taken(1) > 50
        relay.wait("session.connected", count=taken(2), worker=2)
        assert not relay.all("session.closed", reason="handoff_failed")


# -- sessions: 29, 30, 32, 36 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "msg_id", "reason"),
    [("client", 29, "requester_channel_failed"), ("target", 30, "target_channel_failed")],
)
def test_a_socket_that_cannot_be_watched(end, msg_id, reason):
    """Records 29, 30: epoll_ctl(2) refuses to add one of the two.

    Both peers are reset, and the slot is free again.
    """
    with listening() as server:
        # The same run without the fault, to learn the descriptors.
        with Relay(server.getsockname(), workers=1) as relay, relay.connect() as client, accept(server):
            relay.wait("session.connected")
            worker = relay.worker(1)
            pollers = descriptors(worker.pid, "anon_inode:[eventpoll]")
            sockets = {
                "client" if line.raddr.port == client.getsockname()[1] else "target": line.fd
                for line in worker.net_connections("tcp")
            }
        assert {"client", "target"} == set(sockets)
        command = failing(f"epoll_ctl,0={pollers[0]},1=1,2={sockets[end]}:ENOMEM")
        with Relay(server.getsockname(), workers=1, command=command) as relay:
            pid = relay.workers()[1]
            files = []
            for count in (1, 2, 3):
                assert relay.knock().reset
                with accept(server) as target:
                    assert ends_with_reset(target)
                closed = relay.wait("session.closed", count=count)
                assert says(closed) == (msg_id, reason, "ENOMEM")
                files.append(open_files(pid))
            assert len(set(files)) == 1, files
            assert relay.workers() == {1: pid}


@pytest.mark.parametrize("rule", ["pipe2,1=0x80800:EMFILE", "fcntl,1=1031:EPERM"])  # F_SETPIPE_SZ
def test_pipes_that_are_refused(rule):
    """This is no failure: bulk data is copied and arrives whole, and the session ends normally."""
    data = pattern(20 << 20)
    with (
        listening() as server,
        Relay(server.getsockname(), workers=1, command=failing(rule)) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        pipes = descriptors(relay.workers()[1], "pipe:[")

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        assert receive(target) == data
        sending.join()
        assert descriptors(relay.workers()[1], "pipe:[") == pipes
        target.close()
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
        assert closed["bytes_from_client"] == len(data)


def bulk_both_ways(server: socket.socket, pause=lambda _pid, _before: None, **given) -> None:
    """Relay a lot of data, both ways at once. All of it arrives, no error is recorded, and no pipe is kept.

    `pause` is called before anything is read, with the worker and the descriptors that it had before.
    """
    up, down = pattern(20 << 20, 1), pattern(20 << 20, 2)
    with (
        Relay(server.getsockname(), workers=1, **given) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        relay.wait("session.connected")
        pid = relay.workers()[1]
        before = set(descriptors(pid))
        sending = [threading.Thread(target=send_whole, args=ends) for ends in ((client, up), (target, down))]
        for thread in sending:
            thread.start()
        pause(pid, before)
        assert receive(target) == up
        assert receive(client) == down
        for thread in sending:
            thread.join()
        eventually(lambda: set(descriptors(pid)) <= before, "all pipes given back")
        closed = relay.wait("session.closed")
        assert closed["reason"] in {"requester_read_closed", "target_read_closed"}
        assert (closed["error"], closed["error_from"]) == (None, None)
        assert (closed["bytes_to_target"], closed["bytes_to_client"]) == (len(up), len(down))


@pytest.mark.parametrize("errno_name", ["EPERM", *slow("ENOSYS", "EINVAL", "EACCES", "EOPNOTSUPP", "ENOMEM")])
def test_splicing_that_is_refused(errno_name):
    """A call that a sandbox refuses is not a peer's error: the flow goes back to copying."""
    with listening() as server:
        bulk_both_ways(server, command=failing(f"splice:{errno_name}"))


@pytest.mark.slow
@pytest.mark.parametrize("errno_name", ["EPERM", *slow("EINVAL")])
def test_splicing_that_is_refused_with_data_in_the_pipe(errno_name):
    """Data already taken from a source is delivered by copying."""
    found: set[int] = set()

    def learn(pid: int, before: set[int]) -> None:
        """Wait until both flows have borrowed a pipe. In the next run the descriptors are the same."""

        def borrowed() -> bool:
            found.update(set(descriptors(pid, "pipe:[")) - before)
            return len(found) == 4

        eventually(borrowed, "two pipes")

    with listening() as server:
        bulk_both_ways(server, learn)
        bulk_both_ways(server, command=failing(*(f"splice,0={n}:{errno_name}" for n in found)))


def test_sockets_that_cannot_be_made_non_blocking(tmp_path):
    """splice(2) needs that (FIONBIO), copying does not."""
    with listening() as server, Relay(server.getsockname(), workers=1) as relay:
        used = descriptors(relay.workers()[1])
        rules = [f"ioctl,0={n},1=0x5421:EPERM" for n in range(64) if n not in used]
        bulk_both_ways(server, env=with_site(tmp_path, first_in_workers(refusing(*rules))))


@pytest.mark.parametrize("errno_name", ["EPERM", *slow("ENOSYS")])
@pytest.mark.parametrize("first", ["client", "target"])
def test_a_half_close_that_is_refused(tmp_path, first, errno_name):
    """Without shutdown(2) the end of data cannot be passed on alone. The session goes on and ends normally."""
    answer = pattern(1 << 20)
    env = with_site(tmp_path, first_in_workers(refusing(f"shutdown:{errno_name}")))
    with (
        listening() as server,
        Relay(server.getsockname(), env=env) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        ends = {"client": client, "target": target}
        other = ends["target" if first == "client" else "client"]
        send_whole(ends[first], b"request")
        assert receive(other, 7) == b"request"
        sending = threading.Thread(target=send_whole, args=(other, answer))
        sending.start()
        assert receive(ends[first]) == answer
        sending.join()
        assert receive(other) == b""
        closed = relay.wait("session.closed")
        assert closed["reason"] == {"client": "requester_read_closed", "target": "target_read_closed"}[first]
        assert (closed["error"], closed["client_end"], closed["target_end"]) == (None, "end", "end")


@pytest.mark.parametrize("rule", ["ioctl,1=0x5411:EPERM", "getsockname:EPERM"], ids=["SIOCOUTQ", "getsockname"])
def test_queries_that_the_system_refuses(tmp_path, rule):
    """The unacknowledged bytes and our own address cannot be queried. A session can be relayed without both."""
    env = with_site(tmp_path, first_in_workers(refusing(rule)))
    with listening() as server, Relay(server.getsockname(), "--bind", "127.0.0.1", env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            send_whole(client, b"request")
            assert receive(target) == b"request"
            send_whole(target, b"answer")
            assert receive(client) == b"answer"
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            reset(client)
            assert ends_with_reset(target)
        assert relay.wait("session.closed", 2)["error_from"] == "client"


@pytest.mark.parametrize(
    ("flood", "msg_id", "reason"),
    [("client", 32, "requester_buffer_failed"), ("target", 36, "target_buffer_failed")],
)
def test_no_memory_for_data_that_a_peer_does_not_take(flood, msg_id, reason, tool):
    """Records 32, 36: the rest of a read must be kept, but there is no memory for it, and no pipe."""
    data = pattern(1 << 20)
    just_enough = (tool("prlimit"), "--nofile=1017:1017", PROGRAM)  # for 500 sessions, without one pipe
    with (
        listening() as server,
        Relay(server.getsockname(), workers=1, command=just_enough, env=ONE_HEAP) as relay,
        contextlib.ExitStack() as stack,
    ):
        pairs = []
        for count in range(1, 65):  # the worker's heap may have room for the bytes of a good many
            client = stack.enter_context(relay.connect())
            pairs.append((client, stack.enter_context(accept(server))))
            relay.wait("session.connected", count=count)
        with limit(relay.workers()[1], resource.RLIMIT_AS, 1):
            for client, target in pairs:
                sender, other = (client, target) if flood == "client" else (target, client)
                sender.settimeout(0.3)  # seconds without progress: this peer's bytes could be kept
                try:
                    for _ in range(64):
                        sender.sendall(data)
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    break
            else:
                pytest.fail("there was always memory")
            closed = relay.wait("session.closed")
        assert (msg_id, reason, "ENOMEM") == says(closed)
        assert ends_with_reset(other)
        echo(*pairs[-1])
        assert not relay.all("worker.exited")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "before"), [(4000, 1), (300, 1), (100, 1), (None, 350)])
def test_no_memory_for_the_buffers_of_a_session(size, before):
    """Record 32 or 36, whichever buffer no longer fits. The session is refused, and earlier sessions go on.

    The smaller the buffers are, the more other objects take what is left. With none, sessions `before` the memory
    is at its end fill the heap, because at the 683rd the tables ask for more than what is kept free.
    """
    options = ("--max-sessions", "1000", "--idle-timeout", "600")
    if size is not None:
        options += ("--buffer", str(size))
    with (
        listening(backlog=1024) as server,
        Relay(server.getsockname(), *options, workers=1, env=ONE_HEAP | {"MALLOC_TOP_PAD_": "0"}) as relay,
        contextlib.ExitStack() as stack,
    ):
        first = stack.enter_context(relay.connect())
        first_target = stack.enter_context(accept(server))
        echo(first, first_target)
        for _ in range(1, before):
            stack.enter_context(relay.connect())
        relay.wait("session.connected", before)
        with limit(relay.workers()[1], resource.RLIMIT_AS, 1):
            for count in range(before + 1, 1000):
                stack.enter_context(relay.connect())
                relay.wait("connection.accepted", session=count)
                if relay.all("session.closed"):
                    break
            closed = relay.wait("session.closed")
            assert closed["reason"] in {"requester_buffer_failed", "target_buffer_failed"}
            echo(first, first_target)
        assert says(closed) in {
            (32, "requester_buffer_failed", "ENOMEM"),
            (36, "target_buffer_failed", "ENOMEM"),
        }
        assert not relay.all("worker.exited")


# -- a system without /dev -----------------------------------------------------------------------------------


@pytest.fixture
def without_dev(tool):
    """A command that runs a program with an empty /dev. Skips the test if this user cannot have one."""
    unshare = (tool("unshare"), "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
    script = 'mount -t tmpfs mprelay-test /dev && test ! -e /dev/null && eval "exec \\"\\$@\\" $0"'
    command = (*unshare, tool("bash"), "-c", script)
    probe = subprocess.run([*command, "", "true"], stdin=subprocess.PIPE, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no /dev of its own to be had: {probe.stderr.decode().strip()}")
    return command


@pytest.mark.parametrize("closed", ["", "<&-", "2>&-", "<&- 2>&-"])
def test_an_empty_dev(without_dev, closed):
    """/dev/null is not needed, even if a standard stream is closed.

    No socket gets the number of a standard stream.
    """
    command = (*without_dev, closed, PROGRAM)
    with listening() as server, Relay(server.getsockname(), command=command) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        complaints = opened(relay.process.pid, 2)
        for pid in (relay.process.pid, *relay.workers().values()):
            assert [opened(pid, descriptor) for descriptor in range(3)] == [complaints] * 3
    assert relay.records[-1]["reason"] == "drained"


def test_an_empty_dev_and_no_stdout(without_dev):
    """The error is reported on stderr, and the exit code is 74."""
    done = subprocess.run(
        [*without_dev, ">&-", PROGRAM, "1", "127.0.0.1", "9", "ANY"],
        stdin=subprocess.PIPE,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (74, b"")
    assert done.stderr == b"mprelay: nothing can be written to stdout: Bad file descriptor\n"


# -- each system call ----------------------------------------------------------------------------------------


def refused_calls(calls, error):
    """A command in which the kernel refuses these calls to the relay and all its children."""
    return failing(*(f"{call}:{error}" for call in calls))


@pytest.mark.parametrize("error", ["EPERM", *slow("ENOSYS")])
@pytest.mark.parametrize("what", ["all of them", *slow(*CALLS)])
def test_a_call_that_is_not_needed(what, error):
    """The relay relays, measures itself and ends, with nothing on stderr."""
    options = ("--absolute-timeout", "3600", "--stats-interval", "0.1")
    command = refused_calls(CALLS if what == "all of them" else [what], error)
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


@pytest.mark.parametrize("error", ["EPERM", *slow("ENOSYS")])
@pytest.mark.parametrize("what", [*list(NEEDED)[:6], *slow(*list(NEEDED)[6:])])
def test_a_call_that_is_needed(what, error):
    """The relay ends at once, and the record names the step and the error."""
    calls, event, detail = NEEDED[what]
    options = {"wait_active": False, "expect_code": CODES[event], "quiet": False}
    with Relay(("127.0.0.1", 9), command=refused_calls(calls, error), **options) as relay:
        relay.finish()
    failed, stopped = (record for record in relay.records if not record["event"].startswith("worker."))
    assert (failed["event"], stopped["reason"]) == (event, "failed")
    assert failed["detail"].startswith(detail)
    reason = os.strerror(getattr(errno, error))
    assert failed.get("error") == error or error in failed["detail"] or reason in failed["detail"] + relay.errors
