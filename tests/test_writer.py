"""The way out: nothing lost, nothing torn, nobody but the writer's thread waits."""

import os
import select
import threading

import pytest

from mprelay.writer import HIGH, LOW, Writer, complain


class Woken:
    """Counts wake-ups, and lets a test wait for one."""

    def __init__(self):
        self._semaphore = threading.Semaphore(0)

    def __call__(self):
        """Wake."""
        self._semaphore.release()

    def wait(self):
        """Wait for one."""
        assert self._semaphore.acquire(timeout=20)


@pytest.fixture
def pipe():
    """A pipe as stdout."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end >= 0:
            os.close(end)


def started(descriptor, woken):
    """A writer with its thread."""
    writer = Writer(descriptor, woken)
    writer.start()
    return writer


def read_all(descriptor, size):
    """Read exactly `size` bytes."""
    data = b""
    while len(data) < size:
        data += os.read(descriptor, min(65536, size - len(data)))
    return data


def test_everything_comes_out_in_order(pipe):
    """From many small batches."""
    writer = started(pipe[1], Woken())
    lines = [b"%06d\n" % number for number in range(5000)]
    for at in range(0, 5000, 7):
        writer.put(lines[at : at + 7])
    writer.close()
    assert read_all(pipe[0], 35_000) == b"".join(lines)
    writer.join()
    assert (writer.backlog, writer.failed, writer.finished) == (0, None, True)


def test_a_pipe_gets_whole_records_in_atomic_writes(pipe):
    """Another writer of the same pipe never lands inside a record."""
    writer = started(pipe[1], Woken())
    stop = threading.Event()

    def intrude():
        while not stop.is_set():
            os.write(pipe[1], b"intruder\n")

    intruder = threading.Thread(target=intrude)
    reader_has = []

    def read():
        while part := os.read(pipe[0], 65536):
            reader_has.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    intruder.start()
    line = b"r" * 900 + b"\n"
    writer.put([line] * 3000)
    writer.close()
    writer.join()
    stop.set()
    intruder.join()
    os.close(pipe[1])
    pipe[1] = -1
    reader.join()
    lines = b"".join(reader_has).splitlines(keepends=True)
    assert set(lines) == {line, b"intruder\n"}
    assert lines.count(line) == 3000


def test_a_stalled_reader_congests_and_then_relieves(pipe):
    """Above the high mark: congested. Below the low mark: no longer, and the loop is woken."""
    woken = Woken()
    writer = started(pipe[1], woken)
    line = b"x" * 1023 + b"\n"
    count = HIGH // 1024 + 200
    assert not writer.congested
    writer.put([line] * count)
    assert writer.congested
    read_all(pipe[0], 300 * 1024)
    assert writer.congested  # between the marks nothing changes
    read_all(pipe[0], (count - 300) * 1024 - LOW // 2)
    woken.wait()
    assert not writer.congested
    writer.close()
    read_all(pipe[0], LOW // 2)
    writer.join()


def test_a_reader_that_is_gone_is_told_and_the_rest_is_thrown_away(pipe):
    """EPIPE: no exception in a thread, no endless backlog."""
    woken = Woken()
    writer = started(pipe[1], woken)
    os.close(pipe[0])
    pipe[0] = -1
    writer.put([b"x\n"])
    woken.wait()
    assert isinstance(writer.failed, BrokenPipeError)
    writer.put([b"y\n"])
    writer.close()
    writer.join()
    assert writer.backlog == 0


def test_a_stdout_that_somebody_made_non_blocking(pipe):
    """The flag is shared with other processes; nothing is lost by it."""
    os.set_blocking(pipe[1], False)
    writer = started(pipe[1], Woken())
    line = b"x" * 999 + b"\n"
    writer.put([line] * 300)
    writer.close()
    assert read_all(pipe[0], 300_000) == line * 300
    writer.join()


def test_without_a_thread_all_is_written_at_the_join(pipe):
    """Where no thread can be had the records still come out."""
    writer = Writer(pipe[1], Woken())
    writer.put([b"one\n", b"two\n"])
    writer.close()
    writer.join()
    assert (os.read(pipe[0], 100), writer.finished) == (b"one\ntwo\n", True)


def test_no_room_is_said_once_and_waited_for(capfd):
    """/dev/full always says ENOSPC: the writer keeps the record and tries again, until there is room."""
    full = os.open("/dev/full", os.O_WRONLY)
    room, way_out = os.pipe()
    writer = started(full, Woken())
    writer.put([b"kept\n"])
    said = ""
    while "No space left" not in said:
        select.select([room], [], [], 0.01)
        said += capfd.readouterr().err
    assert (writer.backlog, writer.failed) == (5, None)
    os.dup2(way_out, full)  # now there is room
    assert read_all(room, 5) == b"kept\n"
    writer.close()
    writer.join()
    assert capfd.readouterr().err == ""
    for descriptor in (full, room, way_out):
        os.close(descriptor)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_end_of_the_thread_is_told(pipe):
    """Whatever happens in the thread, nobody waits for it for ever."""
    woken = Woken()
    writer = started(pipe[1], woken)
    writer._queue.put(["no bytes"])
    writer.join()
    assert writer.finished
    assert writer.failed is not None


def test_stderr_may_be_unusable(capfd):
    """Full, or gone: that is no reason to stop."""
    complain("said")
    assert capfd.readouterr().err == "mprelay: said\n"
    kept, full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 2)
    complain("no room")
    os.dup2(kept, 2)
    os.close(kept)
    os.close(full)
