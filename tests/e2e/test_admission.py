"""Admission: by address, at the limit, after a pause, in a flood, and without a listener."""

import contextlib
import ctypes
import json
import os
import resource
import select
import selectors
import socket
import threading
from collections import Counter
from contextlib import ExitStack, suppress

import psutil
import pytest
from support.judge import moment
from support.launching import run
from support.params import slow
from support.patches import (
    ACCEPT_PAUSE,
    ACCEPTOR,
    CLIENT_GONE_ERRNOS,
    IN_SUPERVISOR,
    assigned,
    replaced,
    with_site,
)
from support.peers import (
    accept,
    answering,
    both_end,
    echo,
    echoing,
    ends_with_reset,
    listening,
    port_of,
    receive,
    reset,
)
from support.processes import limit
from support.relay import Relay, failing, open_sessions
from support.waiting import PATIENCE, eventually

ENTRIES = [
    # entry, IPv4 clients from 127.0.0.1, IPv6 clients from ::1
    ("any", True, True),
    ("127.0.0.1/32", True, False),
    ("127.9.9.9/255.0.0.0", True, False),
    ("127.0.0.2/32", False, False),
    ("0.0.0.0/0", True, False),
    ("::ffff:127.0.0.1/128", True, False),
    ("::1/128", False, True),
    ("::2/128", False, False),
    ("::/0", False, True),
]

PIDFD_GETFD = 438  # asm-generic/unistd.h


# -- by address ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "ipv4", "ipv6"), [*ENTRIES[:4], *slow(*ENTRIES[4:])], ids=[row[0] for row in ENTRIES]
)
def test_each_kind_of_entry_lets_in_its_own_clients(entry, ipv4, ipv6):
    """Each kind of entry meets a client of each family on the one listener: eighteen combinations."""
    with listening() as server, Relay(server.getsockname(), acl=entry) as relay:
        assert entry == relay.wait("relay.active")["acl"]
        for address, allowed in (("127.0.0.1", ipv4), ("::1", ipv6)):
            if allowed:
                with relay.connect(address) as client, accept(server) as target:
                    port = client.getsockname()[1]
                    client.sendall(b"in")
                    assert receive(target, 2) == b"in"
                    both_end(client, target)
                closed = relay.wait("session.closed", client_ip=address, client_port=port)
                assert closed["bytes_from_client"] == 2
            else:
                port = relay.knock(address, source=address).port
                rejected = relay.wait("connection.rejected", client_ip=address, client_port=port)
                assert rejected["acl"] == "no entry"
            assert len(relay.all("connection.attempt", client_ip=address, client_port=port)) == 1
        relay.stop()
        last = relay.records[-1]
        assert [ipv4, ipv6].count(True) == last["admitted"]
        assert [ipv4, ipv6].count(False) == last["rejected"]


def test_a_refused_client_never_reaches_the_target():
    with listening() as server, Relay(server.getsockname(), acl="10.0.0.0/8") as relay:
        for _ in range(5):
            assert relay.knock(say=b"let me in").heard == b""
        relay.wait("connection.rejected", 5)
        assert select.select([server], [], [], 0)[0] == []


@pytest.mark.parametrize("acl", ["127.0.0.30/8", "127.0.0.30/255.0.0.0"])
def test_equivalent_acl_entries_let_the_same_client_in(acl):
    """Host bits may be set: only the bits of the mask count."""
    with listening() as server, Relay(server.getsockname(), acl=acl) as relay:
        with relay.connect(), accept(server):
            assert relay.wait("connection.accepted")["client_ip"] == "127.0.0.1"
        assert relay.all("connection.rejected") == []


