"""The outlet, which owns stdout and stderr, by itself: real processes, pipes and sockets."""

import contextlib
import errno
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import limit, links, opened
from support.relay import FAILING_CALL
from support.waiting import PATIENCE, eventually

from mprelay import outlet
from mprelay.system import streams
from mprelay.system.stdio import Handed
from mprelay.system.streams import END, READY, WRITTEN, Sink, complain

with contextlib.suppress(ImportError):  # Windows has none
    import resource

pytestmark = pytest.mark.posix("the outlet here; that of Windows is in test_windows.py")

LINE = b"r" * 900 + b"\n"
DEAF_TO = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM"]


class Outlet:
    """An outlet and its connections. `records` is the supervisor's end, `voice` that of all processes."""

    def __init__(self, way_out=os.pipe):
        with contextlib.ExitStack() as stack:
            self.records, records = socket.socketpair()
            complaints, self.voice = socket.socketpair()
            os.set_blocking(self.voice.fileno(), False)
            self.stdout, stdout = way_out()
            self.stderr, stderr = os.pipe()
            for given_away in (records, complaints):
                stack.enter_context(given_away)
            for given_away in (stdout, stderr):
                stack.callback(os.close, given_away)
            self.process = multiprocessing.get_context("spawn").Process(
                target=outlet.main, args=(records, complaints, self.voice, Handed(stdout), Handed(stderr))
            )
            self.process.start()
        self.records.settimeout(PATIENCE)
        assert self.records.recv(1) == READY

    def end(self):
        """Wait for the end; return the exit code."""
        self.process.join(PATIENCE)
        return self.process.exitcode

    def close(self, name):
        """Close one of the test's ends."""
        end = getattr(self, name)
        setattr(self, name, None)
        if isinstance(end, int):
            os.close(end)
        elif end is not None:
            end.close()

    def close_all(self):
        """Kill the process, and close all ends."""
        self.process.kill()
        self.process.join()
        self.process.close()
        for name in ("records", "voice", "stdout", "stderr"):
            self.close(name)


@pytest.fixture
def begun():
    """Start outlets, and end them."""
    with contextlib.ExitStack() as stack:

        def start(*given):
            new = Outlet(*given)
            stack.callback(new.close_all)
            return new

        yield start


def read_all(descriptor, size):
    """Read exactly `size` bytes, or fewer if the end comes first."""
    data = b""
    while len(data) < size:
        assert select.select([descriptor], [], [], PATIENCE)[0], data[-100:]
        part = os.read(descriptor, min(65536, size - len(data)))
        if not part:
            break
        data += part
    return data


def read_rest(descriptor):
    """Read to the end."""
    return read_all(descriptor, 1 << 30)


def reading(descriptor):
    """Read to the end in a thread. A call of the result waits for it and returns the data."""
    parts = []
    thread = threading.Thread(target=lambda: parts.append(read_rest(descriptor)))
    thread.start()

    def result():
        thread.join(PATIENCE)
        return parts[0]

    return result


# -- records -------------------------------------------------------------------------------------------------


def test_everything_comes_out_in_order_and_is_confirmed(begun):
    """The socket may divide the records anywhere."""
    new = begun()
    data = b"".join(b"%06d\n" % number for number in range(50_000))
    result = reading(new.stdout)
    for at in range(0, len(data), 9973):
        new.records.sendall(data[at : at + 9973])
    new.records.shutdown(socket.SHUT_WR)
    assert new.records.recv(1) == WRITTEN
    assert new.records.recv(1) == b""
    assert new.end() == 0
    assert result() == data


def test_the_end_may_be_a_message(begun):
    """This is for a system that refuses shutdown(2). Earlier records are written, and the message is not."""
    new = begun()
    new.records.sendall(b"one\ntwo\n" + END)
    assert new.records.recv(1) == WRITTEN
    assert new.end() == 0
    assert reading(new.stdout)() == b"one\ntwo\n"


def test_a_record_that_was_sent_only_in_part_is_dropped(begun):
    """The supervisor was killed within a send. Everything before that record is written."""
    new = begun()
    new.records.sendall(b"one\ntwo\nthr")
    new.close("records")
    assert new.end() == 0
    assert read_rest(new.stdout) == b"one\ntwo\n"


