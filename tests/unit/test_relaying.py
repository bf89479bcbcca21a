"""The worker's loop in one process, with real sockets: what an end-to-end test cannot reach."""

import errno
import os
import select
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from support.peers import accept, free_port, listening, receive, reset, reset_arrives, silent
from support.waiting import eventually

from mprelay.channel.down import Receiver, Sender
from mprelay.core.lifecycle import Input, State
from mprelay.core.protocol import (
    AWAITED_FROM,
    HEADER_TIME,
    Admit,
    Announced,
    Closed,
    CloseReason,
    Connected,
    Expiry,
    Kill,
    NewExpiry,
    NotAnnounced,
    Progress,
    Refuse,
    Settings,
    Targets,
    Ticket,
    Trying,
)
from mprelay.system import boottime, passing, poller, sockets
from mprelay.worker import lingering, pump
from mprelay.worker.lingering import ARRIVAL, LINGER
from mprelay.worker.loop import Loop
from mprelay.worker.proxy_header import make_v1

pytestmark = pytest.mark.posix("SCM_RIGHTS and edges")


class Kept:
    """An uplink that keeps what is reported. It always has room."""

    def __init__(self):
        self.events = []
        self.report = self.events.append
        self.news = threading.Semaphore(0)
        self._told = 0

    @property
    def waiting(self):
        """Whether the relay has anything to report."""
        return len(self.events) > self._told

    def flush(self):
        """Pass the reports to the test."""
        for _ in range(len(self.events) - self._told):
            self.news.release()
        self._told = len(self.events)
        return True

    def settle(self):
        """All is taken at once."""

    def wait(self, kind):
        """Wait for an event of this kind."""
        while not (found := [event for event in self.events[: self._told] if isinstance(event, kind)]):
            assert self.news.acquire(timeout=20)
        return found[-1]


class Running:
    """A worker's loop in a thread, between a sender and an uplink."""

    def __init__(self, target, *others, named=False, **settings):
        chosen = {
            "targets": Targets((target[0], *others), named=named or bool(others)),
            "target_port": target[1],
            "connect_timeout": 3.0,
            "idle_timeout": 300.0,
            "buffer": None,
            "pipes": 2,
            "expiry": None,
            "any_address": True,
            "session_timeout": None,
            "source": None,
            "proxy_protocol": None,
            "awaits_headers": False,
            "keepalive": None,
            "tcp_info": False,
        } | settings
        ours, theirs = passing.channel()
        self.sender = Sender(ours, os.getpid())
        self.uplink = Kept()
        self._inbox = Receiver(theirs)
        self.loop = Loop(Settings(**chosen), self._inbox, self.uplink)
        self._thread = threading.Thread(target=self.loop.run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._close()

    @contextmanager
    def unattended(self):
        """Stop the thread, so that the test takes the turns."""
        try:
            yield
        finally:
            self._stop()
            self.loop.run()
            self._close()

    def _stop(self):
        self.sender.close()

    def _close(self):
        self.loop._poller.close()
        self._inbox.close()

    def admit(self, sock, serial=1, admitted_at=0.0):
        """Hand a client's socket over."""
        self.sender.send([Ticket(serial, admitted_at)], [sock.fileno()])
        sock.close()


@contextmanager
def connected():
    """A client's end, and the relay's."""
    with sockets.listen("127.0.0.1", free_port()) as server:
        far = socket.create_connection(server.getsockname(), timeout=20)
        near, _ = server.accept()
    with far, near:
        yield far, near


@pytest.fixture
def client():
    """One client."""
    with connected() as ends:
        yield ends


def test_on_a_stop_every_session_is_reset_and_reported(client):
    """The end of the inbox is the stop. The supervisor knows the reason."""
    far, near = client
    with listening() as server:
        with Running(server.getsockname()) as running:
            running.admit(near)
            target = accept(server)
            running.uplink.wait(Connected)
            far.sendall(b"hello")
            assert receive(target, 5) == b"hello"
        with target, pytest.raises(ConnectionResetError):
            target.recv(1)
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.bytes_from_client) == (None, 5)
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_a_header_that_came_in_time_is_seen_before_its_time_is_believed_over(monkeypatch):
    """Also if so much else happens that it is not among the events of the first turns."""
    monkeypatch.setattr(poller.Poller, "EVENTS_AT_ONCE", 1)
    with listening() as server, ExitStack() as stack:
        running = Running(server.getsockname(), awaits_headers=True)
        pairs = [stack.enter_context(connected()) for _ in range(5)]
        with running.unattended():
            began = time.monotonic() - HEADER_TIME - 1
            for number, (far, _near) in enumerate(pairs):
                far.sendall(make_v1(("192.0.2.7", number), ("192.0.2.1", 80)))
            tickets = [Ticket(AWAITED_FROM + number, began) for number in range(len(pairs))]
            running.sender.send(tickets, [near.fileno() for _far, near in pairs])
            for _ in range(30):
                if running.loop._turn() and len(running.uplink.events) == len(pairs):
                    break
        announced = [event for event in running.uplink.events if isinstance(event, Announced)]
        assert sorted(event.client_port for event in announced) == list(range(5))