def test_the_first_entry_that_matches_decides(tmp_path):
    """A list with denials, and a file in its middle. Each rejection names its entry as it was written."""
    rules = tmp_path / "rules"
    rules.write_bytes(
        b"\xef\xbb\xbf# the office\r\n127.0.1.0/24\r\n\r\n  !127.0.0.0/255.255.0.0  # and no others\r\n"
    )
    acl = f"!127.0.1.9/32,@{rules},127.0.0.0/8"
    with listening() as server, Relay(server.getsockname(), acl=acl) as relay:
        assert relay.wait("relay.active")["acl"] == acl
        for source, entry in (
            ("127.0.1.9", "!127.0.1.9/32"),
            ("127.0.1.8", None),
            ("127.0.2.1", "!127.0.0.0/255.255.0.0"),
            ("127.1.0.1", None),
        ):
            if entry is None:
                with relay.connect(source=source) as client, accept(server) as target:
                    echo(client, target)
            else:
                assert relay.knock(source=source).heard == b""
                assert relay.wait("connection.rejected", client_ip=source)["acl"] == entry
        assert relay.knock("::1", source="::1").heard == b""
        assert relay.wait("connection.rejected", client_ip="::1")["acl"] == "no entry"


def test_every_wrong_entry_of_a_file_is_told(tmp_path):
    """Three errors are three records, each with the line, and nothing was bound."""
    rules = tmp_path / "rules"
    rules.write_text("10.0.0.0/8\n10.0.0.1\n!10.0.0.0/8\n10.0.0.0/33\nanybody\n")
    done = run("8080", "127.0.0.1", "9", f"@{rules}")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert [(record["msg_id"], record["value"]) for record in records] == [
        (5, "10.0.0.1"),
        (5, "10.0.0.0/33"),
        (5, "anybody"),
    ]
    for record, line in zip(records, (2, 4, 5), strict=True):
        assert f" in line {line} of " in record["problem"]


@pytest.mark.parametrize(
    ("client", "acl", "answer", "code"),
    [
        ("10.1.2.3", "!10.1.0.0/16,ANY", "rejected: !10.1.0.0/16", 1),
        ("10.2.2.3", "!10.1.0.0/16,ANY", "allowed: ANY", 0),
        ("2001:db8::1", "10.0.0.0/8", "rejected: no entry", 1),
        ("::ffff:10.0.0.1", "10.0.0.0/8", "allowed: 10.0.0.0/8", 0),
    ],
)
def test_the_decision_can_be_asked_for(client, acl, answer, code):
    done = run("--acl-test", client, acl)
    assert (done.stdout.decode().splitlines(), done.stderr, done.returncode) == ([answer], b"", code)


@pytest.mark.parametrize(
    "arguments", [[], ["10.0.0.1"], ["10.0.0.1", "ANY", "x"], ["x", "ANY"], ["::1", "10.0.0.1"]]
)
def test_a_wrong_question_is_told(arguments):
    done = run("--acl-test", *arguments)
    assert done.returncode == 2
    assert all(json.loads(line)["event"] == "config.invalid" for line in done.stdout.splitlines())
    assert done.stdout.count(b"\n") == 1


# -- at the limit --------------------------------------------------------------------------------------------


def take_refused(clients, count):
    """Take the clients that were refused out of `clients`, as soon as they are `count`.

    Their records would tell less: with a slow reader of stdout, refusals are summed up.
    """
    refused = 0
    with selectors.DefaultSelector() as selector:
        for client in clients.values():
            selector.register(client, selectors.EVENT_READ)
        while refused < count:
            ready = selector.select(PATIENCE)
            assert ready, f"{refused} were refused"
            for key, _mask in ready:
                with suppress(ConnectionResetError):
                    assert key.fileobj.recv(1) == b""
                selector.unregister(key.fileobj)
                del clients[port_of(key.fileobj)]
                refused += 1
    assert refused == count


