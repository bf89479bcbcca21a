"""The worker's loop without edges: nothing that is ready is missed, and nothing is told again and again.

Real sockets. A turn of the loop is one wait, so the number of turns tells how often the poller woke it.
"""

import contextlib
import errno
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from support.peers import accept, free_port, listening, pattern, receive, reset, send_whole, silent
from unit import test_relaying
from unit.test_relaying import Running, connected, relaying, settling

from mprelay.channel.up import Uplink
from mprelay.core.lifecycle import State
from mprelay.core.protocol import Closed, CloseReason, Connected, Ticket
from mprelay.system import poller, poller_select
from mprelay.system.sockets import unacknowledged
from mprelay.worker import connecting
from mprelay.worker.level import LevelPoller
from mprelay.worker.lingering import LINGER

if sys.platform != "win32":
    import fcntl
    import termios

client = test_relaying.client
AGAIN = (
    "a_client_that_leaves_only_a_farewell_behind_has_cut_nothing",
    "a_client_that_resets_while_a_session_settles_has_cut_it",
    "a_deadline_that_is_cancelled_after_it_came",
    "a_new_deadline_replaces_the_earlier_one",
    "a_reset_after_a_long_silence_still_gives_the_survivor_time",
    "a_session_can_be_killed",
    "a_session_that_ended_gets_no_further_event",
    "a_session_that_settles_can_be_cut_short",
    "a_session_that_would_connect_to_itself_is_refused_for_any_target",
    "a_session_whose_last_data_is_never_read_is_reset",
    "a_slow_reader_of_the_last_data_gets_it_all",
    "a_client_that_resets_is_not_connected_to_the_next_address",
    "all_addresses_are_tried_in_turn",
    "an_acknowledgement_may_come_late",
    "an_address_that_does_not_answer_has_its_share_of_the_time",
    "both_may_be_gone_before_the_target_is_connected",
    "new_sessions_connect_to_other_targets_when_told",
    "nothing_is_kept_of_an_ended_session",
    "on_a_stop_every_session_is_reset_and_reported",
    "one_edge_may_report_data_and_room",
    "progress_is_reported_while_bytes_move_and_not_when_idle",
    "small_transfers_go_before_large_ones",
    "the_last_address_that_fails_ends_the_session",
    "the_deadline_is_enforced_without_a_supervisor",
    "the_worker_never_sleeps_past_a_deadline",
)
"""Tests of the loop that hold for this poller, too. Where it is the usual one they run with it anyway."""
for name in AGAIN if poller.TELLS_EDGES else ():
    globals()[f"test_{name}"] = getattr(test_relaying, f"test_{name}")

KINDS = ["level", "edge"] if poller.TELLS_EDGES else ["level"]


@pytest.fixture(autouse=True)
def kind(request, monkeypatch):
    """The kind of poller: the one without edges, unless the test has another."""
    wanted = getattr(request, "param", "level")
    if wanted == "level" and poller.TELLS_EDGES:
        monkeypatch.setattr(poller, "Poller", poller_select.Poller)
        monkeypatch.setattr(poller, "TELLS_EDGES", False)
        monkeypatch.setattr(connecting, "_DOUBTFUL", connecting._OUTCOME)
    return wanted


both_kinds = pytest.mark.parametrize("kind", KINDS, indirect=True)
"""The same holds for both, and for the same reasons."""


class Turns:
    """Counts the turns of a loop, which the test takes."""

    def __init__(self, loop):
        self._loop = loop
        self.count = 0

    def take(self):
        """Take a turn. It waits until the poller tells something, or something is due."""
        self.count += 1
        assert self._loop._turn()

    def until(self, condition):
        """Take turns until this holds; return how many."""
        before = self.count
        while not condition():
            self.take()
        return self.count - before


def is_over(running):
    """Whether a session has been reported as closed."""
    return any(isinstance(event, Closed) for event in running.uplink.events)


def has_data(sock):
    """Whether a peer can read something, an end perhaps."""
    return bool(poller_select.select.select([sock], [], [], 0)[0])


def push(sock, data):
    """Send what the kernel takes; return the number of bytes."""
    with contextlib.suppress(BlockingIOError):
        return sock.send(data[: 1 << 18])
    return 0


def pull(sock, into):
    """Receive what is there."""
    with contextlib.suppress(BlockingIOError):
        while part := sock.recv(1 << 18):
            into += part


def unread(sock):
    """Count the bytes that a socket's owner has not received yet (FIONREAD), as far as the system tells."""
    if sys.platform == "win32":
        return None
    (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
    return count


def stuff(turns, session, far):
    """Send until the target's kernel takes nothing more; return the number of bytes."""
    far.settimeout(0)
    sent = 0
    while (moved := push(far, bytes(1 << 18))) or session.up.writable:
        sent += moved
        if not moved:
            turns.take()
    return sent


# -- nothing is missed ---------------------------------------------------------------------------------------


@both_kinds
def test_each_message_is_told_once(client):
    """A hundred in each direction. Each takes one turn, however quickly they come."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        with relaying(running, near, server) as (session, target):
            turns = Turns(running.loop)
            for number in range(100):
                far.sendall(b"%d" % number)
                turns.until(lambda: has_data(target))
                assert target.recv(100) == b"%d" % number
                target.sendall(b"%d" % -number)
                turns.until(lambda: has_data(far))
                assert far.recv(100) == b"%d" % -number
            assert session.up.received < 1000
            assert turns.count <= 210


@both_kinds
@pytest.mark.parametrize("buffer", [None, 100, 4000])
def test_bulk_data_arrives_whole_both_ways_at_once(client, buffer):
    """The peers take little at a time, so both directions are blocked again and again, and wake on room."""
    up, down = pattern(300_000 if buffer == 100 else 10_000_000), pattern(250_000, seed=2)
    far, near = client
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    with (
        listening() as server,
        Running(server.getsockname(), buffer=buffer, idle_timeout=10.0) as running,
        ThreadPoolExecutor(4) as pool,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        running.admit(near)
        with accept(server) as target:
            sending = [pool.submit(send_whole, far, up), pool.submit(send_whole, target, down)]
            heard = [pool.submit(receive, target), pool.submit(receive, far)]
            assert [each.result() for each in heard] == [up, down]
            for each in sending:
                each.result()
        closed = running.uplink.wait(Closed)
        assert (closed.error, closed.bytes_to_target, closed.bytes_to_client) == (None, len(up), len(down))


@both_kinds
@pytest.mark.parametrize("buffer", [None, 100])
def test_data_and_its_end_may_come_together(client, buffer):
    """Both are passed on, and the answer as well."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), buffer=buffer)
        with relaying(running, near, server) as (_session, target):
            turns = Turns(running.loop)
            far.sendall(b"question" * 100)
            far.shutdown(socket.SHUT_WR)
            turns.until(lambda: _session.state is State.CLIENT_ENDED)
            assert receive(target) == b"question" * 100
            target.sendall(b"answer")
            target.close()
            turns.until(lambda: is_over(running))
            assert receive(far) == b"answer"
        closed = running.uplink.events[-1]
        assert (closed.reason, closed.error) == (CloseReason.REQUESTER_READ_CLOSED, None)
        assert (closed.client_end, closed.target_end) == ("end", "end")
        assert turns.count <= 15


@both_kinds
def test_data_and_a_reset_may_come_together(client):
    """What came before the reset is delivered, then the reset is passed on."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        with relaying(running, near, server) as (_session, target):
            target.sendall(b"last words")
            if sys.platform == "win32":  # a reset discards there what was not received
                Turns(running.loop).until(lambda: has_data(far))
            reset(target)
            Turns(running.loop).until(lambda: is_over(running))
            with contextlib.suppress(ConnectionResetError):
                assert far.recv(100) == b"last words"
        closed = running.uplink.events[-1]
        assert (closed.reason, closed.error) == (CloseReason.TARGET_READ_CLOSED, "ECONNRESET")
        assert closed.bytes_to_client == 10


@both_kinds
def test_a_sink_with_room_again_is_told(client):
    """So is its own data, while it takes nothing."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), pipes=0)
        with relaying(running, near, server) as (session, target):
            turns = Turns(running.loop)
            sent = stuff(turns, session, far)
            target.sendall(b"not now")
            turns.until(lambda: has_data(far))
            assert receive(far, 7) == b"not now"
            assert session.up.held
            got = bytearray()
            target.settimeout(0)
            while len(got) < sent:
                pull(target, got)
                if len(got) < sent and not has_data(target):
                    turns.take()
            assert got == bytes(sent)
            assert session.up.writable


@both_kinds
def test_a_bulk_flow_leaves_others_their_turn(client, monkeypatch):
    """A message of another session waits for one turn of the bulk flow, not for its end."""
    monkeypatch.setattr("mprelay.worker.bulk._TURN_BYTES", 1 << 14)
    with listening() as server, connected() as (small, other):
        running = Running(server.getsockname(), buffer=4000)
        with relaying(running, client[1], server) as (bulk, sink):
            running.admit(other, 2, admitted_at=time.monotonic())
            turns = Turns(running.loop)
            turns.until(lambda: has_data(server))
            with accept(server) as target:
                turns.until(lambda: len(running.loop._deadlines.idle) == 2)
                client[0].settimeout(0)
                sink.settimeout(0)
                for _ in range(10):
                    while push(client[0], bytes(1 << 18)):
                        pull(sink, bytearray())
                    turns.take()
                    assert bulk.up.queued
                    small.sendall(b"x")
                    before, received = turns.count, bulk.up.received
                    turns.until(lambda: has_data(target))
                    assert turns.count - before == 1
                    assert bulk.up.received - received <= 1 << 16
                    assert target.recv(1) == b"x"


# -- before the target is connected --------------------------------------------------------------------------


@both_kinds
def test_a_target_that_answers_is_told(client):
    """What the client has said meanwhile is then passed on."""
    far, near = client
    far.sendall(b"early")
    with listening() as server:
        running = Running(server.getsockname())
        turns = Turns(running.loop)
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            turns.until(lambda: any(isinstance(event, Connected) for event in running.uplink.events))
            with accept(server) as target:
                turns.until(lambda: has_data(target))
                assert receive(target, 5) == b"early"
        assert turns.count <= 4


@both_kinds
def test_a_target_that_refuses_is_told(client):
    """It is told at once, and not by the connect timeout."""
    _far, near = client
    running = Running(("127.0.0.1", free_port()), connect_timeout=60.0)
    turns = Turns(running.loop)
    with running.unattended():
        running.admit(near, admitted_at=time.monotonic())
        turns.until(lambda: is_over(running))
    closed = running.uplink.events[-1]
    assert (closed.reason, closed.error) == (CloseReason.CONNECT_REFUSED, "ECONNREFUSED")
    assert turns.count <= 2


@both_kinds
def test_a_target_that_accepts_and_resets_was_connected(client):
    """It is recorded as a reset and not as a refusal, even if it has reset before anybody looked."""
    _far, near = client
    with listening() as server:
        running = Running(server.getsockname())
        turns = Turns(running.loop)
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            turns.take()
            reset(accept(server))
            turns.until(lambda: is_over(running))
    connection, closed = running.uplink.events
    assert isinstance(connection, Connected)
    assert (closed.reason, closed.error) == (CloseReason.TARGET_READ_CLOSED, "ECONNRESET")


@both_kinds
@pytest.mark.parametrize("says", [b"", b"something"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_silent_target_wakes_nobody(client, says, ends):
    """Nor does its client, whose data or end waits."""
    far, near = client
    with silent() as (server, _filler):
        running = Running(server.getsockname(), connect_timeout=0.5)
        turns = Turns(running.loop)
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            turns.take()
            far.sendall(says)
            if ends:
                far.shutdown(socket.SHUT_WR)
            turns.until(lambda: is_over(running))
    assert running.uplink.events[-1].reason is CloseReason.CONNECT_TIMEOUT
    assert turns.count <= 4


@both_kinds
def test_a_client_that_resets_before_the_target_is_connected_is_told(client):
    """Its slot is free at once."""
    far, near = client
    with silent() as (server, _filler):
        running = Running(server.getsockname(), connect_timeout=60.0)
        turns = Turns(running.loop)
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            turns.take()
            reset(far)
            turns.until(lambda: is_over(running))
    closed = running.uplink.events[-1]
    assert (closed.reason, closed.error) == (CloseReason.REQUESTER_READ_CLOSED, "ECONNRESET")
    assert turns.count <= 3


def test_there_may_be_nothing_to_read_after_all(client):
    """The client has not reset then. It is asked no more before the target is connected."""
    far, near = client
    with silent() as (server, _filler):
        running = Running(server.getsockname(), connect_timeout=0.5)
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            running.loop._turn()
            (session,) = running.loop._deadlines.connecting
            running.loop._connector.on_edge(session, session.up, poller.READ)
            assert session.state is State.CONNECTING
            assert far.send(b"x")
            Turns(running.loop).until(lambda: is_over(running))


# -- nothing is told again and again -------------------------------------------------------------------------


@both_kinds
def test_an_idle_session_wakes_nobody(client):
    """Only the idle timeout does."""
    _far, near = client
    with listening() as server:
        running = Running(server.getsockname(), idle_timeout=0.5)
        with relaying(running, near, server):
            turns = Turns(running.loop)
            turns.until(lambda: is_over(running))
        assert running.uplink.events[-1].reason is CloseReason.IDLE_TIMEOUT
        assert turns.count <= 2


@both_kinds
@pytest.mark.parametrize("pipes", [0, 2])
@pytest.mark.parametrize("ends", [True, False])
def test_a_full_sink_wakes_nobody(client, pipes, ends):
    """Nor does its source, which has more data and perhaps its end. One look for progress is due meanwhile.

    On a busy machine the kernels still move bytes to each other after their last refusal. A turn of such a moment
    is not woken for nothing, and does not count.
    """
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), idle_timeout=1.2, pipes=pipes)
        with relaying(running, near, server) as (session, target):

            def bytes_on_the_way():
                return session.up.received, unacknowledged(far), unread(session.client), unread(target)

            turns = Turns(running.loop)
            stuff(turns, session, far)
            if ends:
                far.shutdown(socket.SHUT_WR)
            woken_for_nothing, before = 0, None
            while not is_over(running):
                here = bytes_on_the_way()
                woken_for_nothing += here == before
                before = here
                turns.take()
        assert running.uplink.events[-1].reason is CloseReason.IDLE_TIMEOUT
        assert woken_for_nothing <= 6


@both_kinds
@pytest.mark.parametrize("who", ["client", "target"])
def test_a_half_closed_session_wakes_nobody(client, who):
    """An end that has been read stays readable, and is not watched for. The other direction goes on."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), idle_timeout=0.6)
        with relaying(running, near, server) as (_session, target):
            ended, other = (far, target) if who == "client" else (target, far)
            turns = Turns(running.loop)
            ended.shutdown(socket.SHUT_WR)
            turns.until(lambda: has_data(other))
            assert receive(other) == b""
            other.sendall(b"still here")
            turns.until(lambda: has_data(ended))
            assert receive(ended, 10) == b"still here"
            turns.count = 0
            turns.until(lambda: is_over(running))
        assert running.uplink.events[-1].reason is CloseReason.IDLE_TIMEOUT
        assert turns.count <= 4


def test_a_reset_after_a_half_close_is_told_by_the_next_send(client):
    """Nothing else does, because what has ended is not read any more. It wakes nobody either."""
    far, near = client
    with listening() as server:
        running = Running(server.getsockname(), idle_timeout=5.0)
        with relaying(running, near, server) as (session, target):
            turns = Turns(running.loop)
            far.shutdown(socket.SHUT_WR)
            turns.until(lambda: session.state is State.CLIENT_ENDED)
            reset(far)
            for _ in range(2):  # the first may be sent before the reset is known
                with contextlib.suppress(OSError):
                    target.sendall(b"?")
                if not is_over(running):
                    turns.take()
            turns.until(lambda: is_over(running))
        closed = running.uplink.events[-1]
        assert (closed.error, closed.error_from) == ("ECONNRESET", "client")
        assert closed.duration_ms < 5000


@pytest.mark.posix("SIOCOUTQ, without which no session settles")
def test_a_session_that_lingers_is_looked_at_after_growing_pauses(client):
    """Nothing tells of an acknowledgement. Once the last one is there, the next look ends the session."""
    with listening() as server, settling(client, server) as (running, session, far, _target):
        turns = Turns(running.loop)
        before = time.monotonic()
        while time.monotonic() < before + 1:
            turns.take()
        assert session.state is State.SETTLING
        assert turns.count <= 16
        assert len(receive(far)) == test_relaying.TAIL
        read_at, turns.count = time.monotonic(), 0
        turns.until(lambda: is_over(running))
        assert turns.count <= 3
        assert time.monotonic() < read_at + LINGER / 2


# -- the poller ----------------------------------------------------------------------------------------------


def serve(running, server, clients, serials, *, together=True):
    """Hand clients over, in one message or in several, and let them exchange something; return the targets."""
    loop, turns = running.loop, Turns(running.loop)
    tickets = [
        (Ticket(serial, time.monotonic()), near) for serial, (_far, near) in zip(serials, clients, strict=True)
    ]
    for batch in [tickets] if together else [[ticket] for ticket in tickets]:
        running.sender.send([ticket for ticket, _near in batch], [near.fileno() for _ticket, near in batch])
    for _far, near in clients:
        near.close()
    targets = {}
    while len(targets) < len(clients):
        turns.until(lambda: has_data(server))
        target = accept(server)
        targets[target.getpeername()[1]] = target
    turns.until(lambda: not loop._deadlines.connecting)
    ports = {session.serial: session.outbound_port for session in loop._deadlines.idle}
    in_order = [targets[ports[serial]] for serial in serials]
    for (far, _near), target in zip(clients, in_order, strict=True):
        for source, sink in ((far, target), (target, far)):
            source.sendall(b"x")
            turns.until(lambda sink=sink: has_data(sink))
            assert sink.recv(10) == b"x"
    return in_order


def endings(running):
    """The sessions that have ended: serial and error."""
    return sorted((event.serial, event.error) for event in running.uplink.events if isinstance(event, Closed))


@pytest.mark.parametrize("taken", [False, True])
def test_sessions_may_end_and_others_begin_in_the_same_turn(monkeypatch, taken):
    """The new sockets get the numbers of the closed ones, of the client for the target, or (`taken`) others.

    There is room in the poller for three sessions and no more.
    """
    with listening() as server, contextlib.ExitStack() as stack:
        monkeypatch.setattr(poller_select, "_SET_SIZE", 1 + 3 * 2)
        running = Running(server.getsockname())
        loop, receive_message = running.loop, running.loop._inbox.receive

        def take_numbers_first():
            for _ in range(6):
                stack.enter_context(socket.socket())
            return receive_message()

        if taken:
            monkeypatch.setattr(loop._inbox, "receive", take_numbers_first)
        with running.unattended():
            for serials, together in (((1, 2, 3), False), ((4, 5, 6), True), ((7, 8, 9), False)):
                clients = [stack.enter_context(connected()) for _ in range(3)]
                targets = serve(running, server, clients, serials, together=together)
                for peer in (*targets, *(far for far, _near in clients)):
                    peer.shutdown(socket.SHUT_WR)
                for target in targets:
                    stack.callback(target.close)
            Turns(loop).until(lambda: len(endings(running)) == 9)
        assert endings(running) == [(serial, None) for serial in range(1, 10)]
        assert loop._poller._interest == {}


def test_a_session_without_room_in_the_poller_is_refused(monkeypatch):
    """It ends with the error, and those that are there go on."""
    monkeypatch.setattr(poller_select, "_SET_SIZE", 1 + 3)
    with listening() as server, connected() as (far, near), connected() as (other, second):
        running = Running(server.getsockname())
        with running.unattended():
            (target,) = serve(running, server, [(far, near)], [1])
            running.admit(second, 2, time.monotonic())
            turns = Turns(running.loop)
            turns.until(lambda: is_over(running))
            closed = running.uplink.events[-1]
            assert (closed.serial, closed.reason, closed.error) == (
                2,
                CloseReason.TARGET_CHANNEL_FAILED,
                "EMFILE",
            )
            with contextlib.suppress(ConnectionResetError):  # Wine shows an end of data
                assert other.recv(1) == b""
            with target:
                far.sendall(b"x")
                turns.until(lambda: has_data(target))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({}, poller.READ),
        ({"readable": True}, 0),
        ({"over": True}, 0),
        ({"writable": False}, poller.READ | poller.WRITE),
        ({"readable": True, "writable": False}, poller.WRITE),
        ({"over": True, "writable": False}, poller.WRITE),
        ({"readable": True, "writable": False, "done": True}, 0),
        ({"connected": False}, poller.READ),
        ({"connected": False, "readable": True}, 0),
        ({"connected": False, "writable": False, "readable": True}, 0),
        ({"connected": False, "is_target": True}, poller.WRITE),
        ({"connected": False, "is_target": True, "readable": True}, poller.WRITE),
    ],
    ids=str,
)
def test_interest_follows_from_the_flags(flags, told):
    """The socket has data and room. It is told of what its pumps wait for, each time that it is asked."""
    reads = SimpleNamespace(readable=flags.get("readable", False), over=flags.get("over", False))
    writes = SimpleNamespace(writable=flags.get("writable", True), over=flags.get("done", False))
    down = reads if flags.get("is_target") else writes
    session = SimpleNamespace(connected=flags.get("connected", True), down=down)
    near, far = socket.socketpair()
    sessions = {}
    watch = LevelPoller(sessions)
    with near, far:
        far.send(b"x")
        watch.add(near.fileno(), poller.READ | poller.WRITE | poller.EDGE)
        sessions[near.fileno()] = session, reads, writes
        for _ in range(2):
            assert dict(watch.wait(0)) == ({near.fileno(): told} if told else {})
        writes.writable, writes.over, session.connected = False, False, True
        assert dict(watch.wait(0)).get(near.fileno(), 0) & poller.WRITE
        del sessions[near.fileno()]
        assert watch.wait(0) == []
        watch.close()


@pytest.mark.posix("descriptors, of which the lowest free number is taken")
def test_a_number_of_a_closed_target_may_become_that_of_something_else():
    """The uplink, perhaps. It stays watched, though it is no session's."""
    pump = SimpleNamespace(readable=False, over=False, writable=True)
    session = SimpleNamespace(connected=True, down=pump)
    sessions = {}
    watch = LevelPoller(sessions)
    near, far = socket.socketpair()
    watch.add(number := near.fileno(), poller.READ | poller.EDGE)
    sessions[number] = (session, pump, pump)
    watch.wait(0)
    del sessions[number]
    near.close()
    with far, contextlib.ExitStack() as stack:
        other, speaker = map(stack.enter_context, socket.socketpair())
        if other.fileno() != number:
            other, speaker = speaker, other
        assert other.fileno() == number
        watch.add(number, poller.READ)
        speaker.sendall(b"x")
        assert watch.wait(1) == [(number, poller.READ)]
        watch.remove(number)
    watch.close()


def test_other_descriptors_are_watched_as_by_any_poller():
    """The inbox is, and the uplink while it is full. Nothing is looked up for them."""
    near, far = socket.socketpair()
    watch = LevelPoller({})
    with near, far:
        watch.add(near.fileno(), poller.READ)
        assert watch.wait(0) == []
        far.send(b"x")
        assert watch.wait(None) == watch.wait(None) == [(near.fileno(), poller.READ)]
        watch.change(near.fileno(), poller.WRITE)
        assert watch.wait(None) == [(near.fileno(), poller.WRITE)]
        watch.remove(near.fileno())
        with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is checked
            watch.remove(near.fileno())
        assert refused.value.errno == errno.ENOENT
        watch.close()


def test_reports_wait_for_room_in_the_uplink(client, monkeypatch):
    """Whoever makes room wakes the loop, which then reports."""
    _far, near = client
    way_up, other_end = socket.socketpair()
    room = []
    with listening() as server, way_up, other_end:
        running = Running(server.getsockname())
        uplink, whole = running.uplink, running.uplink.flush
        monkeypatch.setattr(uplink, "fileno", way_up.fileno, raising=False)
        monkeypatch.setattr(uplink, "flush", lambda: bool(room) and whole())
        monkeypatch.setattr(Uplink, "ROOM", poller.WRITE)
        way_up.settimeout(0)
        while push(way_up, bytes(1 << 16)):
            pass
        turns = Turns(running.loop)
        with running.unattended():
            running.admit(near, admitted_at=time.monotonic())
            turns.until(lambda: uplink.waiting)
            with accept(server):
                turns.until(lambda: running.loop._reports._full)
                other_end.settimeout(0)
                pull(other_end, bytearray())
                room.append(True)
                turns.until(lambda: not uplink.waiting)
                assert not running.loop._reports._full
        assert turns.count <= 5


def test_the_choice_follows_from_the_poller(kind):
    """It is made once, when the loop is made."""
    assert kind == "level"
    with listening() as server:
        running = Running(server.getsockname())
        with running.unattended():
            assert type(running.loop._poller) is LevelPoller


@pytest.mark.skipif(not poller.TELLS_EDGES, reason="this platform's poller tells no edges")
@pytest.mark.parametrize("kind", ["edge"], indirect=True)
def test_a_poller_that_tells_edges_is_used_as_it_is(kind):
    """The loop calls its wait directly: no call is added on a system that has edges."""
    assert kind == "edge"
    with listening() as server:
        running = Running(server.getsockname())
        with running.unattended():
            assert type(running.loop._poller) is poller.Poller
            assert running.loop._poller.wait.__func__ is poller.Poller.wait