def test_the_supervisor_may_die_before_it_receives_anything():
    """The kernel then resets the socket. Records that were sent are still written."""
    with contextlib.ExitStack() as stack:
        ours, records = socket.socketpair()
        complaints, voice = socket.socketpair()
        reader, stdout = os.pipe()
        for descriptor in (reader, stdout):
            stack.callback(os.close, descriptor)
        for sock in (records, complaints, voice):
            stack.enter_context(sock)
        records.sendall(READY)  # as if the outlet had sent it
        ours.sendall(LINE)
        ours.close()
        process = multiprocessing.get_context("spawn").Process(
            target=outlet.main, args=(records, complaints, voice, Handed(stdout), Handed(2))
        )
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
        assert read_all(reader, len(LINE)) == LINE


def test_a_pipe_gets_whole_records_in_atomic_writes(begun):
    """Another writer of the same pipe never writes inside a record."""
    reader, writer = os.pipe()
    new = begun(lambda: (reader, os.dup(writer)))
    stop = threading.Event()

    def intrude():
        while not stop.is_set():
            os.write(writer, b"intruder\n")

    intruder = threading.Thread(target=intrude)
    result = reading(reader)
    intruder.start()
    new.records.sendall(LINE * 3000)
    new.records.shutdown(socket.SHUT_WR)
    assert new.end() == 0
    stop.set()
    intruder.join()
    os.close(writer)
    lines = result().splitlines(keepends=True)
    assert set(lines) == {LINE, b"intruder\n"}
    assert lines.count(LINE) == 3000


def test_a_stdout_that_another_process_made_non_blocking(begun):
    """The flag is shared with other processes. No record is lost because of it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    new = begun(lambda: (reader, writer))
    new.records.sendall(LINE * 100)
    result = reading(reader)
    new.records.sendall(LINE * 200)
    new.records.shutdown(socket.SHUT_WR)
    assert new.end() == 0
    assert result() == LINE * 300


def test_a_file_takes_records(begun, tmp_path):
    """A file can never hang up."""
    with (tmp_path / "log").open("wb") as log:
        new = begun(lambda: (os.open(os.devnull, os.O_RDONLY), os.dup(log.fileno())))
    new.records.sendall(LINE * 100)
    new.records.shutdown(socket.SHUT_WR)
    assert new.end() == 0
    assert (tmp_path / "log").read_bytes() == LINE * 100


def sockets():
    """A stream socket as stdout, as systemd passes it."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("way_out", [os.pipe, sockets])
@pytest.mark.parametrize("busy", [False, True])
def test_a_reader_that_goes_away_is_noticed_and_reported(begun, way_out, busy):
    """It is noticed at once, even while nothing is written.

    Records without a reader do not keep the outlet alive.
    """
    new = begun(way_out)
    if busy:
        new.records.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                new.records.send(LINE * 100)
    new.close("stdout")
    assert new.end() == 74
    assert read_rest(new.stderr) == b"mprelay: stdout is gone: Broken pipe\n"


# -- complaints ----------------------------------------------------------------------------------------------


def test_complaints_are_written_whatever_stdout_does(begun):
    """Stdout stands still: its pipe is full."""
    new = begun()
    new.records.sendall(LINE * 150)
    new.voice.send(b"said\n")
    assert read_all(new.stderr, 5) == b"said\n"
    assert read_all(new.stdout, 150 * len(LINE)) == LINE * 150


def fill(voice):
    """Complain until there is no room."""
    with contextlib.suppress(BlockingIOError):
        while True:
            voice.send(b"x" * 1000 + b"\n")


def test_records_are_written_whatever_stderr_does(begun):
    """Stderr stands still. At the end the outlet waits for it a moment, and no longer."""
    new = begun()
    fill(new.voice)
    new.records.sendall(LINE)
    assert read_all(new.stdout, len(LINE)) == LINE
    new.records.shutdown(socket.SHUT_WR)
    assert new.records.recv(1) == WRITTEN
    assert new.end() == 0


def test_last_words_are_passed_on(begun):
    """A complaint made before the end of the records is not lost, even if its writer still exists."""
    new = begun()
    for number in range(200):
        new.voice.send(b"%03d\n" % number)
    new.close("records")
    assert new.end() == 0
    assert read_rest(new.stderr).split() == [b"%03d" % number for number in range(200)]


