"""Who gets in, what a child process can see, and what the relay leaves on the host."""

import contextlib
import os
import stat
from pathlib import Path
from unittest.mock import ANY

import psutil
import pytest
from support.peers import accept, ends_with_reset, listening, receive
from support.processes import links, opened
from support.relay import PROGRAM, Relay

CLOSE_ON_EXEC = 0o2000000  # as /proc/pid/fdinfo shows O_CLOEXEC


def descriptor_table(pid):
    """A process's open files: descriptor, its target, and whether it is closed on exec."""
    found = []
    for fd, what in links(pid).items():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
            (flags,) = [int(line.split()[1], 8) for line in info.splitlines() if line.startswith("flags")]
            found.append((fd, what, bool(flags & CLOSE_ON_EXEC)))
    return found


@pytest.mark.posix("/proc")
def test_nothing_leaks_from_one_process_into_another():
    """Each process has its own sockets only. A worker has neither the listener nor what the relay inherited."""
    inherited, ours = os.pipe()
    with (
        listening() as server,
        Relay(server.getsockname(), pass_fds=[inherited]) as relay,
        relay.connect() as one,
        relay.connect() as other,
        accept(server),
        accept(server),
    ):
        secret = opened("self", inherited)
        relay.wait("session.target_channel_active", 2)
        assert secret in [what for _fd, what, _ in descriptor_table(relay.process.pid)]
        complaints = {what for fd, what, _closed in descriptor_table(relay.process.pid) if fd in {1, 2}}
        assert len(complaints) == 1  # the channel for complaints, which all processes share
        seen = set()
        for pid in (relay.process.pid, relay.outlet().pid, *relay.workers().values()):
            sockets = [
                what for fd, what, _closed in descriptor_table(pid) if fd > 2 and what.startswith("socket:")
            ]
            assert seen.isdisjoint(sockets)
            assert complaints.isdisjoint(sockets)
            seen.update(sockets)
        for pid in relay.workers().values():
            assert complaints == {what for fd, what, _closed in descriptor_table(pid) if fd in {1, 2}}
            # Two pipes are spawn's own: one to the resource tracker, and the sentinel's other end.
            open_on_exec = [what for fd, what, closed in descriptor_table(pid) if fd > 2 and not closed]
            assert [what.partition(":")[0] for what in open_on_exec] == ["pipe", "pipe"]
        for process in relay.family():
            assert secret not in [what for _fd, what, _ in descriptor_table(process.pid)]
        held = [c for pid in relay.workers().values() for c in psutil.Process(pid).net_connections("tcp")]
        assert {connection.status for connection in held} == {psutil.CONN_ESTABLISHED}
        assert {client.getsockname()[1] for client in (one, other)} <= {c.raddr.port for c in held}
    os.close(inherited)
    os.close(ours)


def test_a_rejected_client_reaches_no_worker_and_costs_no_slot():
    """Every worker is stopped and the only slot is taken. The client is still refused and recorded."""
    options = ("--max-sessions", "1")
    with listening() as server, Relay(server.getsockname(), *options, acl="127.0.0.0/9") as relay:
        with relay.connect() as client, accept(server) as target:
            workers = [relay.worker(number) for number in relay.workers()]
            for worker in workers:
                worker.suspend()
            for number in range(20):
                assert relay.knock(source=f"127.200.0.{number}") == (ANY, b"", True)
            relay.wait("connection.rejected", 20)
            for worker in workers:
                worker.resume()
            client.sendall(b"x")
            assert receive(target, 1) == b"x"
        relay.wait("session.closed")
        relay.stop()
        last = relay.records[-1]
        assert (last["attempts"], last["rejected"], last["exhausted"], last["admitted"]) == (21, 20, 0, 1)


@pytest.mark.parametrize(
    ("acl", "inside"),
    [("::/0", False), ("::ffff:0:0/96", True), ("10.0.0.0/8", False), ("127.0.0.1/32", True), ("::1/128", False)],
)
def test_an_ipv4_client_is_ipv4_even_at_an_ipv6_listener(acl, inside):
    """No entry for IPv6 lets it in, not even the entry for all of IPv6."""
    with listening() as server, Relay(server.getsockname(), acl=acl) as relay:
        with relay.connect("::ffff:127.0.0.1") as client:
            if inside:
                accept(server).close()
            assert ends_with_reset(client) is not inside
        relay.wait("connection.accepted" if inside else "connection.rejected", client_ip="127.0.0.1")


@pytest.mark.posix("capabilities(7)")
@pytest.mark.alone("others make files in /dev/shm too")
def test_it_needs_no_privilege_and_leaves_no_file(tool, tmp_path):
    """This holds for the working directory and for the directories of temporary files, with any umask."""
    without = ["--inh-caps", "-all", "--bounding-set", "-all", "--no-new-privs"]
    command = (tool("setpriv"), *without, PROGRAM) if os.geteuid() == 0 else (PROGRAM,)
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR")}
    shared = set(Path("/dev/shm").iterdir())  # noqa: S108 - to see that nothing is left there
    with (
        listening() as server,
        Relay(server.getsockname(), command=command, cwd=tmp_path, env=os.environ | places, umask=0) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        for pid in relay.workers().values():
            effective = [
                line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "CapEff" in line
            ]
            assert int(effective[0].split()[1], 16) == 0
        client.sendall(b"x")
        assert receive(target, 1) == b"x"
        for pid in (relay.process.pid, *relay.workers().values()):
            files = [what for _fd, what, _ in descriptor_table(pid) if what.startswith("/")]
            assert all(stat.S_ISCHR(Path(what).stat().st_mode) for what in files)
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/dev/shm").iterdir()) <= shared  # noqa: S108
