"""How a run ends: by expiry, by a signal, or killed. No process, listener or session is left."""

import contextlib
import os
import signal
import socket
import threading
import time

import psutil
import pytest
from support.judge import moment
from support.launching import PYTHON_EXE
from support.params import slow
from support.peers import accept, echoing, ends_with_reset, is_shut, listening, port_of, receive, reset_arrives
from support.processes import end_within
from support.relay import NOWHERE, Relay, open_sessions
from support.waiting import PATIENCE, eventually

MIB = 1 << 20

STOPS = [
    signal.SIGTERM,
    *slow(signal.SIGINT),
    pytest.param(signal.SIGQUIT, marks=[pytest.mark.slow, pytest.mark.posix("SIGQUIT")]),
]


# -- expired -------------------------------------------------------------------------------------------------


@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_expiry_ends_everything_within_a_second():
    """Sessions, the listener and every process end."""
    with listening() as server, Relay(server.getsockname(), "--absolute-timeout", "2") as relay:
        expires = moment(relay.wait("relay.active")["expires_at"])
        family = relay.family()
        with relay.connect() as client, accept(server) as target, relay.connect() as other, accept(server):
            relay.wait("session.target_channel_active", 2)
            code = relay.process.wait(PATIENCE)
            late = time.time() - expires
            assert code == 0
            assert 0 <= late < 1
            assert psutil.wait_procs(family, PATIENCE)[1] == []
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            assert ends_with_reset(other)
        relay.finish()
        assert [record["reason"] for record in relay.all("session.closed")] == ["relay_expired"] * 2
        assert relay.records[-1]["reason"] == "expired"
        assert relay.records[-1]["closed"] == {"relay_expired": 2}
        assert len(relay.all("relay.expired")) == 1


def judge_expiry(relay: Relay, reasons: dict[str, int] | None = None, own_end: float = 1.0) -> None:
    """Record 23 and the end come at the absolute timeout, within the second of docs/contract.md (The end).

    `own_end`: seconds that the interpreter may take in addition to exit.
    """
    assert relay.process.wait(PATIENCE) == 0
    ended = time.time()
    relay.finish()
    expires_at = moment(relay.wait("relay.active")["expires_at"])
    (expired,) = relay.all("relay.expired")
    last = relay.records[-1]
    assert (last["event"], last["reason"]) == ("relay.stopped", "expired")
    assert reasons is None or reasons == last["closed"]
    assert expires_at <= moment(expired["timestamp"])
    assert moment(last["timestamp"]) - expires_at <= 1.0
    assert ended - expires_at <= 1.0 + own_end


@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_expiry_with_a_stopped_worker():
    """A stopped worker (SIGSTOP) delays nothing, whether its sessions are old or were just handed over."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "3") as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 6)
        relay.worker(1).suspend()
        late = [stack.enter_context(relay.connect()) for _ in range(4)]
        relay.wait("session.allocated", 10)
        family = relay.family()
        judge_expiry(relay, {"relay_expired": 10}, own_end=0)
        assert psutil.wait_procs(family, PATIENCE)[1] == []
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        # What a worker had not taken when it died is not reset on Windows, but ended.
        assert all(ends_with_reset(client) or PYTHON_EXE for client in late)


@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_expiry_with_every_worker_stopped():
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "3") as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 4)
        for number in relay.workers():
            relay.worker(number).suspend()
        judge_expiry(relay, {"relay_expired": 4})
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)


@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_expiry_with_peers_that_do_not_read_and_with_quiet_ones():
    """Data stuck behind a peer does not delay the end. A target that never answered does not either."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--absolute-timeout", "3") as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 4)
        half_closed = made[3][0]
        half_closed.shutdown(socket.SHUT_WR)
        for sender in (made[0][0], made[1][1]):
            sender.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    sender.send(bytes(MIB))
            sender.settimeout(PATIENCE)
        judge_expiry(relay, {"relay_expired": 4})
        assert reset_arrives(made[0][1])
        assert reset_arrives(made[1][0])
        for client, target in made[2:]:
            assert reset_arrives(client)
            assert reset_arrives(target)


