"""What the system refuses, for real: no descriptor, no memory, no process, no room, a call that fails.

The errno always comes from the kernel: from a limit that is really reached, or from a system call that is
really refused (see ``support/seccomp.py``). What a Python may lack is taken away by a ``sitecustomize`` module.
"""

import contextlib
import os
import resource
import signal
import socket
import threading
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from support.judge import moment
from support.peers import accept, echo, ends_with_reset, free_port, listening, pattern, receive, reset, send_whole
from support.processes import descriptors, limit, open_files
from support.relay import FAILING_CALL, NOWHERE, PROGRAM, Relay, failing, with_site
from support.waiting import PATIENCE, eventually

MPTCP = 262  # IPPROTO_MPTCP, netinet/in.h
# What fork(3) and vfork(2) are made of: SIGCHLD with CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, or with
# CLONE_VM | CLONE_VFORK; a thread has other flags.
NO_PROCESS = ["fork:EAGAIN", "vfork:EAGAIN", "clone,0=0x1200011:EAGAIN", "clone,0=0x4111:EAGAIN"]
NO_THREAD = ["clone3:EAGAIN", "clone:EAGAIN"]
IN_WORKERS = """import os, sys
if "--multiprocessing-fork" in sys.orig_argv:
    import mprelay.worker
    whole = mprelay.worker.main
    def main(*given):
        first()
        whole(*given)
    mprelay.worker.main = main
    def first():
        """


def refusing(*rules: str) -> str:
    """The line of code that makes these calls fail in the process that runs it, and nowhere else."""
    tests = str(Path(FAILING_CALL).parent)
    install = f"seccomp.install(seccomp.compiled({rules!r}, platform.machine()))"
    return f"import platform; sys.path.append({tests!r}); import seccomp; {install}"


def limited(files: str) -> tuple[str, ...]:
    """The command that runs the program under another ``ulimit -n``."""
    return ("/bin/sh", "-c", f'ulimit {files} && exec "$0" "$@"', PROGRAM)


def failed(code: int, *options: str, **given) -> list[dict]:
    """Run what cannot start; judge its end, and return its records without the last one."""
    with Relay(NOWHERE, *options, wait_active=False, expect_code=code, **given) as relay:
        relay.finish()
    *records, last = relay.records
    assert (last["event"], last["reason"]) == ("relay.stopped", "failed")
    assert not relay.all("relay.active")
    return records


def next_descriptor(pid: int) -> int:
    """The number that the process's next descriptor gets."""
    used = set(descriptors(pid))
    return min(set(range(len(used) + 1)) - used)


def says(record: dict) -> tuple:
    """What a closing record says of the end."""
    return record["msg_id"], record["reason"], record["error"]


# -- the start: 1, 9 to 14 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "code", "msg_id", "error"),
    [
        ("socketpair:EMFILE", 71, 9, "EMFILE"),
        ("socketpair,1=0x80005:ENFILE", 71, 9, "ENFILE"),  # SOCK_SEQPACKET | SOCK_CLOEXEC
        ("socket,0=10:EMFILE", 69, 11, "EMFILE"),
        ("bind:EACCES", 69, 12, "EACCES"),
        ("listen:EADDRINUSE", 69, 13, "EADDRINUSE"),
    ],
)
def test_a_refused_call_at_the_start_is_named(rule, code, msg_id, error):
    """Message, errno and exit code tell which step failed, and nothing is left of the others."""
    records = failed(code, command=failing(rule))
    assert [(msg_id, error)] == [(record["msg_id"], record["error"]) for record in records]


@pytest.mark.parametrize("errno_name", ["EPERM", "EINVAL"])
def test_a_system_that_passes_no_sockets_is_unsupported(errno_name):
    """10: the probe's sendmsg(2) is refused."""
    records = failed(71, command=failing(f"sendmsg:{errno_name}"))
    assert [record["msg_id"] for record in records] == [10]
    assert errno_name in records[0]["detail"]


def test_a_port_in_use_is_a_bind_failure():
    """12, from a port that somebody really holds."""
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        relay = Relay(NOWHERE, "--bind", "127.0.0.1", wait_active=False, expect_code=69)
        relay.args[0] = str(holder.getsockname()[1])
        with relay:
            relay.finish()
    assert [(r["msg_id"], r["error"]) for r in relay.records[:-1]] == [(12, "EADDRINUSE")]
    assert relay.records[-1]["reason"] == "failed"


