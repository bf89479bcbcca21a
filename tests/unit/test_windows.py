"""What only Windows has: shared sockets, jobs, console events, passed handles, pipes to the outlet."""

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

if sys.platform != "win32":
    pytest.skip("for Windows only", allow_module_level=True)

from mprelay.channel.up import EventReader, Queue, Uplink
from mprelay.core.exits import Exit
from mprelay.core.protocol import Progress
from mprelay.outlet import copying
from mprelay.system import early, oneway, passing_share, signals, signals_windows, spawning, stdio
from mprelay.system.poller import READ, Poller
from mprelay.system.streams import READY, WRITTEN

PATIENCE = 20.0
SPAWN = multiprocessing.get_context("spawn")


def await_readable(waitable):
    """Wait until something is readable."""
    assert select.select([waitable.fileno()], [], [], PATIENCE)[0]


def taken(take, *given):
    """Call again until it does not say that nothing waits, or that there is no room."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        with contextlib.suppress(BlockingIOError):
            return take(*given)
    raise TimeoutError


# -- sockets -------------------------------------------------------------------------------------------------


def answer_each(end, held):
    """Be a process that answers on each socket that it gets."""
    receiver = passing_share.Receiver(end, 100, 64)
    while True:
        await_readable(receiver)
        try:
            message, descriptors = receiver.receive()
        except BlockingIOError:
            continue
        if not message:
            break
        for descriptor in descriptors:
            with socket.socket(fileno=descriptor) as arrived:
                arrived.sendall(b"answer to " + message)
    held.recv()


@contextlib.contextmanager
def receiving_process():
    """A sender to a process that answers, and the process."""
    ours, theirs = passing_share.channel()
    held, mine = SPAWN.Pipe()
    process = SPAWN.Process(target=answer_each, args=(theirs, held))
    process.start()
    theirs.close()
    held.close()
    sender = passing_share.Sender(ours, process.pid)
    try:
        yield sender, process
    finally:
        sender.close()
        mine.close()
        process.kill()
        process.join()
        process.close()


def test_sockets_are_shared_with_another_process():
    """The sender's copies are closed at once. The other process has the only ones."""
    with receiving_process() as (sender, _process):
        for batch in (1, 64, 3):
            pairs = [socket.socketpair() for _ in range(batch)]
            taken(sender.send, b"%d" % batch, [near.fileno() for near, _ in pairs])
            for near, _ in pairs:
                near.close()
            for _, far in pairs:
                with far:
                    far.settimeout(PATIENCE)
                    assert far.recv(100) == b"answer to %d" % batch
                    assert far.recv(100) == b""


def next_handle():
    """The number of the next handle. The system takes the lowest free one, so each leak makes it rise by 4."""
    with socket.socket() as probe:
        return probe.fileno()


def test_sharing_leaves_no_handle_behind():
    """The sender of thousands of sockets has no more handles than before."""
    with receiving_process() as (sender, _process):
        before = None
        for number in range(2000):
            near, far = socket.socketpair()
            taken(sender.send, b"answer", [near.fileno()])
            near.close()
            with far:
                far.settimeout(PATIENCE)
                assert far.recv(100) == b"answer to answer"
                assert far.recv(100) == b""
            if number == 100:
                before = next_handle()
        assert abs(next_handle() - before) < 200


def test_nothing_is_shared_when_there_is_no_room():
    """Otherwise a process that does not know of a socket would keep its connection open."""
    ours, theirs = passing_share.channel()
    sender = passing_share.Sender(ours, os.getpid())
    with pytest.raises(BlockingIOError):  # noqa: PT012 - until the pipe is full
        while True:
            sender.send(b"x" * 4000, [])
    with far_of_refused(sender) as (far, error):
        assert error is BlockingIOError
        assert far.recv(1) == b""
    sender.close()
    theirs.close()


@contextlib.contextmanager
def far_of_refused(sender):
    """Try to send a socket through a full channel, and close it: the peer, and the error."""
    near, far = socket.socketpair()
    with far:
        far.settimeout(PATIENCE)
        error = None
        with near:
            try:
                sender.send(b"message", [near.fileno()])
            except OSError as failure:
                error = type(failure)
        yield far, error


def test_a_process_that_is_gone_gets_nothing():
    """The error says so, and the sockets stay the caller's."""
    with receiving_process() as (sender, process):
        process.kill()
        process.join()
        near, far = socket.socketpair()
        with near, far:
            far.settimeout(PATIENCE)
            with pytest.raises(OSError):  # noqa: PT011 - which error it is depends on the moment
                sender.send(b"message", [near.fileno()])
            near.sendall(b"still here")
            assert far.recv(100) == b"still here"


# -- processes -----------------------------------------------------------------------------------------------


def wait_for(held):
    """Be a process that does nothing until the other end is closed."""
    with contextlib.suppress(EOFError):
        held.recv()


