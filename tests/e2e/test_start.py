"""The start: what the parameters mean, what the relay needs, and what it reports when it cannot begin."""

import contextlib
import os
import socket
import sys
from pathlib import Path

import psutil
import pytest
from support.judge import check_run, moment, parse
from support.launching import PROGRAM, PYTHON_EXE, run
from support.patches import first_in_workers, with_site
from support.peers import accept, both_end, echo, ends_with_reset, listening, receive, reset
from support.relay import NOWHERE, Relay, failed_start, failing
from support.relay import run as run_command
from support.waiting import eventually

from mprelay.system import cpus

NAMES = ["mprelay", "mprelay-outlet", "mprelay-w1", "mprelay-w2"]

# The flags of fork(3) and vfork(2): SIGCHLD with CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, or with
# CLONE_VM | CLONE_VFORK. A thread has other flags.
NO_PROCESS = ["fork:EAGAIN", "vfork:EAGAIN", "clone,0=0x1200011:EAGAIN", "clone,0=0x4111:EAGAIN"]

NO_THREAD = ["clone3:EAGAIN", "clone:EAGAIN"]


# -- parameters take effect ----------------------------------------------------------------------------------


def start(*args: str, target=("127.0.0.1", 9), **options) -> Relay:
    """Make a relay whose command line after TRG_PORT is `args`, verbatim."""
    relay = Relay(target, **options)
    relay.args = [*relay.args[:3], *args]
    return relay


def test_defaults():
    """Only the four required positions are given."""
    with listening() as server, start("ANY", target=server.getsockname()) as relay:
        active = relay.wait("relay.active")
        assert active["workers"] == max(2 if PYTHON_EXE else 1, min(8, cpus.usable()))
        assert active["max_sessions"] == 500
        assert active["expires_at"] is None
        assert active["acl"] == "ANY"
        assert active["listen_port"] == relay.port
        assert "labels" not in active
        assert set(relay.workers()) == set(range(1, active["workers"] + 1))
        for count, address in enumerate(("127.0.0.1", "::1"), 1):
            with relay.connect(address), accept(server):
                assert relay.wait("connection.attempt", count)["client_ip"] == address


@pytest.mark.posix("taskset(1)")
def test_default_workers_are_the_usable_cpus(tool):
    """The CPUs usable by this process count, not those present in the machine."""
    cpu = str(min(os.sched_getaffinity(0)))
    with start("ANY", command=(tool("taskset"), "-c", cpu, PROGRAM)) as relay:
        assert relay.wait("relay.active")["workers"] == 1


@pytest.fixture
def half_a_cpu():
    """The processes file of a control group that gets half of a CPU's time."""
    parent = Path("/sys/fs/cgroup/cpu")
    version_1 = parent.is_dir()
    group = (parent if version_1 else Path("/sys/fs/cgroup")) / f"mprelay-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as failure:
        pytest.skip(f"no control group to be had: {failure}")
    try:
        name, text = ("cpu.cfs_quota_us", "50000") if version_1 else ("cpu.max", "50000 100000")
        try:
            (group / name).write_text(text)
        except OSError as failure:
            pytest.skip(f"no CPU quota to be had: {failure}")
        yield group / "cgroup.procs"
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text(), "nobody is in it")
        group.rmdir()


@pytest.mark.posix("control groups")
def test_default_workers_are_not_more_than_the_cpu_quota_allows(half_a_cpu, tool):
    """A container's quota is rounded up."""
    command = (tool("sh"), "-c", f'echo $$ >{half_a_cpu} && exec "$@"', "sh", PROGRAM)
    with start("ANY", command=command) as relay:
        assert relay.wait("relay.active")["workers"] == 1


def test_last_four_by_position_take_effect():
    """Idle timeout 1, absolute timeout 100, buffer 100."""
    with listening() as server, start("ANY", "1", "1", "100", "100", target=server.getsockname()) as relay:
        assert relay.wait("relay.active")["expires_at"] is not None
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x" * 1000)
            assert receive(target, 1000) == b"x" * 1000
            assert relay.wait("session.closed")["reason"] == "idle_timeout"
            assert ends_with_reset(client)


def test_units_take_effect():
    """An idle timeout of one second, and an expiry in two hours."""
    with listening() as server, start("ANY", "1s", "1s", "2h", target=server.getsockname()) as relay:
        active = relay.wait("relay.active")
        assert 7190 < moment(active["expires_at"]) - moment(active["timestamp"]) <= 7200
        with relay.connect(), accept(server):
            assert relay.wait("session.closed")["reason"] == "idle_timeout"


@pytest.mark.slow
def test_last_four_by_option_take_effect():
    """The same values, with options before and between the positions."""
    with listening() as server:
        relay = Relay(server.getsockname())
        port, host, target_port = relay.args[:3]
        relay.args = ["--idle-timeout=1", port, "--workers", "1", host, target_port, "--buffer", "100", "any"]
        relay.args += ["--max-sessions", "254"]  # as many as one worker holds on Windows
        relay.args += ["--absolute-timeout", "100", "--connect-timeout", "1"]
        with relay:
            active = relay.wait("relay.active")
            assert active["expires_at"] is not None
            assert active["workers"] == 1
            with relay.connect() as client, accept(server):
                assert relay.wait("session.closed")["reason"] == "idle_timeout"
                assert ends_with_reset(client)


def test_max_sessions_is_over_all_workers():
    """Two workers have one session together."""
    with listening() as server, Relay(server.getsockname(), "--max-sessions", "1") as relay:
        assert relay.wait("relay.active")["max_sessions"] == 1
        with relay.connect(), accept(server), relay.connect():
            assert relay.wait("connection.pool_exhausted")["active"] == 1


def client_family(address: str) -> str:
    """The address family of a client."""
    return "IPv6" if ":" in address else "IPv4"


@pytest.mark.parametrize(
    ("bind", "open_at", "shut_at"),
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.2", "::1"]),
        ("::1", "::1", ["127.0.0.1"]),
        ("0.0.0.0", "127.0.0.2", ["::1"]),  # noqa: S104 - what is tested
    ],
)
def test_it_listens_on_the_bind_address_and_nowhere_else(bind, open_at, shut_at):
    with listening() as server, Relay(server.getsockname(), "--bind", bind, acl="ANY") as relay:
        active = relay.wait("relay.active")
        assert (bind, relay.port) == (active["listen_ip"], active["listen_port"])
        for address in shut_at:
            with pytest.raises(ConnectionRefusedError):
                relay.connect(address)
        with relay.connect(open_at) as client, accept(server) as target:
            both_end(client, target)
        assert client_family(open_at) == client_family(relay.wait("session.closed")["client_ip"])