@pytest.mark.usefixtures("many_files")
def test_exactly_500_of_520_get_in_and_then_one_for_each_that_leaves():
    """The limit is global, over all workers. Each freed slot is reused, and only once."""
    with echoing() as server, Relay(server.getsockname(), workers=4) as relay, contextlib.ExitStack() as stack:
        clients = {}
        for _ in range(520):
            client = stack.enter_context(relay.connect(source="127.0.0.1"))
            clients[port_of(client)] = client
        take_refused(clients, 20)
        relay.wait("session.target_channel_active", 500)
        assert Counter(record["worker"] for record in relay.all("session.connected")) == {
            1: 125,
            2: 125,
            3: 125,
            4: 125,
        }
        for number, (port, client) in enumerate(list(clients.items())[:100]):
            del clients[port]
            if number % 2:
                reset(client)
            else:
                client.shutdown(socket.SHUT_WR)
                assert receive(client) == b""
        relay.wait("session.closed", 100)
        for _ in range(150):
            client = stack.enter_context(relay.connect(source="127.0.0.1"))
            clients[port_of(client)] = client
        take_refused(clients, 50)
        relay.wait("session.target_channel_active", 600)
        assert len(relay.all("connection.accepted")) == 600
        for client in clients.values():
            client.sendall(b"echo")
        assert [receive(client, 4) for client in clients.values()] == [b"echo"] * 500
        for client in clients.values():
            reset(client)
        relay.wait("session.closed", 600)
    assert tuple(relay.records[-1][name] for name in ("attempts", "exhausted", "admitted")) == (670, 70, 600)
    assert {(21, 500)} >= {(r["msg_id"], r["active"]) for r in relay.all("connection.pool_exhausted")}


def test_freed_slots_are_free_for_clients_that_came_later():
    """A busy supervisor (here: stopped) first reads which sessions ended, then decides about waiting clients."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "40", workers=1) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 40)
        relay.suspend()
        try:
            for client, target in made:
                client.shutdown(socket.SHUT_WR)
                assert receive(target) == b""
                target.close()
                assert receive(client) == b""
            late = [stack.enter_context(relay.connect(source="127.0.0.1")) for _ in range(30)]
        finally:
            relay.resume()
        relay.wait("connection.attempt", 70)
        assert relay.all("connection.pool_exhausted") == []
        relay.wait("session.connected", 70)
        for client in late:
            reset(client)


@pytest.mark.parametrize("slots", [1, 4])
def test_a_pool_serves_as_many_clients_as_it_has_slots(slots):
    """Each client reconnects as soon as it was served, while the end of its last session is still in progress."""
    rounds = 200 // slots
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", str(slots)) as relay,
        answering(server, b"served"),
    ):
        served = []

        def come_again():
            for _ in range(rounds):
                with suppress(ConnectionResetError), relay.connect() as client:
                    served.append(receive(client))

        threads = [threading.Thread(target=come_again) for _ in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert served.count(b"served") >= 0.97 * slots * rounds


def test_clients_above_the_limit_are_refused():
    """Every one of them is refused, and the sessions that hold the slots are unaffected."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "3") as relay,
        ExitStack() as stack,
    ):
        inside = [(stack.enter_context(relay.connect()), stack.enter_context(accept(server))) for _ in range(3)]
        waiting = [stack.enter_context(relay.connect()) for _ in range(100)]
        for client in waiting:
            ends_with_reset(client)
        for client, target in inside:
            echo(client, target)
        assert {(21, 3)} == {
            (record["msg_id"], record["active"]) for record in relay.all("connection.pool_exhausted")
        }
        relay.stop()
        assert len(relay.all("connection.pool_exhausted")) == 10
        (rest,) = relay.all("connection.refused_more")
        assert (rest["client_ip"], rest["refused"], rest["count"]) == ("127.0.0.1", "exhausted", 90)
    assert relay.records[-1]["exhausted"] == 100