def test_the_end_of_a_process_wakes_a_poller():
    """A sentinel can be watched like a socket."""
    held, mine = SPAWN.Pipe()
    process = spawning.start(wait_for, (held,), "one that waits")
    sentinel = spawning.Sentinel(process)
    poller = Poller()
    poller.add(sentinel.fileno(), READ)
    assert poller.wait(0.1) == []
    process.kill()
    assert poller.wait(PATIENCE) == [(sentinel.fileno(), READ)]
    process.join()
    poller.close()
    sentinel.close()
    process.close()
    held.close()
    mine.close()


def fail():
    """Be a process that fails before it is ready."""
    raise ZeroDivisionError("the cause")


def test_the_first_words_of_a_process_tell_why_it_failed(capfd):
    """They are passed on to stderr."""
    words = spawning.FirstWords()
    process = spawning.start(fail, (), "one that fails", words)
    process.join(PATIENCE)
    words.end()
    assert words.last == "ZeroDivisionError: the cause"
    assert "ZeroDivisionError: the cause" in capfd.readouterr().err
    process.close()


PARENT = """
import multiprocessing, os, sys
sys.path.insert(0, {place!r})
import test_windows as tests
from mprelay.system import spawning
if __name__ == "__main__":
    held, mine = tests.SPAWN.Pipe()
    child = spawning.start(tests.hang, (), "tied")
    spawning.tie(child)
    print(child.pid, flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


def hang():
    """Be a process that only a kill ends."""
    while True:
        time.sleep(1)


def test_a_tied_process_dies_with_its_parent(tmp_path):
    """Not even a hanging one is left behind."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(place=str(Path(__file__).parent)))
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.stdin.close()
        child.wait(PATIENCE)


# -- signals -------------------------------------------------------------------------------------------------


def test_a_signal_makes_the_descriptor_readable():
    """Ctrl-C and Ctrl-Break are signals."""
    heard = signals.Signals()
    try:
        for number in (signal.SIGINT, signal.SIGBREAK, signal.SIGTERM):
            signal.raise_signal(number)
            await_readable(heard)
            assert heard.take() == [number]
    finally:
        heard.close()


def test_an_early_signal_is_not_lost():
    """It is noted, and heard later."""
    before = {number: signal.getsignal(number) for number in early.NUMBERS}
    signals.begin()
    signal.raise_signal(signal.SIGBREAK)
    heard = signals.Signals()
    try:
        await_readable(heard)
        assert heard.take() == [signal.SIGBREAK]
        assert not early.noted
    finally:
        heard.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_end_of_the_console_counts_as_two_signals():
    """The thread in which the system tells it does not return, because the process would be killed then."""
    heard = signals.Signals()
    try:
        handler = signals_windows._handlers[-1]
        for event in (0, 1, 5, 6):  # signals; a login ends, the machine ends
            assert handler(event) == 0
        telling = threading.Thread(target=handler, args=(2,), daemon=True)
        telling.start()
        await_readable(heard)
        assert heard.take() == [signal.SIGTERM, signal.SIGTERM]
        telling.join(0.2)
        assert telling.is_alive()
    finally:
        heard.close()


TOLD_OF_THE_END = """
import ctypes, os, select, threading
from mprelay.system import signals
heard = signals.Signals()
told = ctypes.WinDLL("kernelbase").CtrlRoutine  # what the system's own thread runs
threading.Thread(target=told, args=(ctypes.c_void_p(2),), daemon=True).start()
select.select([heard.fileno()], [], [], 20)
print(*heard.take())
heard.close()
signals.ignore()
os._exit(0)
"""


def test_a_process_that_was_told_of_the_end_of_the_console_can_end():
    """The system holds a lock while it tells, and needs the same lock to set a handler."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD_OF_THE_END], check=False, timeout=PATIENCE, stdout=subprocess.PIPE
    )
    assert (done.returncode, done.stdout.split()) == (0, [b"15", b"15"])


LEAVING = """
import ctypes
from mprelay.system import signals
make_console = ctypes.WinDLL("kernel32").AllocConsole  # refused to a process that has one
had_one = not make_console()
signals.ignore()
signals.leave_console()
print(had_one, bool(make_console()), flush=True)
"""


def test_a_process_whose_streams_are_elsewhere_leaves_the_console():
    """The end of the console would otherwise wait five seconds for each worker before the supervisor is told."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], check=True, timeout=PATIENCE, stdin=subprocess.PIPE, capture_output=True
    )
    assert done.stdout.split() == [b"True", b"True"]


# -- the outlet ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def outlet():
    """An outlet: the supervisor's end, the voice, what reads its stdout and stderr, the process."""
    way, records = stdio.record_channel()
    complaints, voice = stdio.complaint_channel()
    stdout, theirs_out = os.pipe()
    stderr, theirs_err = os.pipe()
    handed = (stdio.Handed(theirs_out), stdio.Handed(theirs_err))
    process = SPAWN.Process(target=copying.run, args=(records, complaints, voice, *handed))
    process.start()
    for end in (records, complaints):
        end.close()
    for descriptor in (theirs_out, theirs_err):
        os.close(descriptor)
    sender = stdio.RecordSender(way)
    try:
        assert taken(sender.hear) == READY
        yield sender, voice, stdout, stderr, process
    finally:
        process.kill()
        process.join()
        process.close()
        voice.close()
        sender.close()
        for descriptor in (stdout, stderr):
            os.close(descriptor)


def test_records_wait_for_room_only_while_a_write_is_pending():
    """Nothing else would wake whoever waits for it. Here the pipe has room for several writes."""
    way, records = stdio.record_channel()
    sender, receiver = stdio.RecordSender(way), stdio.RecordReceiver(records)
    try:
        data = os.urandom(300_000)
        assert sender.send(data) == len(data)
        got = b""
        while len(got) < len(data):
            got += receiver.receive(1 << 20)
        assert got == data
    finally:
        sender.close()
        records.close()


def read_lines(descriptor, count):
    """Read until there are so many lines."""
    data = b""
    while data.count(b"\n") < count:
        part = os.read(descriptor, 65536)
        assert part, data
        data += part
    return data


def test_the_outlet_writes_records_and_complaints():
    """Bytes are not changed. The end is told when all is written."""
    with outlet() as (sender, voice, stdout, stderr, process):
        lines = [b'{"n":%d,"s":"\xce\xa9"}\n' % number for number in range(5000)]
        reading = []
        reader = threading.Thread(target=lambda: reading.append(read_lines(stdout, 5000)))
        reader.start()
        for line in lines:
            taken(sender.send, line)
        os.write(voice.fileno(), b"a complaint\n")
        assert not sender.end()
        taken(sender.send, b"\0")
        assert taken(sender.hear) == WRITTEN
        reader.join(PATIENCE)
        assert reading == [b"".join(lines)]
        assert read_lines(stderr, 1) == b"a complaint\n"
        assert sender.await_end(PATIENCE)
        process.join(PATIENCE)
        assert process.exitcode == Exit.OK


def test_an_outlet_whose_reader_is_gone_says_so():
    """It is noticed at the next record."""
    with outlet() as (sender, _voice, stdout, stderr, process):
        os.dup2(stderr, stdout)  # closes the reading end of its stdout
        sender.send(b"record\n")
        assert read_lines(stderr, 1).startswith(b"mprelay: stdout is gone: ")
        assert sender.await_end(PATIENCE)
        process.join(PATIENCE)
        assert process.exitcode == Exit.IOERR


def test_a_full_channel_refuses_and_keeps_nothing_back():
    """What was taken arrives, the last write too, which waits in the kernel."""
    with outlet() as (sender, _voice, stdout, _stderr, _process):
        sent = 0
        while sender._records._taken.is_set():
            sent += sender.send(b"x" * 999 + b"\n")
            sender._records.wait_for_room(0.2)
        with pytest.raises(BlockingIOError):
            sender.send(b"more")
        assert sender.unsettled == 1000
        assert len(read_lines(stdout, sent // 1000)) == sent
        assert sender.unsettled == 0


def report_and_leave(queue):
    """Be a worker that ends as soon as everything is sent."""
    uplink = Uplink(queue)
    for serial in range(20_000):
        uplink.report(Progress(serial, 1, 1, 1, 1))
    assert uplink.flush_within(PATIENCE)
    os._exit(0)


def test_a_worker_that_ends_loses_no_report():
    """Its last write may still wait in the kernel when all is sent."""
    queue = Queue()
    process = SPAWN.Process(target=report_and_leave, args=(queue,))
    process.start()
    reader = EventReader(queue)
    got = []
    while True:
        await_readable(reader)
        events = reader.take()
        if events is None:
            break
        got += events
    process.join()
    process.close()
    reader.close()
    assert [event.serial for event in got] == [*range(20_000)]


def test_a_burst_finds_room_although_the_worker_is_busy():
    """Hundreds of sockets wait for it."""
    ours, theirs = passing_share.channel()
    sender = passing_share.Sender(ours, os.getpid())
    near, far = socket.socketpair()
    with near, far:
        for _ in range(16):
            sender.send(b"x" * 1024, [near.fileno()] * 64)
    receiver = passing_share.Receiver(theirs, 1024, 64)
    count = 0
    while count < 1024:
        await_readable(receiver)
        with contextlib.suppress(BlockingIOError):
            _message, descriptors = receiver.receive()
            count += len(descriptors)
            for descriptor in descriptors:
                socket.close(descriptor)
    sender.close()
    receiver.close()


def test_everything_of_a_dead_writer_is_read_before_the_end():
    """The thread that reads may be behind: a report that a killed worker has sent must not be lost."""
    for _ in range(20):
        there, here = oneway.pipe()
        reader = oneway.Reader(there)
        writer = oneway.Writer(here)
        for _ in range(5):
            taken(writer.write, b"x" * 1000)
        writer.wait_for_room(PATIENCE)
        writer.close()
        assert reader.expect_end()
        got = 0
        while part := reader.read(1500):
            got += len(part)
        assert got == 5000
        reader.close()