def test_a_foreign_address_is_a_bind_failure():
    """12, for an address that is nobody's (TEST-NET-1)."""
    records = failed(69, "--bind", "192.0.2.1")
    assert [(r["msg_id"], r["error"]) for r in records] == [(12, "EADDRNOTAVAIL")]


def test_a_system_without_ipv6_listens_on_ipv4():
    """All interfaces are then those that there are."""
    with (
        listening() as server,
        Relay(server.getsockname(), command=failing("socket,0=10:EAFNOSUPPORT")) as relay,
    ):
        assert relay.wait("relay.active")["listen_ip"] == "0.0.0.0"  # noqa: S104 - what is expected
        with relay.connect() as client, accept(server) as target:
            echo(client, target)


@pytest.mark.parametrize(
    "rule",
    ["setsockopt,1=1,2=10:EOPNOTSUPP", "setsockopt,1=1,2=10:ENOPROTOOPT", "setsockopt,1=6,2=1:EPERM"],
    ids=["SO_OOBINLINE", "SO_OOBINLINE of an old kernel", "TCP_NODELAY"],
)
def test_an_option_of_a_socket_that_can_be_left_out(rule):
    """Neither is needed to relay; a sandbox, or another protocol than TCP, may refuse it."""
    with listening() as server, Relay(server.getsockname(), command=failing(rule)) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            reset(client)
            assert ends_with_reset(target)
        assert relay.wait("session.closed")["error"] == "ECONNRESET"


def test_an_option_of_a_socket_that_cannot_be_left_out():
    """11: without SO_LINGER a transfer that is cut would look complete to the other side."""
    records = failed(69, command=failing("setsockopt,1=1,2=13:EPERM"))
    assert [(11, "EPERM")] == [(record["msg_id"], record["error"]) for record in records]


# What mptcpize(8) does: all TCP sockets are MPTCP sockets.
MPTCPIZE = f"""
import socket
class Made(socket.SocketType):
    def __init__(self, family=-1, kind=-1, proto=-1, fileno=None):
        if fileno is None and family in (socket.AF_INET, socket.AF_INET6) and proto < 1:
            proto = {MPTCP}
        super().__init__(family, kind, proto, fileno)
whole = socket.socket.__init__
def made(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=-1, fileno=None):
    if fileno is None and family in (socket.AF_INET, socket.AF_INET6) and proto < 1:
        proto = {MPTCP}
    whole(self, family, type, proto, fileno)
socket.SocketType, socket.socket.__init__ = Made, made
"""


@pytest.mark.parametrize("client_protocol", [MPTCP, socket.IPPROTO_TCP], ids=["from MPTCP", "from TCP"])
@pytest.mark.parametrize("target_protocol", [MPTCP, socket.IPPROTO_TCP], ids=["to MPTCP", "to TCP"])
def test_a_relay_of_mptcp_sockets(tmp_path, client_protocol, target_protocol):
    """Such a socket refuses SO_OOBINLINE. Bulk data, half-close and resets are as ever."""
    try:
        socket.socket(proto=MPTCP).close()
    except OSError as refused:
        pytest.skip(f"this kernel has no MPTCP: {refused}")
    data = pattern(8 << 20)
    with socket.socket(proto=target_protocol) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with Relay(server.getsockname(), "--bind", "127.0.0.1", env=with_site(tmp_path, MPTCPIZE)) as relay:

            def connect() -> socket.socket:
                client = socket.socket(proto=client_protocol)
                client.settimeout(PATIENCE)
                client.connect(("127.0.0.1", relay.port))
                return client

            with connect() as client, accept(server) as target:
                sending = threading.Thread(target=send_whole, args=(client, data))
                sending.start()
                assert receive(target) == data
                sending.join()
                send_whole(target, data)
                assert receive(client) == data
            closed = relay.wait("session.closed")
            assert (closed["reason"], closed["error"]) == ("requester_read_closed", None)
            assert (closed["bytes_to_client"], closed["bytes_to_target"]) == (len(data), len(data))
            with connect() as client, accept(server) as target:
                echo(client, target)
                reset(client)
                assert ends_with_reset(target)
            closed = relay.wait("session.closed", 2)
            assert (closed["error"], closed["error_from"]) == ("ECONNRESET", "client")
            for _ in range(50):
                with connect() as client, accept(server) as target:
                    send_whole(target, b"answer")
                    client.shutdown(socket.SHUT_WR)
                    assert receive(client) == b"answer"
                    assert receive(target) == b""
            relay.wait("session.closed", 50, error=None, client_end="end", target_end="end")


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("import select; del select.epoll", "epoll"),
        ("import socket; del socket.SCM_RIGHTS", "SCM_RIGHTS"),
        ("import socket; del socket.SOCK_SEQPACKET", "SOCK_SEQPACKET"),
    ],
)
def test_a_python_that_lacks_something_is_unsupported(tmp_path, code, lacks):
    """10: a record says what is missing, and no import fails over it."""
    records = failed(71, env=with_site(tmp_path, code))
    assert [record["msg_id"] for record in records] == [10]
    assert lacks in records[0]["detail"]


def test_a_coarse_clock_is_refused(tmp_path):
    """1: with the 15.6 ms of an old Windows no timeout can be trusted."""
    code = """
import time, types
info = time.get_clock_info
time.get_clock_info = lambda name: types.SimpleNamespace(**{**vars(info(name)), "resolution": 0.0156})
"""
    records = failed(71, env=with_site(tmp_path, code))
    assert [record["msg_id"] for record in records] == [1]


def test_without_processes_nothing_can_start():
    """14: fork(2) gives EAGAIN, for the outlet, which is the first."""
    (record,) = failed(70, command=failing(*NO_PROCESS))
    assert (record["msg_id"], record["error"]) == (14, "EAGAIN")
    assert record["detail"].startswith("the outlet could not be started: ")


def test_without_threads_the_outlet_cannot_start():
    """14: clone(2) gives EAGAIN for its thread; the workers had begun already. What it says reaches stderr."""
    with Relay(NOWHERE, wait_active=False, expect_code=70, command=failing(*NO_THREAD), quiet=False) as relay:
        relay.finish()
        (failure,) = relay.all("pool.start_failed")
        how = "ended before it was ready (exit code 71): mprelay: the outlet: can't start new thread"
        assert failure["detail"] == f"the outlet {how}"
        assert {r["event"] for r in relay.records if r["msg_id"] is None} <= {
            "worker.started",
            "worker.exited",
            "relay.stopped",
        }
        assert "mprelay: the outlet: can't start new thread" in relay.errors


def test_a_hard_limit_too_low_is_refused_with_numbers():
    """14: what is needed and what there is; nothing was started."""
    records = failed(70, "--max-sessions", "500", command=limited("-n 300"))
    assert [record["msg_id"] for record in records] == [14]
    assert "300" in records[0]["detail"]
    assert "500 sessions" in records[0]["detail"]


