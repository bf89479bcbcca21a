"""Half-close passes through, a reset stays a reset, and what one side sent reaches the other.

Most relays get this wrong: see docs/design.md, What other relays do.
"""

import contextlib
import fcntl
import random
import select
import socket
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.launching import PYTHON_EXE
from support.params import slow
from support.patches import ARRIVAL, UNACKNOWLEDGED, assigned, first_in_workers, with_site
from support.peers import accept, ends_with_reset, listening, pattern, receive, reset, reset_arrives, silent
from support.relay import Relay
from support.waiting import PATIENCE

ANSWER = pattern(300_000)

BUFFERS = ["100", "4000", "auto"]

LAST_WORD = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge"

TRIALS = 10 if PYTHON_EXE else 60  # a reset is passed on after a second on Windows

IN_TIME = 20.0 if PYTHON_EXE else 8.0  # seconds: how long one session of the stress may take


@pytest.mark.parametrize("buffer", BUFFERS)
def test_client_half_closes_and_the_late_answer_arrives_whole(buffer):
    """The client ends its request. The target reads that end, then answers."""
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            with accept(server) as target:
                assert receive(target) == b"question"
                target.sendall(ANSWER)
            assert receive(client) == ANSWER
        closed = relay.wait("session.closed")
        assert closed["reason"] == "requester_read_closed"
        assert closed["error"] is None
        assert closed["bytes_from_client"] == 8
        assert closed["bytes_from_target"] == len(ANSWER)


@pytest.mark.parametrize("buffer", BUFFERS)
def test_target_half_closes_and_the_late_upload_arrives_whole(buffer):
    """The target ends first, and the client goes on sending."""
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        with relay.connect() as client, accept(server) as target:
            target.sendall(b"banner")
            target.shutdown(socket.SHUT_WR)
            assert receive(client) == b"banner"
            client.sendall(ANSWER)
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == ANSWER
        closed = relay.wait("session.closed")
        assert closed["reason"] == "target_read_closed"
        assert closed["bytes_from_client"] == len(ANSWER)
        assert closed["bytes_from_target"] == 6


def test_target_resets_and_the_client_sees_a_reset():
    """A cut transfer must never look complete."""
    with listening() as server, Relay(server.getsockname()) as relay:
        with relay.connect() as client, accept(server) as target:
            target.sendall(b"x" * 100_000)
            receive(client, 100_000)
            reset(target)
            assert ends_with_reset(client)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("target_read_closed", "ECONNRESET")
        assert closed["bytes_from_target"] == 100_000


def test_client_resets_and_the_target_sees_a_reset():
    with listening() as server, Relay(server.getsockname()) as relay:
        client = relay.connect()
        with accept(server) as target:
            client.sendall(b"x" * 100_000)
            receive(target, 100_000)
            reset(client)
            assert ends_with_reset(target)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", "ECONNRESET")
        assert closed["bytes_from_client"] == 100_000


@pytest.mark.posix("EPOLLERR: on Windows such a reset is met by the next read or send")
def test_reset_after_half_close_is_still_a_reset():
    """The kernel reports EPIPE for it (CLOSE_WAIT). The record says that it was a reset."""
    with listening() as server, Relay(server.getsockname()) as relay:
        client = relay.connect()
        with accept(server) as target:
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b""
            reset(client)
            assert reset_arrives(target)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"]) == ("requester_read_closed", "ECONNRESET")


# -- last words ----------------------------------------------------------------------------------------------


def say_and_leave(sock, read):
    """Read some of the other side's data, say a last word, and close with the rest unread: that is a reset."""
    receive(sock, read)
    sock.sendall(LAST_WORD)
    select.select([sock], [], [], PATIENCE)  # wait for unread data
    sock.close()


def pour(sock, size):
    """Send until the other side is gone, then read what it sent. Return that, and whether there was a reset."""
    was_reset = False
    try:
        for left in range(size, 0, -(1 << 16)):
            sock.sendall(bytes(min(left, 1 << 16)))
    except ConnectionError:
        was_reset = True  # sendmsg(2) has taken the error, so recv(2) will report a normal end
    heard = b""
    try:
        while part := sock.recv(4096):
            heard += part
    except ConnectionError:
        was_reset = True
    return heard, was_reset


def trial(relay, server, speaker, read, size):
    """Run one session with a last word of `speaker`.

    Return what the other side read, and whether it saw a reset.
    """
    client = relay.connect()
    target = accept(server)
    for sock in (client, target):
        sock.settimeout(IN_TIME)
    speaks, pours = (client, target) if speaker == "client" else (target, client)
    with client, target, ThreadPoolExecutor(1) as pool:
        heard = pool.submit(pour, pours, size)
        say_and_leave(speaks, read)
        return heard.result(IN_TIME)


@pytest.mark.parametrize(
    ("read", "size"), [(100, 2_000), (1_000, 1_000_000), (8_000_000, 1 << 30)], ids=["small", "large", "spliced"]
)
@pytest.mark.parametrize("speaker", ["client", "target"])
@pytest.mark.parametrize("buffer", ["auto", *slow("100", "4000")])
def test_a_last_word_arrives_every_time(buffer, speaker, read, size):
    """An early answer (413, an SMTP refusal) or a client's reason for leaving, each with data still unread."""
    read = min(read, 100_000) if buffer == "100" else read
    trials = TRIALS if read < 1_000_000 else min(TRIALS, 10)
    with listening() as server, Relay(server.getsockname(), "--buffer", buffer) as relay:
        outcomes = [trial(relay, server, speaker, read, size) for _ in range(trials)]
        assert outcomes == [(LAST_WORD, True)] * trials
        relay.wait("session.closed", count=trials)
        for closed in relay.all("session.closed"):
            assert (closed["error"], closed["error_from"]) == ("ECONNRESET", speaker)
            assert closed[f"{speaker}_end"] == "reset"
            assert closed[f"bytes_from_{speaker}"] == len(LAST_WORD)
            other = "target" if speaker == "client" else "client"
            assert closed[f"bytes_to_{other}"] == len(LAST_WORD)
            assert closed[f"bytes_to_{speaker}"] <= closed[f"bytes_from_{other}"]


def stuff(sock, data=None):
    """Send all of `data`, or until neither peer nor relay accepts any more."""
    sent = 0
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while poll.poll(300) and (data is None or sent < len(data)):
        sent += sock.send(bytes(1 << 14) if data is None else data[sent : sent + (1 << 14)])


def test_bytes_stuck_behind_a_slow_reader_arrive_before_the_reset():
    """The target has sent a lot and is gone. The client begins to read only then."""
    sent = pattern(3_000_000)
    with listening() as server, Relay(server.getsockname(), "--buffer", "4000") as relay:
        client = relay.connect()
        with client, accept(server) as target:
            stuff(target, sent)
            reset(target)
            relay.wait("session.connected")
            got, was_reset = pour(client, 0)
        closed = relay.wait("session.closed")
        assert was_reset
        assert got == sent[: len(got)]
        assert closed["bytes_from_target"] == closed["bytes_to_client"] == len(got)
        assert (closed["reason"], closed["target_end"], closed["client_end"]) == (
            "target_read_closed",
            "reset",
            None,
        )


@pytest.mark.parametrize("buffer", ["auto", *slow("100", "4000")])
def test_the_bytes_of_a_client_that_resets_before_the_target_is_connected_are_delivered(buffer):
    """A direct connection would have delivered them: the target's kernel would have accepted them by then."""
    with silent() as (server, filler), Relay(server.getsockname(), "--buffer", buffer) as relay:
        client = relay.connect()
        client.sendall(b"POST /stop\n")
        relay.wait("session.allocated")
        reset(client)
        filler.close()
        accept(server).close()
        with accept(server) as target:
            assert pour(target, 0) == (b"POST /stop\n", True)
        closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"], closed["error_from"]) == (
            "requester_read_closed",
            "ECONNRESET",
            "client",
        )
        assert (closed["client_end"], closed["bytes_from_client"], closed["bytes_to_target"]) == ("reset", 11, 11)


def test_the_greeting_of_a_target_that_resets_at_once_is_delivered():
    """Its reset may arrive before the relay has seen the connection made."""
    with listening() as server, Relay(server.getsockname()) as relay:
        for _ in range(TRIALS):
            with relay.connect() as client:
                target = accept(server)
                target.sendall(LAST_WORD)
                reset(target)
                assert pour(client, 0) == (LAST_WORD, True)
        relay.wait("session.closed", count=TRIALS)
        assert {r["reason"] for r in relay.all("session.closed")} <= {"target_read_closed", "target_write_closed"}


@pytest.mark.slow
@pytest.mark.posix("EPOLLERR: on Windows such a reset is met by the next read or send")
def test_the_reset_waits_no_longer_than_the_idle_timeout_for_a_client_that_does_not_read():
    """The linger time is ten seconds without progress. A shorter idle timeout bounds it too.

    The reason stays the same.
    """
    with listening() as server, Relay(server.getsockname(), "--idle-timeout", "4") as relay:
        with relay.connect(), accept(server) as target:
            stuff(target)
            reset(target)
            closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"], closed["error_from"]) == (
            "target_read_closed",
            "ECONNRESET",
            "target",
        )
        assert closed["bytes_to_client"] < closed["bytes_from_target"]
        assert closed["duration_ms"] < 10_000


def test_a_reset_after_both_ends_of_data_is_a_normal_end():
    """A TLS client closes before it reads the server's last alert, so its kernel answers with a reset."""
    with listening() as server, Relay(server.getsockname()) as relay:
        for _ in range(50):
            client, target = relay.connect(), accept(server)
            client.sendall(b"close_notify")
            client.close()
            with target:
                assert receive(target) == b"close_notify"
                target.sendall(b"close_notify")
        relay.wait("session.closed", count=50)
        for closed in relay.all("session.closed"):
            assert (closed["reason"], closed["error"], closed["error_from"]) == (
                "requester_read_closed",
                None,
                None,
            )
            assert (closed["client_end"], closed["target_end"]) == ("end", "end")


def test_a_client_that_is_killed_in_mid_download_is_not_a_normal_end():
    """Its kernel sends the end of its data, and answers further data with a reset."""
    with listening() as server, Relay(server.getsockname()) as relay:
        client, target = relay.connect(), accept(server)
        with target:
            target.sendall(b"part one")
            assert receive(client, 8) == b"part one"
            client.close()
            assert receive(target) == b""
            assert pour(target, 1 << 30) == (b"", True)
        closed = relay.wait("session.closed")
        assert (closed["error"], closed["error_from"]) == ("ECONNRESET", "client")
        assert (closed["client_end"], closed["target_end"]) == ("reset", None)


def unacknowledged(sock):
    """Bytes in the kernel's send queue; an end of data counts as one (SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@pytest.mark.posix("EPOLLERR, and SIOCOUTQ: Windows does not tell what was acknowledged")
def test_an_upload_that_was_left_unread_is_not_a_normal_end():
    """The target has ended, reads nothing, and resets.

    The client's own end of data comes right after the reset.
    """
    with listening() as server, Relay(server.getsockname()) as relay:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with relay.connect() as client, accept(server) as target:
            target.shutdown(socket.SHUT_WR)
            assert receive(client) == b""
            client.sendall(bytes(1_000_000))
            while unacknowledged(client):
                select.select([], [], [], 0.01)
            reset(target)
            with contextlib.suppress(OSError):  # ENOTCONN: the reset came first
                client.shutdown(socket.SHUT_WR)
            closed = relay.wait("session.closed")
        assert (closed["error"], closed["error_from"], closed["target_end"]) == ("ECONNRESET", "target", "reset")
        assert closed["bytes_to_target"] < closed["bytes_from_client"] == 1_000_000


def answer_early(client, target):
    """Answer the client while its upload is unread, and leave. Return what the client read, and how it ended."""
    with client, target:
        client.sendall(b"upload")
        target.sendall(ANSWER)
        while unacknowledged(target):
            select.select([], [], [], 0.01)
        reset(target)
        return pour(client, 0)


def test_last_words_arrive_every_time_if_the_system_does_not_tell_what_has_arrived(tmp_path):
    """As on Windows. The client's kernel takes only a part of the answer before the target resets."""
    code = f"{assigned(UNACKNOWLEDGED, 'lambda _sock: None')}; {assigned(ARRIVAL, '2.0')}"
    env = with_site(tmp_path, first_in_workers(code))
    with listening() as server, Relay(server.getsockname(), env=env) as relay, ThreadPoolExecutor(10) as pool:
        pairs = [(relay.connect(receive_buffer=1 << 14), accept(server)) for _ in range(10)]
        assert [*pool.map(answer_early, *zip(*pairs, strict=True))] == [(ANSWER, True)] * 10
        relay.wait("session.closed", count=10)
        for closed in relay.all("session.closed"):
            assert (closed["error"], closed["error_from"]) == ("ECONNRESET", "target")
            assert closed["bytes_to_client"] == len(ANSWER)


@pytest.mark.slow
def test_an_idle_session_records_which_side_had_ended():
    """The client's end of data waits behind bytes that the target does not read."""
    with listening() as server, Relay(server.getsockname(), "--idle-timeout", "3", "--buffer", "100") as relay:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = relay.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with client, accept(server) as target:
            stuff(client)
            client.shutdown(socket.SHUT_WR)
            while unacknowledged(client):  # its end of data has not reached the relay's kernel
                target.recv(4096)
            closed = relay.wait("session.closed")
        assert (closed["reason"], closed["error"], closed["error_from"]) == ("idle_timeout", None, None)
        assert (closed["client_end"], closed["target_end"]) == ("end", None)


def test_both_reset():
    """The first reset is the reason. The record has the ends of both sides."""
    with listening() as server, Relay(server.getsockname()) as relay:
        client, target = relay.connect(), accept(server)
        target.sendall(b"x")
        assert receive(client, 1) == b"x"
        reset(client)
        reset(target)
        closed = relay.wait("session.closed")
        assert (closed["error"], closed["error_from"]) in {("ECONNRESET", "client"), ("ECONNRESET", "target")}


# -- a stress of early ends ----------------------------------------------------------------------------------


def act(sock, dice):
    """Send and receive random amounts, perhaps say a last word, and leave in a random way."""
    with sock, contextlib.suppress(ConnectionError):
        sock.settimeout(0.05)  # both may wait for each other; then both go on
        for _ in range(dice.randrange(4)):
            with contextlib.suppress(TimeoutError):
                if dice.randrange(2):
                    sock.sendall(bytes(int(3_000_000 ** dice.random())))
                else:
                    sock.recv(int(1_000_000 ** dice.random()))
        if dice.randrange(2):
            with contextlib.suppress(TimeoutError):
                sock.send(LAST_WORD)
        sock.settimeout(IN_TIME)
        way = dice.randrange(3)
        if way == 0:
            reset(sock)
        elif way == 1:
            with contextlib.suppress(OSError):  # ENOTCONN: reset already
                sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass


@pytest.mark.parametrize("buffer", ["auto", *slow("100", "4000")])
def test_no_session_of_early_ends_hangs(buffer):
    """Random mixes of transfers, cuts and ways to leave, on both sides. Once both have left, the session ends."""
    with (
        listening() as server,
        Relay(server.getsockname(), "--buffer", buffer) as relay,
        ThreadPoolExecutor(2) as pool,
    ):
        for number in range(20 if PYTHON_EXE else 100):
            dice = [random.Random(f"{buffer}/{number}/{side}") for side in ("client", "target")]  # noqa: S311
            client = relay.connect()
            if PYTHON_EXE:  # a client that resets before it is accepted is no session there
                relay.wait("session.allocated", session=number + 1)
            ends = [pool.submit(act, client, dice[0]), pool.submit(act, accept(server), dice[1])]
            for end in ends:
                end.result(IN_TIME)
            began = time.monotonic()
            relay.wait("session.closed", session=number + 1)
            assert time.monotonic() - began < IN_TIME
