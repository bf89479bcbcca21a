"""Who is let in when that is not simple: at the limit, after a pause, in a flood, without ports or listener."""

import ctypes
import os
import resource
import socket
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
from support.judge import moment
from support.network import Namespace
from support.peers import accept, answering, echo, ends_with_reset, listening, receive, reset
from support.processes import limit
from support.relay import Relay, failing
from support.waiting import eventually

PIDFD_GETFD = 438  # asm-generic/unistd.h


# -- at the limit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 4])
def test_a_pool_serves_as_many_clients_as_it_has_slots(slots):
    """Each client comes back as soon as it has been served, as the end of its last session is under way."""
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


def test_whoever_is_too_many_is_refused():
    """All of them, and the sessions that hold the slots notice nothing."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--max-sessions", "3") as relay,
        ExitStack() as stack,
    ):
        inside = [(stack.enter_context(relay.connect()), stack.enter_context(accept(server))) for _ in range(3)]
        waiting = [stack.enter_context(relay.connect()) for _ in range(100)]
        for client in waiting:
            ends_with_reset(client)
        relay.wait("connection.pool_exhausted", 100, active=3)
        for client, target in inside:
            echo(client, target)


# -- after a pause -------------------------------------------------------------------------------------------


def test_after_a_stalled_log_only_those_are_admitted_who_still_wait():
    """Neither a client that has reset nor one that waited too long reaches the target; an end of data does."""
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


def test_whoever_waits_for_descriptors_may_give_up():
    """The other pause: accept(2) has failed."""
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


def test_nobody_is_abandoned_where_nothing_has_paused():
    """A client that resets at once is a session as any other: what it said is delivered."""
    with listening() as server, Relay(server.getsockname()) as relay:
        for _ in range(20):
            client = relay.connect()
            client.sendall(b"x")
            reset(client)
        relay.wait("session.closed", 20)
        assert not relay.all("connection.abandoned")


# -- a flood of refused connections --------------------------------------------------------------------------


def test_refused_connections_leave_room_in_the_log_for_the_others():
    """The collector stands still. A flood from outside the ACL does not pause admission; it is summed up."""
    flood = 3000  # records of 2 MiB
    with (
        listening() as server,
        Relay(server.getsockname(), acl="127.0.0.1/32") as relay,
        ExitStack() as stack,
    ):
        relay.reading.clear()
        for _ in range(flood):
            assert relay.knock(source="127.0.0.2").heard == b""
        client = stack.enter_context(relay.connect())
        target = stack.enter_context(accept(server))
        echo(client, target)
        relay.reading.set()
        total = relay.wait("connection.refused_more", client_ip="127.0.0.2", refused="rejected")
        alone = len(relay.all("connection.rejected"))
        assert alone + total["count"] == flood
        assert alone > 100
        assert moment(total["first_at"]) < moment(total["last_at"]) <= moment(total["timestamp"])
        assert not relay.all("admission.paused")
        assert relay.knock(source="127.0.0.3").heard == b""  # when the log moves again each has its own record
        relay.wait("connection.rejected", client_ip="127.0.0.3")


def test_what_is_summed_up_is_recorded_before_the_end():
    """And the totals are exact."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--log-detail", "session", acl="127.0.0.1/32") as relay,
    ):
        relay.reading.clear()
        for number in range(3000):
            assert relay.knock(source=f"127.0.1.{number % 3}").heard == b""
        relay.process.terminate()
        relay.reading.set()
        assert relay.finish() == 0
        totals = relay.all("connection.refused_more")
        assert {record["client_ip"] for record in totals} == {f"127.0.1.{number}" for number in range(3)}
        assert len(relay.all("connection.rejected")) + sum(record["count"] for record in totals) == 3000
        assert relay.records[-1]["rejected"] == 3000


# -- no local port towards the target ------------------------------------------------------------------------


@pytest.fixture
def few_ports(tool):
    """A network in which an outgoing connection gets one of four ports."""
    tool("ip")
    try:
        namespace = Namespace()
    except OSError as lack:
        pytest.skip(f"no namespace to be had: {lack}")
    with closing(namespace):
        namespace.run("ip", "link", "set", "lo", "up")
        with namespace.inside():
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40003")
        yield namespace