@pytest.mark.posix("a command that tests can signal")
def test_as_a_module_it_is_the_same_program():
    """`python -m mprelay` and `mprelay` start the same relay."""
    command = (sys.executable, "-m", "mprelay")
    with (
        listening() as server,
        Relay(server.getsockname(), command=command) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        client.sendall(b"module")
        assert receive(target, 6) == b"module"


@pytest.mark.posix("multiprocessing's resource tracker")
def test_a_frozen_program_runs_its_children_itself(tmp_path):
    """In a PyInstaller build sys.executable is the program, so multiprocessing starts it for each child."""
    program = tmp_path / "frozen"
    code = "sys.frozen, sys.executable = True, __file__\nfrom mprelay.__main__ import main\nmain()\n"
    program.write_text(f"#!{sys.executable}\nimport sys\n{code}")
    program.chmod(0o755)
    with listening() as server, Relay(server.getsockname(), command=(str(program),)) as relay:
        assert len(relay.family()) == 4  # two workers, the outlet, the resource tracker
        (tracker,) = [child for child in relay.family() if "resource_tracker" in " ".join(child.cmdline())]
        assert str(program) in tracker.cmdline()
        relay.worker(1).kill()
        relay.wait("worker.started", 3)
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
    assert relay.records[-1]["reason"] == "drained"


# -- the processes -------------------------------------------------------------------------------------------


def shown(relay):
    """Name and command line of each process of the relay, except multiprocessing's own helper."""
    processes = [psutil.Process(relay.process.pid), *relay.family()]
    both = {process.name(): " ".join(process.cmdline()) for process in processes}
    return {name: line.strip() for name, line in both.items() if "resource_tracker" not in line}


@pytest.mark.posix("process titles")
def test_each_process_has_a_title():
    """The supervisor's title shows its state."""
    with listening() as server, Relay(server.getsockname(), "--label", "who=Zoë") as relay:
        titles = shown(relay)
        assert sorted(titles) == NAMES
        assert titles["mprelay-outlet"] == "mprelay: outlet"
        assert titles["mprelay-w1"] == "mprelay: worker 1"
        assert titles["mprelay-w2"] == "mprelay: worker 2"
        assert titles["mprelay"] == f"mprelay: supervisor {' '.join(relay.args)}"


@pytest.mark.posix("process titles")
def test_without_setproctitle_each_process_has_a_name(tmp_path):
    """A package of that name without its extension module takes the real one's place."""
    (tmp_path / "setproctitle").mkdir()
    (tmp_path / "setproctitle" / "__init__.py").write_text("")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    with listening() as server, Relay(server.getsockname(), env=env) as relay:
        titles = shown(relay)
        assert sorted(titles) == NAMES
        assert titles["mprelay"] == f"{sys.executable} {PROGRAM} {' '.join(relay.args)}"
        assert "spawn_main" in titles["mprelay-w1"]


@pytest.mark.posix("a shell's <&-")
def test_with_stdin_closed_sessions_work():
    """No socket may get the number of a standard stream."""
    closed_stdin = ("bash", "-c", f'exec {PROGRAM} "$@" <&-', "mprelay")
    with (
        listening() as server,
        Relay(server.getsockname(), command=closed_stdin) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive(target) == b"question"


# -- the listener: 11 to 13 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "0.0.0.0")],  # noqa: S104
)
def test_occupied_port(family, host):
    """Another process listens on it, on one address or all: 12, and no worker was started."""
    with listening(family, host) as server:
        done = run(str(server.getsockname()[1]), "127.0.0.1", "9", "ANY", "--label", "ticket=7")
    assert (done.returncode, done.stderr) == (69, b"")
    records = parse(done.stdout)
    check_run(records)
    assert [record["event"] for record in records] == ["listener.bind_failed", "relay.stopped"]
    assert (records[0]["msg_id"], records[0]["error"]) == (12, "EADDRINUSE")
    assert records[0]["message"] == "Error: Could not bind listener port to socket."
    assert records[1]["reason"] == "failed"
    assert [record["labels"] for record in records] == [{"ticket": "7"}] * 2


def test_second_relay_on_the_same_port():
    """The first relay is unaffected."""
    with listening() as server, Relay(server.getsockname()) as relay:
        done = run(*relay.args)
        assert done.returncode == 69
        with relay.connect(), accept(server):
            relay.wait("session.target_channel_active")


@pytest.mark.posix("privileged ports")
def test_privileged_port_as_an_ordinary_user(tool):
    """EACCES also means that the port could not be bound."""
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first_free <= 1:
        pytest.skip("net.ipv4.ip_unprivileged_port_start lets everybody bind every port")
    words = ()
    if (
        os.geteuid() == 0
    ):  # an ordinary user might be unable to read the program, so root runs it without this right
        without = "-net_bind_service"
        words = (tool("setpriv"), "--inh-caps", without, "--bounding-set", without)
    done = run_command(*words, PROGRAM, str(first_free - 1), "127.0.0.1", "9", "ANY")
    assert (done.returncode, done.stderr) == (69, b"")
    records = parse(done.stdout)
    check_run(records)
    assert (records[0]["event"], records[0]["error"]) == ("listener.bind_failed", "EACCES")


def test_a_foreign_address_is_a_bind_failure():
    """Record 12, for an address that belongs to no host (TEST-NET-1)."""
    records = failed_start(69, "--bind", "192.0.2.1")
    assert [(r["msg_id"], r["error"]) for r in records] == [(12, "EADDRNOTAVAIL")]


@pytest.mark.posix("seccomp(2)")
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
    """Message, errno and exit code identify the failed step, and no process or socket is left."""
    records = failed_start(code, command=failing(rule))
    assert [(msg_id, error)] == [(record["msg_id"], record["error"]) for record in records]


@pytest.mark.posix("seccomp(2)")
def test_a_system_without_ipv6_listens_on_ipv4():
    """All interfaces are then those of IPv4."""
    with (
        listening() as server,
        Relay(server.getsockname(), command=failing("socket,0=10:EAFNOSUPPORT")) as relay,
    ):
        assert relay.wait("relay.active")["listen_ip"] == "0.0.0.0"  # noqa: S104 - what is expected
        with relay.connect() as client, accept(server) as target:
            echo(client, target)


@pytest.mark.posix("seccomp(2)")
@pytest.mark.parametrize(
    "rule",
    ["setsockopt,1=1,2=10:EOPNOTSUPP", "setsockopt,1=1,2=10:ENOPROTOOPT", "setsockopt,1=6,2=1:EPERM"],
    ids=["SO_OOBINLINE", "SO_OOBINLINE of an old kernel", "TCP_NODELAY"],
)
def test_socket_options_that_are_optional(rule):
    """Neither is needed for relaying. A sandbox, or a protocol other than TCP, may refuse it."""
    with listening() as server, Relay(server.getsockname(), command=failing(rule)) as relay:
        with relay.connect() as client, accept(server) as target:
            echo(client, target)
            reset(client)
            assert ends_with_reset(target)
        assert relay.wait("session.closed")["error"] == "ECONNRESET"


@pytest.mark.posix("seccomp(2)")
def test_a_socket_option_that_is_required():
    """Record 11: without SO_LINGER a cut transfer would look complete to the other side."""
    records = failed_start(69, command=failing("setsockopt,1=1,2=13:EPERM"))
    assert [(11, "EPERM")] == [(record["msg_id"], record["error"]) for record in records]


# -- the platform: 1, 9, 10 ----------------------------------------------------------------------------------


@pytest.mark.posix("seccomp(2)")
@pytest.mark.parametrize("errno_name", ["EPERM", "EINVAL"])
def test_a_system_that_passes_no_sockets_is_unsupported(errno_name):
    """Record 10: the probe's sendmsg(2) is refused."""
    records = failed_start(71, command=failing(f"sendmsg:{errno_name}"))
    assert [record["msg_id"] for record in records] == [10]
    assert errno_name in records[0]["detail"]


@pytest.mark.posix("epoll(7), SCM_RIGHTS and SOCK_SEQPACKET")
@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("import select; del select.epoll", "epoll"),
        ("import socket; del socket.SCM_RIGHTS", "SCM_RIGHTS"),
        ("import socket; del socket.SOCK_SEQPACKET", "SOCK_SEQPACKET"),
    ],
)
def test_a_python_that_lacks_something_is_unsupported(tmp_path, code, lacks):
    """Record 10 names what is missing, and no import fails because of it."""
    records = failed_start(71, env=with_site(tmp_path, code))
    assert [record["msg_id"] for record in records] == [10]
    assert lacks in records[0]["detail"]


