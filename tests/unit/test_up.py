"""The channel up: frames are whole, small enough to be atomic, and never block the worker."""

import contextlib
import multiprocessing
import os
import select
import signal
import struct
import threading

import orjson
import pytest

from mprelay.channel.up import EVENTS_PER_FRAME, EventReader, Queue, Uplink, pack, unpack
from mprelay.core.protocol import (
    AWAITED_FROM,
    IP_LENGTH_LIMIT,
    PROBLEM_LIMIT,
    Announced,
    Closed,
    CloseReason,
    Connected,
    Crashed,
    Measured,
    NotAnnounced,
    Progress,
    Ready,
    Trying,
)

with contextlib.suppress(ImportError):  # Windows has none
    import fcntl

pytestmark = pytest.mark.posix("reports through a pipe(2); those of Windows are in test_oneway.py")

LARGEST_COUNT = 2**60 - 1
LARGEST = Closed(
    2**63 - 1,
    99999999999.99998,
    99999999999999.98,
    max(CloseReason, key=len),
    "E" * 32,
    "client",
    "reset",
    "reset",
    "0000:0000:0000:0000:0000:ffff:255.255.255.255",
    *[LARGEST_COUNT] * 4,
)


def writer_process(queue, count):
    """Report `count` events, then wait to be killed."""
    uplink = Uplink(queue)
    for serial in range(count):
        uplink.report(Progress(serial, *[serial] * 4))
    while not uplink.flush():
        select.select([], [uplink], [])
    uplink.report(Ready(0.0, "build"))
    uplink.flush()
    signal.pause()


@pytest.fixture
def queue():
    """A queue of one worker."""
    made = Queue()
    yield made
    made.close()


def both_ends(queue):
    """An uplink and a reader in one process, where neither may close the other's end."""
    duplicate = Queue.__new__(Queue)
    duplicate.__dict__.update(queue.__dict__)
    reader = multiprocessing.connection.Connection(os.dup(queue.reader.fileno()), writable=False)
    uplink = Uplink(queue)
    duplicate._reader = reader
    duplicate._writer = multiprocessing.connection.Connection(os.dup(uplink.fileno()), readable=False)
    return uplink, EventReader(duplicate)


def test_the_largest_frame_is_atomic(queue):
    """With its length before it, a frame fits into PIPE_BUF."""
    uplink, other = both_ends(queue)
    for _ in range(EVENTS_PER_FRAME):
        uplink.report(LARGEST)
    assert uplink.flush()
    size = len(os.read(other.fileno(), 65536))
    other.close()
    assert size <= select.PIPE_BUF
    crashed = Queue()
    uplink, other = both_ends(crashed)
    uplink.report(Crashed(1.0, "x" * 200, "\U0001f4a5" * 200))
    assert uplink.flush()
    assert len(os.read(other.fileno(), 65536)) <= select.PIPE_BUF
    other.close()
    crashed.close()


def test_a_full_pipe_keeps_the_events_and_their_order(queue):
    """The worker never waits. A frame that does not fit is kept whole."""
    uplink, other = both_ends(queue)
    count = 0
    while uplink.flush():
        for _ in range(EVENTS_PER_FRAME):
            uplink.report(Connected(count, 1.0, 2.0, 3))
            count += 1
    assert uplink.waiting
    got = []
    while events := other.take():
        got += events
        uplink.flush()
    other.close()
    assert [event.serial for event in got] == list(range(count))
    assert all(isinstance(event, Connected) for event in got)
    assert not uplink.waiting


def test_a_read_may_end_within_a_frame(queue):
    """This happens in a pipe that holds more than one read takes."""
    fcntl.fcntl(queue.writer.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    uplink, other = both_ends(queue)
    sent = [Progress(serial, 2, 3, 3, 2) for serial in range(10_000)]
    for event in sent:
        uplink.report(event)
    assert uplink.flush()
    got = []
    while events := other.take():
        got.append(events)
    other.close()
    assert len(got) > 1
    assert [event for events in got for event in events] == sent


def test_the_last_report_waits_for_room(queue):
    """Any number of reports may wait before it. All are sent in order, as the reader makes room."""
    uplink, other = both_ends(queue)
    while uplink.flush():
        uplink.report(Progress(1, 2, 3, 3, 2))
    uplink.report(Crashed(1.0, "place", "error"))
    got = []

    def read() -> None:
        while not (got and isinstance(got[-1], Crashed)):
            select.select([other], [], [])
            got.extend(other.take())

    reading = threading.Thread(target=read)
    reading.start()
    assert uplink.flush_within(20.0)
    reading.join()
    other.close()
    assert isinstance(got[-1], Crashed)
    assert not uplink.waiting


def test_the_last_report_does_not_wait_for_ever(queue):
    """If the reader makes no room, it is given up; without any reader, at once."""
    uplink, other = both_ends(queue)
    while uplink.flush():
        uplink.report(Progress(1, 2, 3, 3, 2))
    assert not uplink.flush_within(0.01)
    closing = threading.Timer(0.1, other.close)
    closing.start()
    with pytest.raises(BrokenPipeError):
        uplink.flush_within(20.0)
    closing.join()


def test_a_queue_without_a_reader(queue):
    """The worker learns at once that its supervisor is gone."""
    uplink = Uplink(queue)
    uplink.report(Ready(1.0, "build"))
    with pytest.raises(BrokenPipeError):
        uplink.flush()


def test_a_killed_worker_leaves_whole_frames_and_then_the_end(queue):
    """After a kill -9 in the middle of reporting every frame is whole, and the end comes after the last one."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=writer_process, args=(queue, 5000))
    process.start()
    reader = EventReader(queue)
    got = []
    while len(got) < 2000:
        got += reader.take()
    process.kill()
    while (events := reader.take()) is not None:
        got += events
    process.join()
    reader.close()
    serials = [event.serial for event in got if isinstance(event, Progress)]
    assert serials == list(range(len(serials)))
    process.close()


@pytest.mark.parametrize(
    "event",
    [
        Ready(1.5, "0.1.0 75f37af9"),
        Connected(1, 2.0, 3.0, 4),
        Progress(1, 2, 3, 3, 2),
        LARGEST,
        Closed(1, 1.0, 1.0, *[None] * 6, 0, 0, 0, 0),
        LARGEST._replace(error_from="target", client_end="end", target_end=None),
        Crashed(1.0, "place", "error"),
        Announced(AWAITED_FROM, 1.0, "2001:db8::1", 65535),
        Announced(2**64 - 1, 1.0, None, 0),
        NotAnnounced(AWAITED_FROM, 1.0, "x" * PROBLEM_LIMIT),
        Trying(2**64 - 1, "1" * IP_LENGTH_LIMIT),
        Measured(1, 0.025, 4294967.295, 0, 2**32 - 1),
        Measured(1, None, 1.0, 0, 3),
        Measured(1, 1.0, None, 3, None),
        Measured(1, None, None, None, None),
    ],
)
def test_events_travel_as_plain_tuples(event):
    """They arrive as equal events of the same kind."""
    again = unpack(orjson.loads(orjson.dumps(pack(event))))
    assert (type(again), again) == (type(event), event)
    assert type(pack(event)) is tuple
    assert all(type(part) in (int, float, str, type(None)) for part in pack(event))


def frame(data, length=None):
    """Bytes in the form in which multiprocessing.Connection sends them."""
    return struct.pack("!i", len(data) if length is None else length) + data


GOOD = [(2, 1, 2, 3, 3, 2)]


@pytest.mark.parametrize(
    "sent",
    [
        b"not even a length",
        frame(b""),
        frame(b"no JSON"),
        frame(b"\xff" * 9),
        frame(b"[" * 4000),
        frame(b"cos\nsystem\n(S'exit 1'\ntR."),  # a pickle
        frame(orjson.dumps(GOOD)[:-3]),
        frame(orjson.dumps(GOOD), 1000),
        frame(b"x", 2**31 - 1),
        b"\xff" * 12,
        frame(orjson.dumps({"a": 1})),
        frame(orjson.dumps([{"a": 1}])),
        frame(orjson.dumps([[]])),
        frame(orjson.dumps([2, 1, 2, 3, 3, 2])),
        frame(orjson.dumps([(9, 1, 2, 3, 3, 2)])),
        frame(orjson.dumps([(2, "1", 2, 3, 3, 2)])),
        frame(orjson.dumps([(2, True, 2, 3, 3, 2)])),
        frame(orjson.dumps([(2, 1, 2, 3, 4, 2)])),
        frame(orjson.dumps([(2, 1, 2, 3, 3, 3)])),
        frame(orjson.dumps([pack(LARGEST)[:-1]])),
        frame(orjson.dumps([(*pack(LARGEST)[:4], "for fun", *pack(LARGEST)[5:])])),
        frame(orjson.dumps([(0, 1.0)])),
        frame(orjson.dumps([(0, -1.0, "build")])),
        frame(orjson.dumps([(0, 1.0, "x" * 65)])),
        frame(orjson.dumps([(0, 1.0, "é")])),
        frame(orjson.dumps([(0, 1.0, "\x1b[2J")])),
        frame(b'[[0,NaN,"build"]]'),
        frame(orjson.dumps([(4, 1e11, "place", "error")])),
        frame(b"[[1,1,1.0,1e999,4]]"),
        frame(orjson.dumps([(1, 1, 1e300, 1.0, 4)])),
        frame(orjson.dumps([(1, 1, 1.0, 1.0, 65536)])),
        frame(orjson.dumps([(1, 1, 1.0, 1.0, -1)])),
        frame(orjson.dumps([(2, 1, 2**60, 3, 3, 2)])),
        frame(orjson.dumps([(2, 1, 2, 3, -3, 2)])),
        frame(orjson.dumps([pack(LARGEST._replace(client_end="fun"))])),
        frame(orjson.dumps([pack(LARGEST._replace(target_end="client"))])),
        frame(orjson.dumps([pack(LARGEST._replace(error_from="reset"))])),
        frame(orjson.dumps([pack(LARGEST._replace(inbound_ip="1" * 46))])),
        frame(orjson.dumps([pack(LARGEST._replace(inbound_ip="\x1b"))])),
        frame(orjson.dumps([pack(LARGEST._replace(at=1e11))])),
        frame(orjson.dumps([pack(LARGEST._replace(duration_ms=-1.0))])),
        frame(orjson.dumps([pack(LARGEST._replace(bytes_from_client=2**60))])),
        frame(orjson.dumps([pack(LARGEST._replace(bytes_from_target=-1))])),
        frame(orjson.dumps([(*pack(LARGEST)[:5], "E" * 33, *pack(LARGEST)[6:])])),
        frame(orjson.dumps([(*pack(LARGEST)[:5], "Eé", *pack(LARGEST)[6:])])),
        frame(orjson.dumps([(7, 1, "1" * 46)])),
        frame(orjson.dumps([(7, 1, "\x1b")])),
        frame(orjson.dumps([(7, 1, None)])),
        frame(orjson.dumps([(5, 1, 1.0, "1" * 46, 1)])),
        frame(orjson.dumps([(5, 1, 1.0, "\x1b", 1)])),
        frame(orjson.dumps([(5, 1, 1.0, "::1", 65536)])),
        frame(orjson.dumps([(5, 1, 1.0, None, -1)])),
        frame(orjson.dumps([(5, 1, 1e11, None, 0)])),
        frame(orjson.dumps([(6, 1, 1e11, "no header")])),
        frame(orjson.dumps([(6, 1, 1.0, "x" * (PROBLEM_LIMIT + 1))])),
        frame(orjson.dumps([(6, 1, 1.0, "é")])),
        frame(orjson.dumps([(8, 1, -0.1, 1.0, 0, 0)])),
        frame(orjson.dumps([(8, 1, 1.0, 4294967.296, 0, 0)])),
        frame(orjson.dumps([(8, 1, 1.0, 1.0, 2**32, 0)])),
        frame(orjson.dumps([(8, 1, 1.0, 1.0, 0, -1)])),
        frame(orjson.dumps([(8, 1, 1, 1.0, 0, 0)])),
        frame(orjson.dumps([(8, 1, 1.0, 1.0, 0.0, 0)])),
        frame(b"[[8,1,1e999,1.0,0,0]]"),
    ],
)
def test_a_report_that_no_worker_sends_is_a_crash_and_the_end(queue, sent):
    """Nothing of it takes effect, and nothing is read after it."""
    reader = EventReader(queue_of(queue, frame(orjson.dumps(GOOD)) + sent + frame(orjson.dumps(GOOD))))
    good, crashed = reader.take()
    assert good == Progress(1, 2, 3, 3, 2)
    assert isinstance(crashed, Crashed)
    assert crashed.error.startswith("NotEvents: ")
    assert reader.garbled
    assert reader.take() is None


def queue_of(queue, data):
    """The queue, with `data` in it."""
    os.write(queue.writer.fileno(), data)
    return queue
