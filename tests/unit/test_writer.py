"""The way to the outlet: no record is lost, and the writer never blocks."""

import os
import select
import socket
import subprocess
import sys

import pytest
from support.peers import receive
from support.waiting import PATIENCE

from mprelay.records.writer import HIGH, LOW, Writer
from mprelay.system import stdio
from mprelay.system.streams import READY, WRITTEN

pytestmark = pytest.mark.posix("the sockets to the outlet")

LINE = b"x" * 1023 + b"\n"


@pytest.fixture
def ends():
    """A writer, and the outlet's end of its socket, which the test holds."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    writer = Writer()
    writer.connect(stdio.RecordSender(ours))
    with ours, theirs:
        yield writer, theirs


@pytest.fixture
def ready(ends):
    """The same, after the outlet has reported that it is ready."""
    writer, theirs = ends
    theirs.sendall(READY)
    writer.attend()
    return writer, theirs


def drain(writer, theirs, size):
    """Read exactly `size` bytes, while the writer sends waiting data if there is room, as its loop would."""
    data = b""
    while len(data) < size:
        data += theirs.recv(min(65536, size - len(data)))
        if writer.waits and select.select([], [writer], [], 0)[1]:
            writer.attend()
    return data


def test_all_records_arrive_in_order(ready):
    """They come from many small batches, and the other end stands still for a while."""
    writer, theirs = ready
    lines = [b"%06d\n" % number for number in range(200_000)]
    for at in range(0, 200_000, 7):
        writer.put(lines[at : at + 7])
    assert writer.waits
    assert drain(writer, theirs, 1_400_000) == b"".join(lines)
    assert (writer.backlog, writer.waits, writer.gone) == (0, False, False)


def test_nothing_is_sent_before_the_outlet_is_ready(ends):
    """Until then the loop has nothing to wait for either."""
    writer, theirs = ends
    writer.put([b"one\n"])
    writer.attend()
    assert (writer.ready, writer.waits, writer.backlog) == (False, False, 4)
    assert select.select([theirs], [], [], 0)[0] == []
    theirs.sendall(READY)
    writer.attend()
    writer.put([b"two\n"])
    assert (writer.ready, writer.backlog) == (True, 0)
    assert receive(theirs, 8) == b"one\ntwo\n"


def test_a_stalled_outlet_congests_and_then_relieves(ready):
    """Above the high mark it is congested. Below the low mark it is not. Between them nothing changes."""
    writer, theirs = ready
    assert not writer.congested
    while writer.backlog <= HIGH:
        assert not writer.congested
        writer.put([LINE])
    assert writer.congested
    while writer.backlog > LOW + 200 * 1024:
        drain(writer, theirs, 1024)
    assert writer.congested
    while writer.backlog > LOW:
        drain(writer, theirs, 1024)
    assert not writer.congested
    while writer.backlog <= LOW + 200 * 1024:
        writer.put([LINE])
    assert not writer.congested


def test_the_end_comes_behind_the_last_record(ready):
    """The record had to wait. After the end the outlet confirms."""
    writer, theirs = ready
    writer.put([LINE] * 2000)
    writer.close()
    assert writer.waits
    assert drain(writer, theirs, 2000 * len(LINE)) == LINE * 2000
    assert receive(theirs) == b""
    theirs.sendall(WRITTEN)
    writer.attend()
    assert (writer.written, writer.gone) == (True, False)
    theirs.close()
    writer.attend()
    assert (writer.written, writer.gone) == (True, True)


@pytest.mark.parametrize("unread", [False, True])
def test_a_lost_outlet_is_reported_and_the_rest_is_discarded(ready, unread):
    """There is no exception and no endless backlog, after all data was read (EOF, EPIPE) or not (ECONNRESET)."""
    writer, theirs = ready
    if unread:
        writer.put([LINE] * 2000)
    theirs.close()
    writer.put([LINE])
    writer.attend()
    assert (writer.gone, writer.waits, writer.backlog) == (True, False, 0)
    writer.put([LINE] * 2000)
    writer.close()
    assert writer.backlog == 0


def test_an_outlet_that_ends_before_it_is_ready_costs_no_record(ends, capfd):
    """The records can still be written directly."""
    writer, theirs = ends
    writer.put([b"one\n"])
    theirs.close()
    writer.attend()
    writer.put([b"two\n"])
    assert (writer.absent, writer.gone) == (True, False)
    writer.write_directly()
    assert capfd.readouterr().out == "one\ntwo\n"


def test_without_an_outlet_all_records_are_written_directly(capfd):
    """A wrong command line is reported in this way."""
    writer = Writer()
    writer.put([b"one\n", b"two\n"])
    writer.write_directly()
    assert (capfd.readouterr().out, writer.backlog) == ("one\ntwo\n", 0)


def run(code, stdout, stderr):
    """Run code that starts an outlet, in a separate process, because its standard streams change."""
    head = "import os, select, warnings\nfrom mprelay import outlet\nfrom mprelay.records.writer import Writer\n"
    head += "writer = Writer()\nwriter.start(outlet.main)\n"
    until_ready = "while not writer.ready:\n    select.select([writer], [], [])\n    writer.attend()\n"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", head + until_ready + code]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=buffered)


def test_a_full_stderr_blocks_no_process_and_changes_no_exit_code():
    """Neither write(2) nor a warning of the library blocks.

    The warning's text would otherwise be tried again at the end (120).
    """
    reader, stalled = os.pipe()
    code = """
for _ in range(3000):
    warnings.warn_explicit("x" * 1000, UserWarning, "here", 1, registry={})
try:
    while True:
        os.write(2, b"x" * 1000)
except BlockingIOError:
    pass
warnings.warn_explicit("last", UserWarning, "here", 1, registry={})
writer.put([b"record\\n"])
writer.close()
while not writer.written:
    select.select([writer], [], [])
    writer.attend()
assert not writer.outlives(wait=True)
raise SystemExit(7)
"""
    with run(code, subprocess.PIPE, stalled) as process:
        os.close(stalled)
        assert process.stdout.read() == b"record\n"
        assert process.wait(PATIENCE) == 7
    os.close(reader)


def test_a_warning_reaches_stderr():
    """It goes through the outlet, as all other output on stderr does."""
    code = 'warnings.warn_explicit("heard", UserWarning, "here", 1)\nwriter.close()\nwriter.outlives(wait=True)\n'
    with run(code, subprocess.DEVNULL, subprocess.PIPE) as process:
        assert process.stderr.read() == b"here:1: UserWarning: heard\n"
        assert process.wait(PATIENCE) == 0