@pytest.mark.parametrize("at", ["header", "answer"])
def test_connections_that_are_not_judged_end_with_the_relay(client, at):
    """Nothing is reported of them. A late answer finds no connection, and its session ends as the others do."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), awaits_headers=True)
        with running.unattended():
            if at == "answer":
                far.sendall(make_v1(("192.0.2.7", 4711), ("192.0.2.1", 80)))
            running.admit(near, AWAITED_FROM, time.monotonic())
            while not (running.loop._headers._awaited or running.uplink.events):
                running.loop._turn()
            while at == "answer" and not running.uplink.events:
                running.loop._turn()
            running.sender.send_order(NewExpiry(Expiry(boottime.now())))
            while not running.loop._worker.expired:
                running.loop._turn()
            assert reset_arrives(far)
            before = len(running.uplink.events)
            running.sender.send_order(Admit(AWAITED_FROM, Ticket(1, time.monotonic(), ("192.0.2.7", 4711))))
            running.sender.send_order(Refuse(AWAITED_FROM))
            while len(running.uplink.events) == before:
                running.loop._turn()
            assert running.uplink.events[-1].reason is CloseReason.RELAY_EXPIRED


def test_the_deadline_is_enforced_without_a_supervisor(client):
    """A ticket that comes after it is refused, without any order."""
    far, near = client
    with listening() as server, Running(server.getsockname(), expiry=Expiry(0.0)) as running:
        running.admit(near)
        closed = running.uplink.wait(Closed)
        assert closed.reason is CloseReason.RELAY_EXPIRED
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_progress_is_reported_while_bytes_move_and_not_when_idle(client):
    """These are the last known figures of a session whose worker may be lost."""
    far, near = client
    with listening() as server, Running(server.getsockname()) as running:
        running.admit(near)
        with accept(server) as target:
            far.sendall(b"hello")
            assert receive(target, 5) == b"hello"
            assert running.uplink.wait(Progress) == Progress(1, 5, 0, 0, 5)
            assert running.loop._deadlines.progress_at is None
            assert running.loop._reports.changed == {}


def test_the_worker_never_sleeps_past_a_deadline(client):
    """Whatever a session does, the next wake-up is not later than its nearest deadline."""
    far, near = client
    idle_timeout, connect_timeout = 1.5, 3.0
    with listening() as server:
        running = Running(server.getsockname(), idle_timeout=idle_timeout, connect_timeout=connect_timeout)
        loop, events = running.loop, running.uplink.events

        def turn():
            assert loop._turn()
            deadlines = [session.admitted_at + connect_timeout for session in loop._deadlines.connecting]
            deadlines += [session.active_at + idle_timeout for session in loop._deadlines.idle]
            deadlines += [] if loop._deadlines.progress_at is None else [loop._deadlines.progress_at]
            assert (loop._deadlines.look_at is not None) >= bool(deadlines)
            assert all(loop._deadlines.look_at <= deadline for deadline in deadlines)
            return deadlines

        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            assert len(turn()) == 1  # it connects
            with accept(server) as target:
                turn()
                assert isinstance(events[-1], Connected)
                far.sendall(b"x")
                assert len(turn()) == 2  # the idle timeout, and the report of progress
                assert receive(target, 1) == b"x"
                active_at = next(iter(loop._deadlines.idle)).active_at
                while not isinstance(events[-1], Closed):
                    turn()
                assert events[-1].reason is CloseReason.IDLE_TIMEOUT
                assert loop._worker.now >= active_at + idle_timeout
            while loop._deadlines.look_at is not None:
                turn()  # the remaining looks; then nothing wakes it


@contextmanager
def relaying(running, near, server):
    """A connected session whose turns the test takes: the session, and the target's end."""
    with running.unattended():
        running.admit(near, admitted_at=time.monotonic())
        running.loop._turn()
        with accept(server) as target:
            running.loop._turn()
            (session,) = running.loop._deadlines.idle
            yield session, target


def drain(sock):
    """Read all waiting data."""
    sock.setblocking(False)  # noqa: FBT003
    with suppress(BlockingIOError):
        while sock.recv(1 << 20):
            pass


def test_one_edge_may_report_data_and_room(client):
    """The target reads data that was stuck, and sends something, between two looks."""
    far, near = client
    far.setblocking(False)  # noqa: FBT003
    with listening() as server:
        running = Running(server.getsockname())
        with relaying(running, near, server) as (session, target):
            while session.up.writable:
                with suppress(BlockingIOError):
                    far.send(b"x" * 1_000_000)
                running.loop._turn()
            stuck, received = session.up.pipe.held, session.up.received
            assert stuck
            target.send(b"data")
            drain(target)
            running.loop._turn()
            assert receive(far, 4) == b"data"
            assert session.up.received > received or session.up.pipe.held < stuck


def test_an_end_may_be_read_before_the_edge_that_reports_data(client, monkeypatch):
    """The target has room again, so all data up to the FIN is read.

    The client's older edge is handled after that.
    """
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), buffer=4000)
        loop, wait = running.loop, running.loop._poller.wait
        with relaying(running, near, server) as (session, target):
            while session.up.writable:
                assert far.send(bytes(4000)) == 4000
                loop._turn()
            drain(target)
            far.send(bytes(4000))

            def wait_and_end(timeout):
                ready = wait(timeout)
                assert dict(ready)[session.client.fileno()] == poller.READ | poller.WRITE
                far.shutdown(socket.SHUT_WR)
                return sorted(ready, key=lambda event: event[0] != session.target.fileno())

            with monkeypatch.context() as patch:
                patch.setattr(loop._poller, "wait", wait_and_end)
                loop._turn()
            assert session.state is State.CLIENT_ENDED
            assert session in loop._deadlines.idle


def test_a_session_that_ended_gets_no_further_event(client):
    """This holds even if the supervisor still has a copy of the socket, which keeps it open for epoll(7)."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        loop = running.loop
        with running.unattended():
            running.sender.send([Ticket(1, time.monotonic())], [near.fileno()])
            loop._turn()
            reset(accept(server))
            while not any(isinstance(event, Closed) for event in running.uplink.events):
                loop._turn()
            far.send(b"late")
            assert near.recv(4, socket.MSG_PEEK) == b"late"
            assert loop._poller.wait(0.0) == []


def test_no_session_is_idle_whose_event_is_still_unseen(client, monkeypatch):
    """The loop was delayed, and then sees only a part of the events that came meanwhile."""
    monkeypatch.setattr(poller.Poller, "EVENTS_AT_ONCE", 1)
    with listening() as server, connected() as other:
        running = Running(server.getsockname())
        loop = running.loop
        with running.unattended(), ExitStack() as stack:
            for serial, (_far, near) in enumerate((client, other), 1):
                running.admit(near, serial, admitted_at=time.monotonic())
                loop._turn()
                stack.enter_context(accept(server))
            while len(loop._deadlines.idle) < 2:
                loop._turn()
            sessions = list(loop._deadlines.idle)
            for far, _near in (client, other):
                far.send(b"x")
            for session in sessions:
                session.active_at -= 1000
            loop._deadlines.find_nearest()
            loop._turn()
            assert sorted(session.up.received for session in sessions) == [0, 1]
            assert not any(isinstance(event, Closed) for event in running.uplink.events)
            while not all(session.up.received for session in sessions):
                loop._turn()


def test_timeouts_are_not_put_off_for_ever_by_a_storm_of_events(client, monkeypatch):
    """Every turn has more events than one wait returns. Each was seen once, so idle sessions are known."""
    monkeypatch.setattr(poller.Poller, "EVENTS_AT_ONCE", 1)
    _far, near = client
    with listening() as server, connected() as (chatty, other), ExitStack() as stack:
        running = Running(server.getsockname())
        loop = running.loop
        with running.unattended():
            for serial, sock in enumerate((near, other), 1):
                running.admit(sock, serial, admitted_at=time.monotonic())
                loop._turn()
                stack.enter_context(accept(server))
            while len(loop._deadlines.idle) < 2:
                loop._turn()
            silent, _ = loop._deadlines.idle
            silent.active_at -= 1000
            loop._deadlines.find_nearest()
            turns = 0
            while silent in loop._deadlines.idle:
                chatty.send(b"x")
                loop._turn()
                turns += 1
                assert turns <= 2 * len(loop._worker.sessions) + 1
            assert running.uplink.wait(Closed).reason is CloseReason.IDLE_TIMEOUT


def test_small_transfers_go_before_large_ones(client):
    """A bulk flow waits in the queue until the edges of the turn are handled."""
    with listening() as server, connected() as (small, other):
        running = Running(server.getsockname(), pipes=0)
        loop = running.loop
        with running.unattended(), ExitStack() as stack:
            targets = []
            for serial, sock in enumerate((client[1], other), 1):
                running.admit(sock, serial, admitted_at=time.monotonic())
                loop._turn()
                targets.append(stack.enter_context(accept(server)))
            while len(loop._deadlines.idle) < 2:
                loop._turn()
            bulk, request = loop._deadlines.idle
            bulk.up.bulk = True
            order = []
            for session in (bulk, request):
                session.up._source = Noting(session.up._source, order, session)
            client[0].send(b"x" * 1000)
            small.send(b"x")
            while len(order) < 2:
                loop._turn()
            assert order[0] is request


class Noting:
    """A socket that records when it is read."""

    def __init__(self, sock, order, who):
        self._sock, self._order, self._who = sock, order, who

    def recv_into(self, *args):
        """Record which socket is read first."""
        self._order.append(self._who)
        return self._sock.recv_into(*args)


@pytest.mark.parametrize("buffer", [None, 4000])
def test_the_wait_for_a_survivor_that_takes_nothing_is_bounded(client, monkeypatch, buffer):
    """The reset is passed on after the linger time without progress. The reason is the first event."""
    monkeypatch.setattr("mprelay.worker.lingering.LINGER", 0.3)
    far, near = client
    with listening() as server, Running(server.getsockname(), buffer=buffer) as running:
        running.admit(near)
        target = accept(server)
        fill(target)
        reset(target)
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.error, closed.error_from) == (
            CloseReason.TARGET_READ_CLOSED,
            "ECONNRESET",
            "target",
        )
        assert closed.duration_ms >= 300
        assert 0 < closed.bytes_to_client < closed.bytes_from_target
        assert reset_arrives(far)


def test_both_may_be_gone_before_the_target_is_connected(client):
    """The client has sent data and reset, and the target has accepted and reset, so no receiver is left."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        with running.unattended():
            running.admit(near)
            running.loop._turn()
            far.sendall(b"word")
            reset(far)
            reset(accept(server))
            while not any(isinstance(event, Closed) for event in running.uplink.events):
                running.loop._turn()
        closed = running.uplink.wait(Closed)
        assert (closed.client_end, closed.target_end) == ("reset", "reset")


def test_a_reset_after_a_long_silence_still_gives_the_survivor_time(client, monkeypatch):
    """The linger time begins with the reset, not with the last byte that moved."""
    monkeypatch.setattr("mprelay.worker.lingering.LINGER", 0.5)
    far, near = client
    with listening() as server, Running(server.getsockname()) as running:
        running.admit(near)
        with accept(server) as target:
            sent = fill(far)
            assert not select.select([], [], [], 0.7)[0]
            reset(far)
            assert len(drain_to_reset(target)) <= sent
            closed = running.uplink.wait(Closed)
        assert closed.bytes_from_client == closed.bytes_to_target > 1_000_000


def fill(sock):
    """Send until nothing has been taken for a while. Return the number of bytes sent."""
    sock.settimeout(0.2)
    sent = 0
    with suppress(TimeoutError):
        while True:
            sent += sock.send(bytes(1 << 16))
    sock.settimeout(20)
    return sent


def drain_to_reset(sock):
    """Read up to the reset that must come."""
    data = bytearray()
    with suppress(ConnectionResetError):
        while part := sock.recv(1 << 20):
            data += part
    return data


def test_a_draining_session_is_reported_to_the_supervisor(client):
    """Without the reports the supervisor would consider the worker late."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        with relaying(running, near, server) as (session, _target):
            far.setblocking(False)  # noqa: FBT003
            while session.up.writable:
                with suppress(BlockingIOError):
                    far.send(bytes(1 << 20))
                running.loop._turn()
            running.loop._reports.changed.clear()
            reset(far)
            while not session._client_reset:
                running.loop._turn()
            assert session in running.loop._reports.changed


def test_an_acknowledgement_may_come_late(client, monkeypatch):
    """The client has sent data and reset before the target was connected.

    The target's kernel is slow to acknowledge.
    """
    left = iter([4, 4, 4])
    monkeypatch.setattr("mprelay.system.sockets.unacknowledged", lambda _sock: next(left, 0))
    far, near = client
    far.sendall(b"word")
    reset(far)
    with listening() as server, Running(server.getsockname()) as running:
        running.admit(near)
        with accept(server) as target:
            assert receive(target, 4) == b"word"
            closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.client_end) == (CloseReason.REQUESTER_READ_CLOSED, "reset")


@pytest.mark.slow
def test_a_survivor_that_takes_a_little_at_a_time_gets_it_all(client, monkeypatch):
    """Each acknowledged byte restarts the linger time."""
    monkeypatch.setattr("mprelay.worker.lingering.LINGER", 0.3)
    far, near = client
    with listening() as server, Running(server.getsockname()) as running:
        running.admit(near)
        target = accept(server)
        fill(target)
        reset(target)
        got = 0
        with suppress(ConnectionResetError):
            while part := far.recv(40_000):
                got += len(part)
                assert not select.select([], [], [], 0.02)[0]
        closed = running.uplink.wait(Closed)
        assert closed.bytes_to_client == closed.bytes_from_target == got
        assert closed.duration_ms > 1000


@pytest.mark.parametrize("slept", [False, True])
def test_the_deadline_is_met_in_a_storm_of_events(client, monkeypatch, slept):
    """It is met at once, or after a sleep, which the monotonic clock does not count, in the timer's turn."""
    monkeypatch.setattr(poller.Poller, "EVENTS_AT_ONCE", 1)
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), expiry=Expiry(boottime.now() + 0.2))
        loop = running.loop
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            loop._turn()
            with accept(server) as target:
                while not loop._deadlines.idle:
                    loop._turn()
                if slept:
                    loop._deadlines.expiry += 3600
                    loop._deadlines.find_nearest()
                assert select.select([loop._expiry], [], [], 20)[0]
                turns = 0
                while not loop._worker.expired:
                    far.send(b"x")
                    target.send(b"x")
                    loop._turn()
                    turns += 1
                assert turns <= (4 if slept else 1)
            assert [e.reason for e in running.uplink.events if isinstance(e, Closed)] == [
                CloseReason.RELAY_EXPIRED
            ]


def test_nothing_is_kept_of_an_ended_session(client):
    """No table of the loop has an entry for it."""
    far, near = client
    with listening() as server, Running(server.getsockname()) as running:
        running.admit(near)
        with accept(server) as target:
            far.sendall(b"x")
            assert receive(target, 1) == b"x"
            far.close()
            assert receive(target) == b""
        running.uplink.wait(Closed)
        loop = running.loop
        tables = (
            loop._worker.sessions,
            loop._deadlines.connecting,
            loop._deadlines.idle,
            loop._deadlines._looked_at,
            loop._reports.changed,
        )
        assert [len(table) for table in tables] == [0] * 5


def test_more_events_than_one_wait_returns():
    """The next turn sees the other events. No session is idle meanwhile."""
    with listening(backlog=512) as server, Running(server.getsockname(), idle_timeout=1800.0) as running:
        count = poller.Poller.EVENTS_AT_ONCE // 2 + 20
        clients = []
        with socket.create_server(("127.0.0.1", 0), backlog=512) as door:
            for serial in range(1, count + 1):
                far = socket.create_connection(door.getsockname(), timeout=20)
                near, _ = door.accept()
                running.admit(near, serial)
                clients.append(far)
        targets = [accept(server) for _ in range(count)]
        for far in clients:
            far.sendall(b"x")
        for target in targets:
            assert receive(target, 1) == b"x"
        for sock in (*clients, *targets):
            sock.close()
        while len([event for event in running.uplink.events if isinstance(event, Closed)]) < count:
            assert running.uplink.news.acquire(timeout=20)


# -- both sides have ended, and one has not acknowledged everything -------------------------------------------

TAIL = 1_500_000
"""A number of bytes that the kernel accepts, and that stay there while the peer does not read."""


def both_ended(far, target, speaker, loop=None):
    """Let the speaker send more than the other's kernel takes, and end both. Return the peer that does not read.

    That peer ends first. With `loop` the speaker ends first, and the other once the loop has seen that.
    """
    listener = target if speaker is far else far
    if loop is None:
        listener.shutdown(socket.SHUT_WR)
    speaker.sendall(bytes(TAIL))
    speaker.shutdown(socket.SHUT_WR)
    if loop is not None:
        (session,) = loop._deadlines.idle
        eventually(lambda: session.state in (State.CLIENT_ENDED, State.TARGET_ENDED), "the end of the speaker")
        listener.shutdown(socket.SHUT_WR)
    return listener


@contextmanager
def one_session(client, **settings):
    """A running relay with one session: the relay, and both far ends."""
    far, near = client
    with listening() as server, Running(server.getsockname(), **settings) as running:
        running.admit(near)
        with accept(server) as target:
            running.uplink.wait(Connected)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            yield running, far, target


WAYS_TO_END = pytest.mark.parametrize(
    ("limit", "speaker", "first"),
    [
        ("linger", "client", "speaker"),
        ("linger", "client", "listener"),
        ("linger", "target", "speaker"),
        ("linger", "target", "listener"),
        ("idle", "target", "listener"),
    ],
)


@WAYS_TO_END
def test_a_session_whose_last_data_is_never_read_is_reset(client, monkeypatch, limit, speaker, first):
    """After the linger time, or a shorter idle timeout, its slot is free. Nothing is left in the kernel."""
    if limit == "linger":
        monkeypatch.setattr("mprelay.worker.lingering.LINGER", 0.3)
    with one_session(client, idle_timeout=0.3 if limit == "idle" else 300.0) as (running, far, target):
        says = far if speaker == "client" else target
        deaf = both_ended(far, target, says, running.loop if first == "speaker" else None)
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.error, closed.error_from) == (CloseReason.LINGER_TIMEOUT, None, None)
        assert (closed.client_end, closed.target_end) == ("end", "end")
        up = (closed.bytes_from_client, closed.bytes_to_target)
        down = (closed.bytes_from_target, closed.bytes_to_client)
        (said, taken), other = (up, down) if speaker == "client" else (down, up)
        assert 0 < taken < said == TAIL
        assert other == (0, 0)
        assert reset_arrives(deaf)


@pytest.mark.slow
@WAYS_TO_END
def test_a_slow_reader_of_the_last_data_gets_it_all(client, monkeypatch, limit, speaker, first):
    """Any byte acknowledged since the last look restarts the time. The record is that of a normal end."""
    if limit == "linger":
        monkeypatch.setattr("mprelay.worker.lingering.LINGER", 0.6)
    with one_session(client, idle_timeout=0.6 if limit == "idle" else 300.0) as (running, far, target):
        says = far if speaker == "client" else target
        slow = both_ended(far, target, says, running.loop if first == "speaker" else None)
        got = 0
        while part := slow.recv(20_000):
            got += len(part)
            assert not select.select([], [], [], 0.02)[0]
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.error) in {
            (CloseReason.TARGET_READ_CLOSED, None),
            (CloseReason.REQUESTER_READ_CLOSED, None),
        }
        assert (closed.client_end, closed.target_end) == ("end", "end")
        assert got == TAIL == closed.bytes_from_client + closed.bytes_from_target
        assert got == closed.bytes_to_client + closed.bytes_to_target
        assert closed.duration_ms > 1000


@contextmanager
def settling(client, server, **settings):
    """A session that both ended while the client does not read: the relay, the session, and both far ends."""
    far, near = client
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    running = Running(server.getsockname(), **settings)
    loop = running.loop
    with relaying(running, near, server) as (session, target):
        both_ended(far, target, target)
        while session.state is not State.SETTLING:
            loop._turn()
        while loop._poller.wait(0.0):  # our own shutdown(2) was an edge, too
            pass
        yield running, session, far, target


def test_nothing_is_polled_while_a_session_settles(client):
    """There are two looks in ten seconds. The edge of the last acknowledgement ends it sooner.

    Nothing of it is kept.
    """
    with listening() as server, settling(client, server) as (running, session, far, _target):
        loop = running.loop
        loop._deadlines.progress_at = None
        loop._deadlines.find_nearest()
        assert loop._deadlines.look_at == session.active_at + 1
        loop._worker.now = loop._deadlines.look_at
        loop._on_time(0)
        assert loop._deadlines.look_at == session.active_at + LINGER
        assert loop._poller.wait(0.05) == []
        assert len(receive(far)) == TAIL
        while session.state is State.SETTLING:
            loop._turn()
        closed = running.uplink.events[-1]
        assert (closed.reason, closed.bytes_to_client) == (CloseReason.REQUESTER_READ_CLOSED, TAIL)
        assert loop._worker.now < session.active_at + LINGER
        assert not loop._deadlines._looked_at


def test_a_client_that_resets_while_a_session_settles_has_cut_it(client):
    """The data that it left unread was not delivered."""
    with listening() as server, settling(client, server) as (running, session, far, target):
        far.close()
        while session.state is not State.CLOSED:
            running.loop._turn()
        closed = running.uplink.events[-1]
        assert (closed.reason, closed.error, closed.error_from) == (
            CloseReason.REQUESTER_READ_CLOSED,
            "ECONNRESET",
            "client",
        )
        assert (closed.client_end, closed.target_end) == ("reset", "end")
        assert closed.bytes_to_client < closed.bytes_from_target == TAIL
        assert receive(target) == b""


def test_a_client_that_leaves_only_a_farewell_behind_has_cut_nothing(client, monkeypatch):
    """A TLS client does not read the server's last alert. Here all unread data counts as one."""
    monkeypatch.setattr("mprelay.worker.lingering.FAREWELL", TAIL)
    with listening() as server, settling(client, server) as (running, session, far, _target):
        far.close()
        while session.state is not State.CLOSED:
            running.loop._turn()
        closed = running.uplink.events[-1]
        assert (closed.reason, closed.error) == (CloseReason.REQUESTER_READ_CLOSED, None)
        assert (closed.client_end, closed.target_end) == ("end", "end")


@pytest.mark.parametrize("how", ["expired", "stopped"])
def test_a_session_that_settles_can_be_cut_short(client, how):
    """The absolute timeout and the end of the drain do that."""
    expiry = Expiry(boottime.now() + 0.5) if how == "expired" else None
    with listening() as server, settling(client, server, expiry=expiry) as (running, session, far, _target):
        if how == "stopped":
            running.sender.close()
        while session.state is not State.CLOSED:
            if not running.loop._turn():
                running.loop._end_all(Input.STOPPED)
        closed = running.uplink.events[-1]
        assert closed.reason == (CloseReason.RELAY_EXPIRED if how == "expired" else None)
        assert (closed.error, closed.client_end, closed.target_end) == (None, "end", "end")
        assert reset_arrives(far)


def test_a_client_whose_socket_is_of_no_use_any_more_is_refused(client, monkeypatch):
    """Its options cannot be set, as may happen on Windows. Nothing is kept of it."""
    far, near = client

    def useless(descriptor):
        sockets.refuse(descriptor)
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr("mprelay.system.sockets.received", useless)
    with listening() as server, Running(server.getsockname()) as running:
        running.admit(near)
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.error) == (CloseReason.REQUESTER_CHANNEL_FAILED, "ECONNRESET")
        assert running.loop._worker.sessions == {}
        assert is_reset(far)


@pytest.mark.parametrize("buffer", [None, 4000])
def test_a_session_that_would_take_the_loop_its_memory_is_refused(client, monkeypatch, buffer):
    """With buffers of its own or without."""
    far, near = client
    monkeypatch.setattr(pump, "_HEADROOM", 1 << 60)
    with listening() as server, Running(server.getsockname(), buffer=buffer) as running:
        running.admit(near)
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.error) == (CloseReason.REQUESTER_BUFFER_FAILED, "ENOMEM")
        assert running.loop._worker.sessions == {}
        assert is_reset(far)


def test_a_connection_that_would_take_the_loop_its_memory_is_refused(client, monkeypatch):
    """Its header is not awaited."""
    far, near = client
    monkeypatch.setattr(pump, "_HEADROOM", 1 << 60)
    with listening() as server, Running(server.getsockname(), awaits_headers=True) as running:
        running.admit(near, AWAITED_FROM)
        told = running.uplink.wait(NotAnnounced)
        assert told.problem == "could not be taken by a worker (ENOMEM)"
        assert is_reset(far)


# -- the system does not tell what is unacknowledged ----------------------------------------------------------

LAST_WORDS = 400_000
"""A number of bytes that the kernel accepts at once, and that stay there while the peer does not read."""


@pytest.fixture
def untold(monkeypatch):
    """A system that does not tell, such as Windows."""
    monkeypatch.setattr("mprelay.system.sockets.unacknowledged", lambda _sock: None)


@contextmanager
def last_words(running, near, server, first, size=LAST_WORDS):
    """A session whose first side says something and resets: the session, and the survivor.

    The survivor has not read anything. All is sent to it.
    """
    far, near = near
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    with relaying(running, near, server) as (session, target):
        speaker, survivor = (far, target) if first == "client" else (target, far)
        speaker.sendall(bytes(size))
        pump = session.up if first == "client" else session.down
        while pump.sent < size:
            running.loop._turn()
        reset(speaker)
        while session.state not in (State.LINGERING_FOR_TARGET, State.LINGERING_FOR_CLIENT, State.CLOSED):
            running.loop._turn()
        yield session, survivor


def is_reset(sock):
    """Tell whether a socket from which all is read was reset, also under Wine."""
    try:
        return sock.recv(1) == b"" and sockets.was_reset(sock)
    except ConnectionResetError:
        return True


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("first", ["client", "target"])
def test_last_words_arrive_before_the_reset_if_the_system_does_not_tell(client, first):
    """A reset destroys what is under way, so it waits for a moment after the last byte."""
    with listening() as server:
        running = Running(server.getsockname())
        with last_words(running, client, server, first) as (session, survivor):
            assert running.loop._deadlines.look_at <= session.active_at + ARRIVAL
            assert len(receive(survivor, LAST_WORDS)) == LAST_WORDS
            while session.state is not State.CLOSED:
                running.loop._turn()
            assert running.loop._worker.now >= session.active_at + ARRIVAL
            assert is_reset(survivor)
        closed = running.uplink.events[-1]
        sent = closed.bytes_to_target if first == "client" else closed.bytes_to_client
        assert (sent, closed.error, closed.error_from) == (LAST_WORDS, "ECONNRESET", first)


@pytest.mark.usefixtures("untold")
def test_a_sink_that_was_full_has_the_whole_linger_time_for_the_last_words(client):
    """It may take bytes slowly."""
    with listening() as server:
        running = Running(server.getsockname())
        with last_words(running, client, server, "target") as (session, _survivor):
            assert lingering.time_limit(session, 300.0, known=False) == ARRIVAL
            session.down.was_blocked = True
            assert lingering.time_limit(session, 300.0, known=False) == LINGER


def test_a_full_sink_is_remembered(client):
    """Also after it has taken everything."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), pipes=0)
        with relaying(running, near, server) as (session, target):
            far.setblocking(False)  # noqa: FBT003
            while session.up.writable:
                assert not session.up.was_blocked
                with suppress(BlockingIOError):
                    far.send(bytes(1 << 20))
                running.loop._turn()
            while session.up.held:
                drain(target)
                running.loop._turn()
            assert session.up.was_blocked


@pytest.mark.usefixtures("untold")
def test_no_reset_waits_if_nothing_can_be_under_way():
    """The last byte was sent long ago, or none at all."""
    with listening() as server:
        for size in (0, 100):
            with connected() as ends:
                running = Running(server.getsockname())
                far, near = ends
                with relaying(running, near, server) as (session, target):
                    target.sendall(bytes(size))
                    while session.down.sent < size:
                        running.loop._turn()
                    session.active_at -= 2 * ARRIVAL if size else 0
                    reset(target)
                    while not session._target_reset:
                        running.loop._turn()
                    assert session.state is State.CLOSED
                    assert len(drain_to_reset(far)) == size


@pytest.mark.usefixtures("untold")
def test_the_idle_timeout_bounds_the_wait_for_what_is_under_way(client, monkeypatch):
    """It counts from the last byte, as ever."""
    monkeypatch.setattr("mprelay.worker.lingering.ARRIVAL", 3600.0)
    with listening() as server:
        running = Running(server.getsockname(), idle_timeout=0.3)
        with last_words(running, client, server, "target") as (session, _survivor):
            while session.state is not State.CLOSED:
                running.loop._turn()
            assert running.loop._worker.now >= session.active_at + 0.3
        assert running.uplink.events[-1].reason is CloseReason.TARGET_READ_CLOSED


@pytest.mark.posix("an edge that tells of a reset behind unread data")
@pytest.mark.usefixtures("untold")
def test_a_drain_is_not_polled_if_the_system_does_not_tell(client):
    """Only bytes that move are progress, and these have their edges."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        with relaying(running, near, server) as (session, target):
            far.setblocking(False)  # noqa: FBT003
            while session.up.writable:
                with suppress(BlockingIOError):
                    far.send(bytes(1 << 20))
                running.loop._turn()
            reset(far)
            while session.state is not State.CLIENT_GONE:
                running.loop._turn()
            running.loop._deadlines.progress_at = None
            running.loop._deadlines.find_nearest()
            assert running.loop._deadlines.look_at == session.active_at + LINGER
            target.setblocking(True)  # noqa: FBT003
            reader = threading.Thread(target=drain_to_reset, args=(target,))
            reader.start()
            while session.state is State.CLIENT_GONE:
                running.loop._turn()
            assert session.state is State.LINGERING_FOR_TARGET
            assert session.up.sent == session.up.received
            session.active_at -= LINGER
            session.look_again()
            reader.join()


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("speaker", ["client", "target"])
def test_a_session_that_both_ended_is_closed_at_once_if_the_system_does_not_tell(client, speaker):
    """The kernel delivers what is under way, and then the end."""
    with one_session(client) as (running, far, target):
        slow = both_ended(far, target, far if speaker == "client" else target)
        closed = running.uplink.wait(Closed)
        assert (closed.error, closed.client_end, closed.target_end) == (None, "end", "end")
        assert closed.bytes_from_client + closed.bytes_from_target == TAIL
        assert closed.bytes_to_client + closed.bytes_to_target == TAIL
        assert len(receive(slow)) == TAIL


# -- extras of tickets, and orders --------------------------------------------------------------------------


@contextmanager
def refusing():
    """A port of two addresses: nobody listens on the first one, somebody does on the second."""
    with listening(host="127.0.0.2") as server:
        yield ("127.0.0.1", server.getsockname()[1]), server


def tried(events):
    """The addresses that were tried."""
    return [event.target_ip for event in events if isinstance(event, Trying)]


def test_all_addresses_are_tried_in_turn(client):
    """The first that answers is relayed to. Each try is reported before it, what the client has said is kept."""
    far, near = client
    far.sendall(b"early")
    with refusing() as (refused, server), Running(refused, "127.0.0.2", "127.0.0.3") as running:
        running.admit(near, 1, time.monotonic())
        with accept(server) as target:
            far.sendall(b" word")
            assert receive(target, 10) == b"early word"
            target.sendall(b"answer")
            assert receive(far, 6) == b"answer"
            assert tried(running.uplink.events) == ["127.0.0.1", "127.0.0.2"]
            assert not running.loop._deadlines._looked_at


def test_the_last_address_that_fails_ends_the_session(client):
    """Its failure is the reason, and each socket is closed."""
    far, near = client
    with Running(("127.0.0.1", free_port()), "224.0.0.1", "127.0.0.2") as running:
        running.admit(near, 1, time.monotonic())
        closed = running.uplink.wait(Closed)
        assert (closed.reason, closed.error) == (CloseReason.CONNECT_REFUSED, "ECONNREFUSED")
        assert tried(running.uplink.events) == ["127.0.0.1", "224.0.0.1", "127.0.0.2"]
        assert reset_arrives(far)


def test_an_address_that_does_not_answer_has_its_share_of_the_time(client):
    """The next one is tried then, and the last one has all that is left."""
    far, near = client
    with silent() as (unanswering, _filler):
        ip, port = unanswering.getsockname()
        with (
            listening(host="127.0.0.2", port=port) as server,
            Running((ip, port), ip, "127.0.0.2", connect_timeout=1.5) as running,
        ):
            begun = time.monotonic()
            running.admit(near, 1, begun)
            with accept(server) as target:
                assert 1.0 <= time.monotonic() - begun < 1.5
                far.sendall(b"hello")
                assert receive(target, 5) == b"hello"
                assert tried(running.uplink.events) == [ip, ip, "127.0.0.2"]


def test_each_address_has_a_moment_and_the_connect_timeout_wins(client):
    """So as many are tried as fit."""
    far, near = client
    with silent() as (unanswering, _filler):
        ip, port = unanswering.getsockname()
        begun = time.monotonic()
        with Running((ip, port), *[ip] * 29, connect_timeout=1.1) as running:
            running.admit(near, 1, begun)
            closed = running.uplink.wait(Closed)
            assert closed.reason is CloseReason.CONNECT_TIMEOUT
            assert 1100 <= closed.duration_ms
            assert 2 <= len(tried(running.uplink.events)) <= 5
            assert reset_arrives(far)


def test_a_client_that_resets_is_not_connected_to_the_next_address(client):
    """Nothing of it is left."""
    far, near = client
    with silent() as (unanswering, _filler):
        ip, port = unanswering.getsockname()
        with Running((ip, port), "127.0.0.2") as running:
            running.admit(near, 1, time.monotonic())
            eventually(lambda: running.loop._deadlines.connecting, "it connects")
            reset(far)
            closed = running.uplink.wait(Closed)
            assert closed.reason is CloseReason.REQUESTER_READ_CLOSED
            eventually(lambda: not running.loop._deadlines._looked_at, "no look is left")


def test_the_next_address_is_not_mistaken_for_a_session_that_has_just_ended(monkeypatch):
    """Its socket may get a number of which an event is still listed. It waits until all were seen."""
    with (
        silent() as (unanswering, _filler),
        connected() as (_far, near),
        connected() as (_other, second),
    ):
        ip, port = unanswering.getsockname()
        running = Running(("127.0.0.2", port), named=True)
        with running.unattended():
            running.admit(near, 1, time.monotonic())
            running.loop._turn()
            (ending,) = running.loop._deadlines.connecting
            running.sender.send_order(Targets(("127.0.0.3", ip), named=True))
            running.admit(second, 2, time.monotonic())
            inbox = [(running.loop._inbox.fileno(), poller.READ)]
            for _ in range(2):  # the order, the ticket
                with monkeypatch.context() as patch:
                    patch.setattr(running.loop, "_poller", Told(running.loop._poller, inbox))
                    running.loop._turn()
            (going_on,) = running.loop._deadlines.connecting.keys() - {ending}
            failed = poller.ERROR | poller.HANGUP | poller.WRITE
            events = [
                (ending.target.fileno(), failed),
                (going_on.target.fileno(), failed),
                (ending.client.fileno(), poller.READ | poller.WRITE),
            ]
            with monkeypatch.context() as patch:
                patch.setattr(running.loop, "_poller", Told(running.loop._poller, events))
                running.loop._turn()
            assert ending.is_over
            assert going_on.address == (ip, port)
            assert not going_on.connected


class Told:
    """A poller that tells these events once."""

    def __init__(self, whole, events):
        self._whole = whole
        self._events = events

    def __getattr__(self, name):
        return getattr(self._whole, name)

    def wait(self, timeout):
        """Tell them first."""
        events, self._events = self._events, None
        return self._whole.wait(timeout) if events is None else events


def test_a_socket_that_cannot_be_made_for_the_next_address_ends_the_session(client, monkeypatch):
    """The error is the system's."""
    _far, near = client
    running = Running(("127.0.0.1", free_port()), "127.0.0.2")
    with running.unattended():
        running.admit(near, 1, time.monotonic())
        running.loop._turn()

        def broken(_family):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(sockets, "target_socket", broken)
        while not (ended := [event for event in running.uplink.events if isinstance(event, Closed)]):
            running.loop._turn()
        assert (ended[0].reason, ended[0].error) == (CloseReason.TARGET_SOCKET_FAILED, "EMFILE")