def test_a_low_soft_limit_is_raised():
    """The sessions asked for fit, in supervisor and workers."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "100", command=limited("-Sn 64")) as relay,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(relay.connect()) for _ in range(100)]
        targets = [stack.enter_context(accept(server)) for _ in clients]
        relay.wait("session.connected", count=100)
        for target in targets:
            target.sendall(b"whole")
        assert [receive(client, 5) for client in clients] == [b"whole"] * 100
        assert not relay.all("session.closed")


def test_a_low_soft_limit_is_raised_for_the_supervisor_too():
    """Few sessions, many workers: it is the supervisor that needs the descriptors."""
    with Relay(NOWHERE, "--max-sessions", "20", workers=16, command=limited("-Sn 40")) as relay:
        assert len(relay.workers()) == 16


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_cannot_start_end_the_run(tmp_path, workers):
    """14 after a bounded number of tries, without a hang."""
    started = tmp_path / "started"
    note = f"os.write(os.open({str(started)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x')"
    code = IN_WORKERS + note + "; os._exit(9)"
    records = failed(70, workers=workers, env=with_site(tmp_path, code))
    assert records[-1]["msg_id"] != 15
    assert [record["msg_id"] for record in records].count(14) == 1
    exited = [record for record in records if record["event"] == "worker.exited"]
    assert {9} == {record["exitcode"] for record in exited if record["signal"] is None}
    (failed_start,) = (record for record in records if record["msg_id"] == 14)
    assert "ended before it was ready (exit code 9), 6 times in a row" in failed_start["detail"]
    assert workers <= started.stat().st_size <= 10 * workers


def test_workers_that_cannot_be_replaced_end_the_run(tmp_path):
    """14 and exit 70: a pool that cannot be kept alive; the sessions of the dead worker are accounted for."""
    broken = tmp_path / "broken"
    env = with_site(tmp_path, IN_WORKERS + f"os.path.exists({str(broken)!r}) and os._exit(9)")
    with listening() as server, Relay(server.getsockname(), workers=1, expect_code=70, env=env) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            broken.touch()
            os.kill(relay.workers()[1], signal.SIGKILL)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.finish()
        assert relay.records[-1]["reason"] == "failed"
        assert [relay.process.returncode, relay.all("pool.start_failed")[0]["msg_id"]] == [70, 14]
        assert relay.records[-1]["closed"] == {"worker_lost": 1}


def test_a_worker_that_hangs_at_its_start_ends_the_run(tmp_path):
    """14 after the start limit, and the worker does not survive it."""
    env = with_site(tmp_path, IN_WORKERS + "import signal; signal.pause()")
    records = failed(70, workers=1, env=env)
    assert [record["msg_id"] for record in records].count(14) == 1


# -- new connections: 22, 20, 19, 27 -------------------------------------------------------------------------


def test_a_supervisor_without_descriptors_pauses_and_goes_on():
    """22: no busy loop, sessions in flight unhurt, and whoever waited is served."""
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
        times = [moment(record["timestamp"]) for record in failures]
        assert all(later - earlier > 0.9 for earlier, later in pairwise(times)), times
        assert all(record["count"] <= 11 for record in failures)


def test_a_supervisor_without_descriptors_still_keeps_its_statistics():
    """Measuring needs descriptors as well; that it cannot measure is no reason to end anything."""
    with listening() as server, Relay(server.getsockname(), "--stats-interval", "0.1") as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            with limit(relay.process.pid, resource.RLIMIT_NOFILE, 3):
                relay.wait("relay.stats", count=len(relay.all("relay.stats")) + 3)
                echo(client, target)
        assert not relay.all("internal.error")


def test_a_worker_with_no_descriptor_for_the_target():
    """19: the client's socket still fits, the target's does not."""
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
        echo(old, old_target)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)


def test_a_worker_with_no_descriptor_for_the_client():
    """20: not even the socket that was handed over fits (MSG_CTRUNC)."""
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
        echo(old, old_target)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
        assert {1: pid} == relay.workers()


def test_a_target_socket_that_is_refused():
    """19, by the system as a whole; the listener is of the other family."""
    with Relay(NOWHERE, command=failing("socket,0=2:ENFILE")) as relay:
        assert relay.knock().reset
        assert says(relay.wait("session.closed")) == (19, "target_socket_failed", "ENFILE")


@pytest.mark.parametrize(
    ("errno_name", "text"),
    [("EADDRNOTAVAIL", "Cannot assign requested address"), ("ENETUNREACH", "Network is unreachable")],
)
def test_a_connect_that_fails_at_once(errno_name, text):
    """27, with the errno that says which failure it was, and its text in the message."""
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
    pid = relay.process.pid
    links = {fd: str(Path(f"/proc/{pid}/fd/{fd}").readlink()) for fd in descriptors(pid, "socket:[")}
    return [fd for fd, link in links.items() if link[8:-1] in seqpacket]


@pytest.mark.parametrize("errno_name", ["ETOOMANYREFS", "EAGAIN", "ENOBUFS"])
def test_a_refused_hand_over(errno_name):
    """20 with the errno where there is only one worker; with two the other one gets the session."""
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


# With the room that a system grants by default (net.core.wmem_default) some hundred messages fill a channel:
# setsockopt(SOL_SOCKET, SO_SNDBUF) succeeds and does nothing.
SMALL_CHANNELS = failing("setsockopt,1=1,2=7:0")


def fill(relay: Relay, stack: contextlib.ExitStack, full) -> None:
    """Connect, one after another so that each is a message of its own, until `full()`."""
    for count in range(1, 1500):
        stack.enter_context(relay.connect())
        relay.wait("connection.accepted", session=count)
        if full():
            return
    pytest.fail("the channel of a stopped worker never filled")


@pytest.mark.usefixtures("many_files")
def test_a_full_channel_refuses_and_does_not_block():
    """20 with EAGAIN: the only worker is stopped; the supervisor goes on, and can end the run."""
    options = ("--max-sessions", "1500", "--drain-timeout", "0.1")
    with Relay(NOWHERE, *options, workers=1, command=SMALL_CHANNELS) as relay, contextlib.ExitStack() as stack:
        os.kill(relay.workers()[1], signal.SIGSTOP)
        fill(relay, stack, lambda: relay.all("session.closed"))
        assert says(relay.all("session.closed")[0]) == (20, "handoff_failed", "EAGAIN")
        assert relay.stop() == 0
        last = relay.records[-1]
        assert {"handoff_failed", "drained"} == set(last["closed"])
        assert last["admitted"] == sum(last["closed"].values())


@pytest.mark.usefixtures("many_files")
def test_a_full_channel_sends_sessions_to_the_other_worker():
    """Nobody is refused while another worker takes sessions, and those sessions live."""
    options = ("--max-sessions", "1500", "--drain-timeout", "0.1")
    with (
        listening(backlog=2048) as server,
        Relay(server.getsockname(), *options, command=SMALL_CHANNELS) as relay,
        contextlib.ExitStack() as stack,
    ):

        def taken(worker: int) -> int:
            return len(relay.all("session.allocated", worker=worker))

        os.kill(relay.workers()[1], signal.SIGSTOP)
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
    """29, 30: epoll_ctl(2) refuses to add one of the two; both peers are reset, and the slot comes back."""
    with listening() as server:
        # The same run, whole, to learn the descriptors.
        with Relay(server.getsockname(), workers=1) as relay, relay.connect() as client, accept(server):
            relay.wait("session.connected")
            worker = psutil.Process(relay.workers()[1])
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
    """No failure: bulk data is copied, whole, and the session ends normally."""
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
    """Relay much, both ways at once: all of it arrives, nobody is blamed, and no pipe is kept.

    `pause` is called before anybody reads: with the worker, and the descriptors that it had before.
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