# -- after a pause -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.wall_clock("the connect timeout, which bounds a client's wait")
@pytest.mark.posix("connection.abandoned")
def test_after_a_stalled_log_only_clients_that_still_wait_are_admitted():
    """A client that has reset or waited too long does not reach the target. A client that ended its data does."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--connect-timeout", "1") as relay,
        ExitStack() as stack,
    ):
        with answering(server):
            relay.stall()
        late = stack.enter_context(relay.connect())
        late.sendall(b"POST /pay")
        late.close()
        with relay.connect() as patient:  # so that `late` has waited for more than a second
            patient.settimeout(1.1)
            with pytest.raises(TimeoutError):
                patient.recv(1)
        client = stack.enter_context(relay.connect())
        client.sendall(b"GET /")
        client.shutdown(socket.SHUT_WR)  # as nc -N does
        gone = relay.connect()
        ports = [sock.getsockname()[1] for sock in (client, gone)]
        gone.sendall(b"POST /pay")
        reset(gone)
        relay.reading.set()
        with accept(server) as target:
            assert receive(target) == b"GET /"
            target.sendall(b"here")
        assert receive(client) == b"here"
        resumed = relay.wait("admission.resumed")
        assert resumed["paused_s"] > 2
        assert resumed["waiting"] >= 4
        assert relay.wait("connection.abandoned", client_port=ports[1])["waited_ms"] <= 1100
        assert relay.wait("connection.accepted", client_port=ports[0])["seq"] > resumed["seq"]
        waited = [record["waited_ms"] for record in relay.all("connection.abandoned")]
        assert len(waited) == len(relay.all("connection.abandoned", level="warning")) >= 3
        assert sum(ms > 1000 for ms in waited) == len(waited) - 1
        (paused,) = relay.all("admission.paused")
        assert (paused["level"], resumed["level"]) == ("warning", "info")
        assert moment(resumed["timestamp"]) - moment(paused["timestamp"]) == pytest.approx(
            resumed["paused_s"], abs=0.1
        )
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.posix("RLIMIT_NOFILE")
def test_a_client_that_waits_for_descriptors_may_give_up():
    """Admission also pauses when accept(2) fails."""
    with listening() as server, Relay(server.getsockname()) as relay, ExitStack() as stack:
        with limit(relay.process.pid, resource.RLIMIT_NOFILE, 3):
            gone = relay.connect()
            port = gone.getsockname()[1]
            client = stack.enter_context(relay.connect())
            relay.wait("connection.accept_failed")
            reset(gone)
        target = stack.enter_context(accept(server))
        echo(client, target)
        assert relay.wait("connection.abandoned")["client_port"] == port


@pytest.mark.posix("an accept() that returns a connection which was reset before")
def test_without_a_pause_no_client_counts_as_abandoned():
    """A client that resets at once is a session like any other: the bytes that it sent are delivered."""
    with listening() as server, Relay(server.getsockname()) as relay:
        for _ in range(20):
            client = relay.connect()
            client.sendall(b"x")
            reset(client)
        relay.wait("session.closed", 20)
        assert not relay.all("connection.abandoned")


# -- a flood of refused connections --------------------------------------------------------------------------


@pytest.mark.slow
def test_refused_connections_leave_room_in_the_log_for_the_others():
    """The collector stands still. A flood from outside the ACL does not pause admission; it is summed up.

    No address comes more often than is recorded one by one.
    """
    flood = 5000  # records of 2.5 MiB; on Windows the way to the outlet holds one
    with (
        listening() as server,
        Relay(server.getsockname(), acl="127.0.0.1/32") as relay,
        ExitStack() as stack,
    ):
        relay.reading.clear()
        for number in range(flood):
            assert relay.knock(source=f"127.1.{number % 500 // 250}.{number % 250 + 1}").heard == b""
        client = stack.enter_context(relay.connect())
        target = stack.enter_context(accept(server))
        echo(client, target)
        relay.reading.set()
        total = relay.wait("connection.refused_more", refused="rejected")
        assert moment(total["first_at"]) <= moment(total["last_at"]) <= moment(total["timestamp"])
        assert not relay.all("admission.paused")
        assert relay.knock(source="127.0.0.3").heard == b""  # summed up no longer
        relay.wait("connection.rejected", client_ip="127.0.0.3")
        relay.stop()
        alone = len(relay.all("connection.rejected"))
        assert 100 < alone < flood
        assert alone + sum(record["count"] for record in relay.all("connection.refused_more")) == flood + 1


def test_a_flood_from_one_address_costs_few_records():
    """The first ten are recorded one by one. The rest is summed up, and recorded at the end at the latest."""
    with listening() as server, Relay(server.getsockname(), acl="127.0.0.1/32") as relay:
        for number in range(300):
            assert relay.knock(source=f"127.0.1.{number % 3}").heard == b""
        relay.stop()
        assert Counter(record["client_ip"] for record in relay.all("connection.rejected")) == dict.fromkeys(
            (f"127.0.1.{number}" for number in range(3)), 10
        )
        assert len(relay.all("connection.attempt")) == 30
        totals = {record["client_ip"]: record["count"] for record in relay.all("connection.refused_more")}
        assert totals == dict.fromkeys((f"127.0.1.{number}" for number in range(3)), 90)
        assert relay.records[-1]["rejected"] == 300


@pytest.mark.slow
def test_5000_connections_in_one_burst(many_files):
    """Each connection is answered: 500 by the target, those from outside the ACL by 17, all others by 21.

    None hangs.
    """
    if many_files < 7000:
        pytest.skip(f"a limit of {many_files} open files")
    with (
        listening(backlog=4096) as server,
        selectors.DefaultSelector() as selector,
        Relay(server.getsockname(), acl="127.0.0.0/9", workers=4) as relay,
        contextlib.ExitStack() as stack,
    ):
        with answering(server, b"!", hold=True):
            for number in range(5000):
                source = f"127.{200 if number % 5 == 4 else 1}.{number % 250}.1"
                client = stack.enter_context(relay.connect(source=source, wait=False))
                selector.register(client, selectors.EVENT_READ)
            heard = Counter()
            while selector.get_map():
                ready = selector.select(PATIENCE)
                assert ready, f"{len(selector.get_map())} were not answered; answered so far: {heard}"
                for key, _mask in ready:
                    try:
                        heard[key.fileobj.recv(2)] += 1
                    except ConnectionResetError:
                        heard[b""] += 1
                    selector.unregister(key.fileobj)
        assert heard == {b"!": 500, b"": 4500}
        relay.wait("session.allocated", 500)
        assert {record["worker"] for record in relay.all("session.allocated")} == {1, 2, 3, 4}
    stopped = relay.records[-1]  # a slow reader of the log gets some refusals as sums
    assert (stopped["rejected"], stopped["exhausted"], stopped["admitted"]) == (1000, 3500, 500)


# -- the listener --------------------------------------------------------------------------------------------


def destroy_listener(relay):
    """Destroy the relay's listener from outside, as ``ss -K`` does."""
    (number,) = {
        connection.fd
        for connection in psutil.Process(relay.process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    process = os.pidfd_open(relay.process.pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if copy < 0:
        pytest.skip(f"a descriptor of another process: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=copy) as listener:
        listener.shutdown(socket.SHUT_RD)


@pytest.mark.posix("pidfd_getfd(2)")
def test_a_destroyed_listener_is_replaced():
    """The port is open again, sessions are unaffected, and it may happen again."""
    with (
        listening() as server,
        Relay(server.getsockname()) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        for number in (1, 2):
            echo(client, target)
            destroy_listener(relay)
            gone = relay.wait("connection.accept_failed", number)
            assert (gone["msg_id"], gone["error"], gone["count"]) == (22, "EINVAL", 1)
            with relay.connect_once_open() as other, accept(server) as other_target:
                echo(other, other_target)


@pytest.mark.posix("seccomp(2)")
@pytest.mark.parametrize("errno_name", ["EINVAL", *slow("EBADF", "ENOTSOCK")])
def test_a_listener_that_never_works_ends_the_relay(errno_name):
    """The relay makes one more listener. If that fails too, the relay ends with 69 and records why."""
    with (
        listening() as server,
        Relay(server.getsockname(), command=failing(f"accept4:{errno_name}"), expect_code=69) as relay,
    ):

        def knocked_in_vain():
            with suppress(ConnectionError), relay.connect() as client:
                ends_with_reset(client)
            return relay.process.poll() is not None

        eventually(knocked_in_vain, "the end of the relay")
        relay.finish()
        assert relay.all("connection.accept_failed", error=errno_name)
        assert relay.wait("listener.listen_failed")["error"] == errno_name
        assert relay.records[-1]["reason"] == "failed"


@pytest.mark.posix("seccomp(2)")
@pytest.mark.slow
@pytest.mark.parametrize("errno_name", ["ENOBUFS", *slow("ENOMEM", "EPERM", "ECONNABORTED")])
def test_a_repeated_passing_error_is_summed_up(errno_name):
    """Record 22 names the errno and the count, once a second. The relay stays up and can be stopped."""
    with listening() as server, Relay(server.getsockname(), command=failing(f"accept4:{errno_name}")) as relay:
        with relay.connect():
            records = [relay.wait("connection.accept_failed", count, error=errno_name) for count in (1, 2, 3)]
        times = [moment(record["timestamp"]) for record in records]
        assert times[1] - times[0] > 0.9
        assert times[2] - times[1] > 0.9
        assert records[0]["count"] == 1
        assert all(2 < record["count"] <= 11 for record in records[1:])
        assert relay.stop() == 0
        assert relay.records[-1]["attempts"] == 0


ANOTHERS_ERRORS = replaced(
    ACCEPTOR,
    """
from errno import ECONNRESET
left = [ECONNRESET] * 3
def broken(listener):
    accept = whole(listener)
    def accept_next():
        if left:
            raise OSError(left.pop(), "Connection reset by peer")
        return accept()
    return accept_next
""",
)
"""Accept(2) fails three times, as on Windows if clients have reset their connections before."""


def test_an_error_of_accept_that_is_one_clients_holds_up_no_other(tmp_path):
    """Record 22 has it. The next client is accepted at once: a pause would never end here."""
    code = ANOTHERS_ERRORS + assigned(ACCEPT_PAUSE, "1e9") + "\n" + assigned(CLIENT_GONE_ERRNOS, "{ECONNRESET}")
    env = with_site(tmp_path, f"{IN_SUPERVISOR}exec({code!r})")
    with (
        listening() as server,
        Relay(server.getsockname(), env=env) as relay,
        relay.connect() as client,
        accept(server) as target,
    ):
        echo(client, target)
        failed = relay.wait("connection.accept_failed")
        assert (failed["msg_id"], failed["error"], failed["count"]) == (22, "ECONNRESET", 1)


def sleeps(relay):
    """How often the supervisor has gone to sleep so far."""
    return psutil.Process(relay.process.pid).num_ctx_switches().voluntary


@pytest.mark.posix("seccomp(2)")
@pytest.mark.slow
def test_errors_of_accept_that_are_not_recorded_yet_are_recorded_at_the_end():
    """Summing up loses no error."""
    with listening() as server, Relay(server.getsockname(), command=failing("accept4:ENOMEM")) as relay:
        with relay.connect():
            relay.wait("connection.accept_failed", 2)
            tries = sleeps(relay)
            eventually(lambda: sleeps(relay) > tries + 1, "another try")
        assert relay.stop() == 0
        assert len(relay.all("connection.accept_failed")) >= 3
        draining = relay.wait("relay.draining")["seq"]
        assert relay.all("connection.accept_failed")[-1]["seq"] < draining