def test_no_memory_for_the_next_address_is_no_failure_of_the_target(client):
    """The buffers of the first address were no use any more."""
    far, near = client
    running = Running(("127.0.0.1", free_port()), "127.0.0.2", buffer=4000)
    with running.unattended():
        running.admit(near, 1, time.monotonic())
        running.loop._turn()
        running.loop._pumps._size = 1 << 60
        while not (ended := [event for event in running.uplink.events if isinstance(event, Closed)]):
            running.loop._turn()
        assert (ended[0].reason, ended[0].error) == (CloseReason.TARGET_BUFFER_FAILED, "ENOMEM")
        assert is_reset(far)


def test_new_sessions_connect_to_other_targets_when_told(client):
    """Those that are there stay. Without an address none begins."""
    far, near = client
    with (
        refusing() as (target, server),
        connected() as (_other, second),
        connected() as (last, third),
        Running(target, named=True) as running,
    ):
        running.sender.send_order(Targets(("127.0.0.2",), named=True))
        running.admit(near, 1, time.monotonic())
        with accept(server) as first:
            running.sender.send_order(Targets((), "NXDOMAIN", named=True))
            running.admit(second, 2, time.monotonic())
            closed = running.uplink.wait(Closed)
            assert (closed.serial, closed.reason, closed.error) == (2, CloseReason.CONNECT_FAILED, "NXDOMAIN")
            running.sender.send_order(Targets(("127.0.0.2",), named=True))
            running.admit(third, 3, time.monotonic())
            with accept(server) as another:
                last.sendall(b"x")
                assert receive(another, 1) == b"x"
            far.sendall(b"hello")
            assert receive(first, 5) == b"hello"


def test_a_session_that_would_connect_to_itself_is_refused_for_any_target(client):
    """The kernel may choose the target's own port for our socket, which then connects to itself."""
    _far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        with running.unattended():
            running.admit(near, 1, time.monotonic())
            running.loop._turn()
            (session,) = running.loop._deadlines.connecting
            session.address = session.target.getsockname()
            running.loop._turn()
            (closed,) = running.uplink.events
            assert (closed.reason, closed.error) == (CloseReason.CONNECT_REFUSED, "ECONNREFUSED")


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_session_can_be_killed(client, is_connected):
    """Both its peers are reset, with the given reason. An unknown session is ignored, and others go on."""
    far, near = client
    with (
        listening() as server,
        silent() as (unanswering, _filler),
        connected() as (other, second),
        Running(server.getsockname()) as running,
    ):
        running.admit(second, 2, time.monotonic())
        with accept(server) as spared:
            running.uplink.wait(Connected)
            if is_connected:
                running.admit(near, 1, time.monotonic())
                target = accept(server)
                while len(running.loop._deadlines.idle) < 2:
                    assert running.uplink.news.acquire(timeout=20)
            else:
                ip, port = unanswering.getsockname()
                running.loop._connector._port = port
                running.sender.send_order(Targets((ip,)))
                running.admit(near, 1, time.monotonic())
                eventually(lambda: running.loop._deadlines.connecting, "it connects")
            running.sender.send_order(Kill((7, 1, 8), CloseReason.KILLED))
            closed = running.uplink.wait(Closed)
            assert (closed.serial, closed.reason, closed.error) == (1, CloseReason.KILLED, None)
            assert reset_arrives(far)
            if is_connected:
                with target:
                    assert reset_arrives(target)
            other.sendall(b"x")
            assert receive(spared, 1) == b"x"


def test_a_new_deadline_replaces_the_earlier_one(client):
    """It may be earlier, later, none, and set again. The old one's timer wakes no process."""
    far, near = client
    hour = 3600.0
    with listening() as server:
        running = Running(server.getsockname(), expiry=Expiry(boottime.now() + hour))
        loop, deadlines = running.loop, running.loop._deadlines
        with running.unattended():
            running.admit(near, 1, time.monotonic())
            loop._turn()
            with accept(server):
                loop._turn()
                for deadline in (boottime.now() + 2 * hour, None, boottime.now() + hour):
                    running.sender.send_order(NewExpiry(None if deadline is None else Expiry(deadline)))
                    loop._turn()
                    if deadline is None:
                        assert (deadlines.expiry, loop._expiry) == (None, None)
                    else:
                        assert abs(deadlines.expiry - time.monotonic() - (deadline - boottime.now())) < 1
                        assert loop._expiry.at == deadline
                assert not loop._worker.expired
                running.sender.send_order(NewExpiry(Expiry(boottime.now())))
                while not loop._worker.expired:
                    loop._turn()
                assert running.uplink.wait(Closed).reason is CloseReason.RELAY_EXPIRED
                assert reset_arrives(far)


def test_an_expiry_by_the_wall_clock_is_asked_for_again_if_that_was_set_back(client):
    """The clock here stands still: it was estimated to be later by now."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), expiry=Expiry(time.time() + 3600, wall=True))
        loop, deadlines = running.loop, running.loop._deadlines
        with running.unattended():
            running.admit(near, 1, time.monotonic())
            loop._turn()
            with accept(server):
                loop._turn()
                deadlines.expire_at(time.monotonic())
                loop._turn()
                assert not loop._worker.expired
                assert 3500 < deadlines.expiry - time.monotonic() < 3700
                running.sender.send_order(NewExpiry(Expiry(time.time(), wall=True)))
                while not loop._worker.expired:
                    loop._turn()
                assert running.uplink.wait(Closed).reason is CloseReason.RELAY_EXPIRED
                assert reset_arrives(far)


def test_a_deadline_that_is_cancelled_after_it_came(client):
    """Sessions are relayed again afterwards."""
    far, near = client
    with listening() as server, Running(server.getsockname(), expiry=Expiry(0.0)) as running:
        eventually(lambda: running.loop._worker.expired, "it expires")
        running.sender.send_order(NewExpiry(None))
        running.admit(near, 1, time.monotonic())
        with accept(server) as target:
            far.sendall(b"x")
            assert receive(target, 1) == b"x"
