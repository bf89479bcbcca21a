"""The file for notes: written in order, by a thread that nothing waits for."""

import errno
import os
import sys
import threading

import pytest
from support.peers import fill

from mprelay.outlet import notebook
from mprelay.outlet.notebook import Notebook
from mprelay.system import streams
from mprelay.system.streams import as_line, parted

pytestmark = pytest.mark.posix("pipes that fill")


class Heard(list):
    """What the notebook says, and whether it is lost."""

    lost = 0

    def lose(self):
        """Note that the notebook is lost."""
        self.lost += 1


@pytest.fixture
def ends():
    reader, writer = os.pipe()
    heard = Heard()
    yield reader, writer, Notebook(writer, heard.append, heard.lose), heard
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError as failure:
            assert failure.errno == errno.EBADF  # noqa: PT017 - the test has closed it


def test_notes_are_written_in_order(ends):
    reader, _writer, book, heard = ends
    book.start()
    book.add([])
    book.add([b"one\n", b"two\n"])
    book.add([b"three\n"])
    book.end()
    assert os.read(reader, 100) == b"one\ntwo\nthree\n"
    assert (heard, heard.lost) == ([], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_full_disk_is_told_as_that_of_the_notes(monkeypatch):
    """The records have their own, which may well have room."""
    monkeypatch.setattr(streams, "_RETRY_INTERVAL", 0.01)
    heard, told = Heard(), threading.Event()

    def say(text):
        heard.append(text)
        told.set()

    full, null = os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)
    book = Notebook(full, say, heard.lose)
    book.start()
    book.add([b"one\n"])
    assert told.wait(10)
    os.dup2(null, full)  # there is room again
    book.end()
    assert (heard, heard.lost) == (["notes of checkpoints wait: No space left on device"], 0)
    os.close(full)
    os.close(null)


def test_a_reader_that_stands_still_costs_the_oldest(ends, monkeypatch):
    """Nobody waits for it, but for a moment at the end."""
    monkeypatch.setattr(notebook, "_END_LIMIT", 0.01)
    reader, writer, book, heard = ends
    fill(writer)
    book.start()
    for number in range(notebook.WAITING_LIMIT + 5):
        book.add([b"%d\n" % number])
    book.end()
    assert heard == ["the last notes of checkpoints are not written yet, and given up"]
    kept = b""
    while not kept.endswith(b"\n%d\n" % (notebook.WAITING_LIMIT + 4)):
        kept += os.read(reader, 1 << 16)
    numbers = [int(line) for line in kept.lstrip(b".").split()]
    assert numbers == sorted(numbers)
    assert len(numbers) <= notebook.WAITING_LIMIT + 1
    assert heard.lost == 0


def test_a_reader_that_is_gone_is_told_once(ends):
    reader, _writer, book, heard = ends
    os.close(reader)
    book.start()
    book.add([b"one\n", b"two\n"])
    book.end()
    book.add([b"three\n"])
    assert heard == ["no more notes of checkpoints are written: Broken pipe"]
    assert heard.lost == 1


def test_notes_travel_among_the_records():
    """Each is one line there, and as it was behind it."""
    note = "origin\n1000\nroot\n\n— origin AAAA\n"
    sent = b'{"a":1}\n' + as_line(note) + b'{"b":2}\n' + as_line(note)
    assert as_line(note).count(b"\n") == 1
    assert parted(sent) == (b'{"a":1}\n{"b":2}\n', [note.encode()] * 2)
    assert parted(b'{"a":1}\n') == (b'{"a":1}\n', [])
    assert parted(b"") == (b"", [])