def test_a_coarse_clock_is_refused(tmp_path):
    """Record 1: with the 15.6 ms of an old Windows no timeout can be trusted."""
    code = """
import time, types
info = time.get_clock_info
time.get_clock_info = lambda name: types.SimpleNamespace(**{**vars(info(name)), "resolution": 0.0156})
"""
    (record,) = failed_start(71, env=with_site(tmp_path, code))
    assert (record["msg_id"], record["resolution_s"]) == (1, 0.0156)
    assert record["detail"] == "the clock counts in steps of 0.0156 s; on Windows, Python 3.13 has a finer one"


# -- the pool: 14 --------------------------------------------------------------------------------------------


@pytest.mark.posix("SIGSTOP")
def test_a_stop_signal_that_an_outlet_has_not_survived_is_no_failure(tmp_path):
    """The outlet dies before it is ready. The supervisor stands still, and then sees that before the signal."""
    code = """
import os, signal, subprocess, sys
if "--multiprocessing-fork" in sys.orig_argv and os.fstat(1).st_ino == os.fstat(2).st_ino:
    own, parent = os.getpid(), os.getppid()
    os.kill(parent, signal.SIGSTOP)
    dead = f"until grep -q ') Z ' /proc/{own}/stat; do :; done"
    subprocess.Popen(["sh", "-c", f"{dead}; kill -TERM {parent}; kill -CONT {parent}"])
    os._exit(1)
"""
    with Relay(NOWHERE, wait_active=False, env=with_site(tmp_path, code)) as relay:
        assert relay.finish() == 0
        assert relay.wait("relay.draining")["signal"] == "SIGTERM"
        assert relay.records[-1]["reason"] == "drained"
        assert not relay.all("pool.start_failed")