def test_without_ports_sessions_are_tried_once_a_second(few_ports):
    """All ports towards the target are taken: no flood of failures; when one is free, who waits is served."""
    with few_ports.inside(), ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 15000)))
        server.settimeout(20)
        relay = stack.enter_context(Relay(("127.0.0.1", 15000), workers=1))
        sessions = []
        for number in range(4):
            client = stack.enter_context(relay.connect(source="127.0.0.1", port=16000 + number))
            target = stack.enter_context(accept(server))
            echo(client, target)
            sessions.append((client, target))
        stack.enter_context(relay.connect(source="127.0.0.1", port=16010))
        relay.wait("session.closed", reason="connect_failed")
        waiting = [
            stack.enter_context(relay.connect(source="127.0.0.1", port=17000 + number)) for number in range(2)
        ]
        failures = [relay.wait("session.closed", count, reason="connect_failed") for count in (1, 2)]
        assert {"EADDRNOTAVAIL"} == {record["error"] for record in failures}
        first, second = (moment(record["timestamp"]) for record in failures)
        assert second - first > 0.9
        reset(sessions[0][0])
        target = stack.enter_context(accept(server))
        echo(waiting[1], target)
        assert relay.all("session.closed", reason="connect_failed") == failures
        for client, target in sessions[1:]:
            echo(client, target)
        reset(waiting[1])
        relay.wait("session.closed", 4)
        with relay.connect(source="127.0.0.1", port=17010) as client, accept(server) as target:
            echo(client, target)  # at once: ports are found again


def test_a_port_that_was_found_ends_the_search_whatever_the_target_does(few_ports):
    """The target no longer answers, so all time out. They are not admitted one by one for that."""
    with few_ports.inside(), ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 15001), backlog=0))
        server.settimeout(20)
        relay = stack.enter_context(Relay(("127.0.0.1", 15001), workers=1))
        sessions = []
        for number in range(4):
            client = stack.enter_context(relay.connect(source="127.0.0.1", port=16100 + number))
            sessions.append((client, stack.enter_context(accept(server))))
            echo(*sessions[-1])
        stack.enter_context(relay.connect(source="127.0.0.1", port=16110))
        relay.wait("session.closed", reason="connect_failed")
        for client, _target in sessions:
            reset(client)
        relay.wait("session.closed", 5)
        filler = stack.enter_context(socket.socket())
        filler.bind(("127.0.0.1", 16120))
        filler.connect(("127.0.0.1", 15001))  # its queue is full: further SYNs are dropped
        for number in range(4):
            stack.enter_context(relay.connect(source="127.0.0.1", port=17100 + number))
        relay.wait("session.closed", 4, reason="connect_timeout")
        assert not relay.all("connection.abandoned")


def test_without_an_address_to_send_from_nobody_waits_for_a_port(few_ports):
    """connect(2) gives the same error, EADDRNOTAVAIL. All are told at once."""
    with few_ports.inside():
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        with Relay(("::1", 15002), workers=1) as relay, ExitStack() as stack:
            for number in range(8):
                client = stack.enter_context(relay.connect(source="127.0.0.1", port=16200 + number))
                assert ends_with_reset(client)
            relay.wait("session.closed", 8, reason="connect_failed", error="EADDRNOTAVAIL")
            times = [moment(record["timestamp"]) for record in relay.all("session.closed")]
            assert times[-1] - times[0] < 5


# -- the listener --------------------------------------------------------------------------------------------


def destroy_listener(relay):
    """End the relay's listener behind its back, as ``ss -K`` does."""
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


def test_a_listener_that_was_destroyed_is_replaced():
    """The door is open again, sessions notice nothing, and it may happen again."""
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


@pytest.mark.parametrize("errno_name", ["EINVAL", "EBADF", "ENOTSOCK"])
def test_a_listener_that_never_works_ends_the_relay(errno_name):
    """One more is made; then the relay has failed (69), and says so."""
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


@pytest.mark.parametrize("errno_name", ["ENOBUFS", "ENOMEM", "EPERM", "ECONNABORTED"])
def test_a_passing_error_that_repeats_is_summed_up(errno_name):
    """22 names the errno, once a second with how many; the relay stays and can be stopped."""
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


def test_errors_of_accept_that_were_not_recorded_yet_are_recorded_at_the_end():
    """No error is lost by the summing up."""
    with listening() as server, Relay(server.getsockname(), command=failing("accept4:ENOMEM")) as relay:
        with relay.connect():
            relay.wait("connection.accept_failed", 2)
            tries = sleeps(relay)
            eventually(lambda: sleeps(relay) > tries + 1, "another try")
        assert relay.stop() == 0
        assert len(relay.all("connection.accept_failed")) >= 3
        draining = relay.wait("relay.draining")["seq"]
        assert relay.all("connection.accept_failed")[-1]["seq"] < draining


def sleeps(relay):
    """How often the supervisor has gone to sleep so far."""
    return psutil.Process(relay.process.pid).num_ctx_switches().voluntary