def test_a_stderr_that_is_not_read_costs_nothing(begun):
    """Its complaints are thrown away, and the next ones are accepted."""
    new = begun()
    new.close("stderr")
    for _ in range(1000):
        fill(new.voice)
    new.records.sendall(LINE)
    assert read_all(new.stdout, len(LINE)) == LINE
    new.close("records")
    assert new.end() == 0


# -- the process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEAF_TO)
def test_it_ignores_signals(begun, name):
    """A signal to the whole process group must not cost a record."""
    new = begun()
    os.kill(new.process.pid, getattr(signal, name))
    new.records.sendall(LINE)
    new.records.shutdown(socket.SHUT_WR)
    assert new.end() == 0
    assert read_rest(new.stdout) == LINE


def test_it_holds_two_streams_and_two_sockets_and_nothing_else(begun):
    """No descriptor of multiprocessing's or of the test's is open. 0 is the channel for its own complaints."""
    new = begun()
    held = links(new.process.pid)
    assert (held.pop(1), held.pop(2)) == (opened("self", new.stdout), opened("self", new.stderr))
    assert held.pop(0).startswith("socket:")
    assert [link.partition(":")[0] for link in held.values()] == ["socket", "socket"]


# -- writing -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30)), st.integers(1, 50))
def test_chunks_are_whole_records(lengths, most):
    """A chunk has as many records as fit. A longer record is a chunk of its own."""
    records = [b"r" * length + b"\n" for length in lengths]
    chunks = list(streams._chunks(b"".join(records), most))
    assert b"".join(chunks) == b"".join(records)
    for chunk in chunks:
        assert chunk.endswith(b"\n")
        assert len(chunk) <= most or chunk.count(b"\n") == 1


def test_a_file_that_may_not_grow_is_waited_for(begun, tmp_path):
    """EFBIG comes in the middle of a record. Its rest follows when there is room, and SIGXFSZ ends no process."""
    path = tmp_path / "log"
    new = begun(lambda: (os.open(path, os.O_RDONLY | os.O_CREAT), os.open(path, os.O_WRONLY)))
    size = len(LINE) + 100
    with limit(new.process.pid, resource.RLIMIT_FSIZE, size):
        new.records.sendall(LINE * 3)
        said = b"mprelay: records wait: File too large\n"
        assert read_all(new.stderr, len(said)) == said
        assert path.read_bytes() == (LINE * 2)[:size]
        assert new.process.is_alive()
    new.records.sendall(LINE)
    new.records.shutdown(socket.SHUT_WR)
    assert new.records.recv(1) == WRITTEN
    assert path.read_bytes() == LINE * 4
    assert new.end() == 0
    assert read_rest(new.stderr) == b""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.ENOBUFS])
def test_a_passing_error_is_waited_for(number):
    """Without room or memory the kernel refuses each write, and the record is kept."""
    rule = f"write,0=1:{errno.errorcode[number]}"  # to stdout
    code = "from mprelay.system.streams import Sink\n"
    code += "Sink(1, lambda text: print(text, file=sys.stderr)).write(b'kept')"
    with subprocess.Popen(
        [sys.executable, FAILING_CALL, rule, "--", sys.executable, "-c", "import sys; " + code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        said = f"records wait: {os.strerror(number)}\n".encode()
        assert read_all(process.stderr.fileno(), len(said)) == said
        assert process.poll() is None
        process.kill()


def test_a_lack_of_room_is_reported_once_and_waited_for():
    """/dev/full always gives ENOSPC. The record is kept and tried again, until there is room."""
    full = os.open("/dev/full", os.O_WRONLY)
    room, way_out = os.pipe()
    said = []
    writing = threading.Thread(target=Sink(full, said.append).write, args=(b"kept\n",))
    writing.start()
    eventually(lambda: said, "a complaint")
    os.dup2(way_out, full)  # now there is room
    assert read_all(room, 5) == b"kept\n"
    writing.join()
    assert said == ["records wait: No space left on device"]
    for descriptor in (full, room, way_out):
        os.close(descriptor)


def test_a_lack_of_room_is_an_error_without_a_report_function():
    """The help text is written in this way."""
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left"):
        Sink(full.fileno()).write(b"lost\n")


def test_stderr_may_be_unusable(capfd):
    """A full or closed stderr does not stop the outlet."""
    complain("said")
    assert capfd.readouterr().err == "mprelay: said\n"
    kept, full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 2)
    complain("no room")
    os.dup2(kept, 2)
    os.close(kept)
    os.close(full)