@pytest.mark.posix("seccomp(2)")
def test_without_processes_nothing_can_start():
    """Record 14: fork(2) gives EAGAIN for the outlet, which starts first."""
    (record,) = failed_start(70, command=failing(*NO_PROCESS))
    assert (record["msg_id"], record["error"]) == (14, "EAGAIN")
    assert record["detail"].startswith("the outlet could not be started: ")


@pytest.mark.posix("seccomp(2)")
def test_without_threads_the_outlet_cannot_start():
    """Record 14: clone(2) gives EAGAIN for its thread, after the workers had begun.

    The outlet's error reaches stderr.
    """
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


def limited(files: str) -> tuple[str, ...]:
    """The command that runs the program under another ``ulimit -n``."""
    return ("/bin/sh", "-c", f'ulimit {files} && exec "$0" "$@"', PROGRAM)


@pytest.mark.posix("RLIMIT_NOFILE")
def test_a_hard_limit_too_low_is_refused_with_numbers():
    """Record 14 has the needed and the available number. No process was started."""
    records = failed_start(70, "--max-sessions", "500", command=limited("-n 300"))
    assert [record["msg_id"] for record in records] == [14]
    assert "300" in records[0]["detail"]
    assert "500 sessions" in records[0]["detail"]


@pytest.mark.posix("RLIMIT_NOFILE")
def test_a_low_soft_limit_is_raised():
    """The requested sessions fit, in supervisor and workers."""
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


@pytest.mark.posix("RLIMIT_NOFILE")
def test_a_low_soft_limit_is_raised_for_the_supervisor_too():
    """With few sessions and many workers, the supervisor is the process that needs the descriptors."""
    with Relay(NOWHERE, "--max-sessions", "20", workers=16, command=limited("-Sn 40")) as relay:
        assert len(relay.workers()) == 16


@pytest.mark.slow
@pytest.mark.alone("six starts of each worker within the ten seconds of the relay's start")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_cannot_start_end_the_run(tmp_path, workers):
    """Record 14 after a bounded number of tries, without a hang."""
    started = tmp_path / "started"
    note = f"os.write(os.open({str(started)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x')"
    code = first_in_workers(note + "; os._exit(9)")
    records = failed_start(70, workers=workers, env=with_site(tmp_path, code))
    assert [record["msg_id"] for record in records].count(14) == 1
    exited = [record for record in records if record["event"] == "worker.exited"]
    assert {9} == {record["exitcode"] for record in exited if record["signal"] is None}
    (failure,) = (record for record in records if record["msg_id"] == 14)
    assert "ended before it was ready (exit code 9), 6 times in a row" in failure["detail"]
    assert workers <= started.stat().st_size <= 10 * workers