@pytest.mark.slow
@pytest.mark.wall_clock("the one second that docs/contract.md allows for an expiry")
def test_expiry_under_load():
    """New connections and data keep coming until the end and beyond it."""
    over = threading.Event()

    def load(relay: Relay) -> None:
        held: list[socket.socket] = []
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ConnectionRefusedError):
                while not over.is_set():
                    held.append(stack.enter_context(relay.connect(source="127.0.0.1")))
                    with contextlib.suppress(OSError):  # a client that was refused, or whose relay has expired
                        held[-1].sendall(b"x" * 1000)
                    if len(held) > 50:
                        with held.pop(0) as oldest, contextlib.suppress(OSError):
                            oldest.recv(1000)
            over.wait(PATIENCE)  # else they may be closed before the expiry ends any of them

    with echoing() as server, Relay(server.getsockname(), "--absolute-timeout", "3") as relay:
        threads = [threading.Thread(target=load, args=(relay,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            judge_expiry(relay)
        finally:
            over.set()
            for thread in threads:
                thread.join(PATIENCE)
        last = relay.records[-1]
        assert last["closed"]["relay_expired"] > 0
        order = [record["event"] for record in relay.records]
        expired = order.index("relay.expired")
        reasons = {r["reason"] for r in relay.records[:expired] if r["event"] == "session.closed"}
        assert "relay_expired" not in reasons


@pytest.mark.slow
def test_workers_keep_the_absolute_timeout_while_the_supervisor_is_stopped():
    """After the supervisor goes on, everything is as if it had not been stopped."""
    with listening() as server, Relay(server.getsockname(), "--absolute-timeout", "5") as relay:
        with relay.connect() as client, accept(server) as target:
            client.sendall(b"x")
            assert receive(target, 1) == b"x"
            relay.wait("session.allocated")  # the supervisor has closed its copy of the client's socket
            relay.suspend()
            assert ends_with_reset(client)
            assert ends_with_reset(target)
            relay.resume()
        assert relay.finish() == 0
        assert relay.wait("session.closed")["reason"] == "relay_expired"
        assert relay.records[-1]["reason"] == "expired"


@pytest.mark.slow
def test_expiry_does_not_wait_for_a_drain():
    with listening() as server:
        options = ["--drain-timeout", "3600", "--absolute-timeout", "5"]
        with Relay(server.getsockname(), *options) as relay, relay.connect() as client, accept(server):
            relay.wait("session.target_channel_active")
            relay.signal()
            relay.wait("relay.draining")
            assert ends_with_reset(client)
            assert relay.finish() == 0
            assert relay.records[-1]["reason"] == "expired"
            assert relay.records[-1]["closed"] == {"relay_expired": 1}


# -- a signal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOPS)
def test_signal_drains(number):
    """The listener closes, open sessions may finish, and the exit code is 0."""
    with listening() as server, Relay(server.getsockname()) as relay:
        family = relay.family()
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.signal(number)
            assert relay.wait("relay.draining")["active"] == 1
            assert is_shut(relay.port)
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b"question"
            target.sendall(b"answer")
            target.close()
            assert receive(client) == b"answer"
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "drained"
        assert relay.records[-1]["closed"] == {"requester_read_closed": 1}
        assert psutil.wait_procs(family, PATIENCE)[1] == []


@pytest.mark.parametrize("number", STOPS)
def test_signal_without_sessions(number):
    with Relay(NOWHERE, "--drain-timeout", "3600") as relay:
        assert relay.stop(number) == 0
        assert relay.records[-1]["reason"] == "drained"


@pytest.mark.posix("multiprocessing's resource tracker")
def test_a_stopped_helper_does_not_delay_the_end():
    """Multiprocessing has a helper process, and waits for its end."""
    with Relay(NOWHERE) as relay:
        (helper,) = [process for process in relay.family() if "resource_tracker" in " ".join(process.cmdline())]
        helper.suspend()
        assert relay.stop() == 0
        assert psutil.wait_procs([helper], PATIENCE)[1] == []


def test_signal_while_starting():
    with Relay(NOWHERE, workers=6, wait_active=False) as relay:
        relay.wait("worker.started")
        assert relay.stop() == 0
        assert relay.records[-1]["reason"] == "drained"


def test_a_signal_while_many_workers_start_is_handled_at_once():
    """Each turn starts one worker. Workers that were not ready are ended without any complaint."""
    with Relay(("127.0.0.1", 9), workers=64, wait_active=False) as relay:
        eventually(lambda: len(relay.family()) > 2, "a worker, beside outlet and resource tracker")
        relay.signal()
        relay.wait("relay.draining")
        assert relay.finish() == 0
        assert len(relay.all("worker.exited")) < 64
        assert {r["level"] for r in relay.all("worker.exited")} == {"info"}


@pytest.mark.parametrize("second", STOPS)
def test_second_signal_cuts_the_drain_short(second):
    """The sessions are closed as drained, and both peers see a reset."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", "3600") as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.signal()
            relay.wait("relay.draining")
            assert relay.all("session.closed") == []
            relay.signal(second)
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "signal"
        assert relay.records[-1]["closed"] == {"drained": 1}


@pytest.mark.parametrize("seconds", [0, 1])
def test_drain_has_a_cap(seconds):
    """After --drain-timeout the remaining sessions are closed as drained."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", str(seconds)) as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            relay.signal()
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "signal"
        assert relay.records[-1]["closed"] == {"drained": 1}
        drained = moment(relay.wait("session.closed")["timestamp"]) - moment(
            relay.wait("relay.draining")["timestamp"]
        )
        assert drained > seconds - 0.01


@pytest.mark.posix("process groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_process_group(number):
    """Ctrl-C reaches workers and outlet too. They ignore it: sessions finish, and every record is written."""
    with listening() as server, Relay(server.getsockname(), start_new_session=True) as relay:
        with relay.connect() as client, accept(server) as target:
            relay.wait("session.target_channel_active")
            os.killpg(relay.process.pid, number)
            relay.wait("relay.draining")
            for pid in relay.workers().values():
                os.kill(pid, signal.SIGTERM)
            client.sendall(b"still")
            assert receive(target, 5) == b"still"
            client.shutdown(socket.SHUT_WR)
            target.close()
            assert receive(client) == b""
        assert relay.finish() == 0
        assert relay.records[-1]["reason"] == "drained"


@pytest.mark.slow
def test_drain_with_a_stopped_worker():
    """Its sessions end with the drain timeout. Those of the other worker may still finish."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", "1") as relay:
        with contextlib.ExitStack() as stack:
            made = open_sessions(stack, relay, server, 4)
            relay.worker(1).suspend()
            stopped = relay.held_by(1)
            assert len(stopped) == 2
            relay.signal()
            assert relay.wait("relay.draining")["active"] == 4
            for client, target in made:
                if port_of(client) not in stopped:
                    client.sendall(b"the last words")
                    client.shutdown(socket.SHUT_WR)
                    assert receive(target) == b"the last words"
                    target.close()
                    assert receive(client) == b""
            assert relay.finish() == 0
            for client, target in made:
                if port_of(client) in stopped:
                    assert ends_with_reset(client)
                    assert ends_with_reset(target)
        last = relay.records[-1]
        assert last["closed"] == {"requester_read_closed": 2, "drained": 2}
        assert last["reason"] == "signal"
        assert moment(last["timestamp"]) - moment(relay.wait("relay.draining")["timestamp"]) >= 1.0


def test_drain_with_a_stopped_worker_that_has_no_session():
    """No session is left, so the relay is drained although that worker cannot answer."""
    with listening() as server, Relay(server.getsockname(), "--drain-timeout", "60") as relay:
        relay.worker(2).suspend()
        assert relay.stop() == 0
        assert (relay.records[-1]["reason"], relay.records[-1]["closed"]) == ("drained", {})


# -- killed --------------------------------------------------------------------------------------------------


@pytest.mark.alone("two seconds for all that a killed supervisor leaves")
def test_a_killed_supervisor_leaves_no_session_and_no_worker():
    """Without its supervisor nothing would be recorded, so the peers see resets and the workers end."""
    with (
        listening() as server,
        Relay(server.getsockname(), workers=3) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 6)
        family = relay.family()
        assert len(family) == 5 - bool(PYTHON_EXE)  # workers, outlet and, on POSIX, resource tracker
        relay.kill()
        assert end_within(2, family)
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        with pytest.raises(ConnectionRefusedError):
            relay.connect()


def test_a_killed_supervisor_takes_stopped_workers_with_it():
    """A stopped worker cannot see that its supervisor is gone, so the kernel ends it."""
    with (
        listening() as server,
        Relay(server.getsockname()) as relay,
        contextlib.ExitStack() as stack,
    ):
        made = open_sessions(stack, relay, server, 4)
        family = relay.family()
        for number in relay.workers():
            relay.worker(number).suspend()
        relay.kill()
        for client, target in made:
            assert ends_with_reset(client)
            assert ends_with_reset(target)
        assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []
