"""One-way pipes between processes: neither end waits, and nothing is lost before the end."""

import contextlib
import multiprocessing
import select
import time

import pytest

from mprelay.system import oneway, poller

PATIENCE = 20.0


def read_some(reader, size=100_000):
    """Wait until there is something to read, or the end, and read. It may be told of in vain."""
    while True:
        assert select.select([reader.fileno()], [], [], PATIENCE)[0]
        with contextlib.suppress(BlockingIOError):
            return reader.read(size)


def read_all(reader):
    """Read to the end."""
    data = b""
    while part := read_some(reader):
        data += part
    return data


@pytest.fixture
def ends():
    """A reader and a writer."""
    there, here = oneway.pipe()
    reader, writer = oneway.Reader(there), oneway.Writer(here)
    yield reader, writer
    writer.close()
    reader.close()


def test_what_is_written_arrives_in_order_and_then_the_end(ends):
    """A read may take parts of several writes."""
    reader, writer = ends
    with pytest.raises(BlockingIOError):
        reader.read(10)
    for number in range(10):
        assert writer.write(b"%03d," % number) == 4
    assert read_some(reader, 6) == b"000,00"
    writer.close()
    assert read_all(reader) == b"1,002,003,004,005,006,007,008,009,"
    assert reader.read(10) == b""
    assert reader.read(10) == b""


def fill(writer, size=4000):
    """Write until there is no room, and none comes; return the number of bytes.

    A reader may read ahead a little.
    """
    written, full = 0, False
    while True:
        try:
            written += writer.write(b"x" * size)
            full = False
        except BlockingIOError:
            if full:
                return written
            full = True
            writer.wait_for_room(0.1)


def test_a_full_pipe_refuses_at_once_and_tells_of_room(ends):
    """What was taken arrives whole."""
    reader, writer = ends
    written = fill(writer)
    waiting = ([writer.fileno()], []) if writer.ROOM == poller.READ else ([], [writer.fileno()])
    assert [*select.select(*waiting, [], 0)] == [[], [], []]
    with pytest.raises(BlockingIOError):
        writer.write(b"y" * 4000)
    got = 0
    while not any(select.select(*waiting, [], 0)):
        got += len(read_some(reader, 1000))
    assert writer.write(b"y") == 1
    writer.close()
    assert got + len(read_all(reader)) == written + 1


def test_room_can_be_waited_for(ends):
    """The wait has a limit."""
    reader, writer = ends
    written = fill(writer)
    begun = time.monotonic()
    writer.wait_for_room(0.2)
    assert time.monotonic() - begun > 0.1
    got = 0
    while True:
        got += len(read_some(reader))
        writer.wait_for_room(0.1)
        try:
            written += writer.write(b"y")
        except BlockingIOError:
            continue
        break
    writer.close()
    assert got + len(read_all(reader)) == written


def test_a_writer_whose_reader_is_gone(ends):
    """It is told at once, or at the next write if one was pending."""
    reader, writer = ends
    reader.close()
    with pytest.raises(BrokenPipeError):  # noqa: PT012 - the first write may be a pending one
        for _ in range(1000):
            writer.write(b"x")


def write_and_wait(end, held):
    """Be a process that writes, and then does nothing until it is killed."""
    writer = oneway.Writer(end)
    for number in range(50):
        writer.write(b"%03d," % number)
    held.recv()


def test_a_killed_writer_leaves_what_it_has_written():
    """The end follows it: nobody else holds the writing end."""
    there, here = oneway.pipe()
    held, ours = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=write_and_wait, args=(here, held))
    process.start()
    for end in (here, held):
        end.close()
    reader = oneway.Reader(there)
    got = b""
    while len(got) < 200:
        got += read_some(reader)
    process.kill()
    assert got + read_all(reader) == b"".join(b"%03d," % number for number in range(50))
    process.join()
    process.close()
    reader.close()
    ours.close()