@pytest.mark.parametrize("errno_name", ["EPERM", "ENOSYS", "EINVAL", "EACCES", "EOPNOTSUPP", "ENOMEM"])
def test_splicing_that_is_refused(errno_name):
    """What a sandbox refuses is no error of a peer: the flow goes back to copying."""
    with listening() as server:
        bulk_both_ways(server, command=failing(f"splice:{errno_name}"))


@pytest.mark.parametrize("errno_name", ["EPERM", "EINVAL"])
def test_splicing_that_is_refused_with_data_in_the_pipe(errno_name):
    """What was taken from a source already is delivered by copying."""
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
        bulk_both_ways(server, env=with_site(tmp_path, IN_WORKERS + refusing(*rules)))


@pytest.mark.parametrize("errno_name", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("first", ["client", "target"])
def test_a_half_close_that_is_refused(tmp_path, first, errno_name):
    """shutdown(2): the end of data cannot be passed on by itself. The session goes on and ends normally."""
    answer = pattern(1 << 20)
    env = with_site(tmp_path, IN_WORKERS + refusing(f"shutdown:{errno_name}"))
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
def test_questions_that_the_system_does_not_answer(tmp_path, rule):
    """How much is unacknowledged, and our own address: a session can be relayed without both."""
    env = with_site(tmp_path, IN_WORKERS + refusing(rule))
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
def test_no_memory_for_what_a_peer_does_not_take(flood, msg_id, reason, tool):
    """32, 36: the rest of a read must be kept, there is no memory to keep it in, and no pipe to take it."""
    data = pattern(1 << 20)
    just_enough = (tool("prlimit"), "--nofile=1017:1017", PROGRAM)  # for 500 sessions, without one pipe
    with (
        listening() as server,
        Relay(server.getsockname(), workers=1, command=just_enough) as relay,
        contextlib.ExitStack() as stack,
    ):
        pairs = []
        for count in range(1, 65):  # what the worker's heap has to spare may keep the bytes of a good many
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


def test_no_memory_for_the_buffers_of_a_session():
    """32 or 36, whichever buffer no longer fits: the session is refused, those before it go on."""
    options = ("--buffer", "4000", "--max-sessions", "1000", "--idle-timeout", "60")
    with (
        listening(backlog=1024) as server,
        Relay(server.getsockname(), *options, workers=1) as relay,
        contextlib.ExitStack() as stack,
    ):
        first = stack.enter_context(relay.connect())
        first_target = stack.enter_context(accept(server))
        echo(first, first_target)
        with limit(relay.workers()[1], resource.RLIMIT_AS, 1):
            for count in range(2, 1000):
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
