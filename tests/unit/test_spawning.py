"""The start of a process, and its output before it is ready."""

import os
import pickle
import sys
from multiprocessing import spawn

import pytest

from mprelay.system import spawning
from mprelay.system.spawning import FirstWords, last_line


@pytest.mark.parametrize(
    ("said", "last"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"Traceback:\n  File\nValueError: no\n", "ValueError: no"),
        (b"no newline", "no newline"),
        (b"one\ntwo \r\n\n", "two"),
        (b"\xff\n", "\\xff"),
        (b"x" * 500, "x" * 120),
    ],
)
def test_the_last_line(said, last):
    """Whatever it was, it is valid text, and short."""
    assert last_line(said) == last


@pytest.mark.posix("os.write() to stderr while it is a pipe(2)")
def test_first_words_are_kept_and_passed_on(capfd):
    """They are what this process or its children write on stderr meanwhile. Then stderr is as before."""
    words = FirstWords()
    with words.as_stderr():
        os.write(2, b"one\ntwo\n")
    os.write(2, b"three\n")
    words.end()
    words.end()
    assert words.last == "two"
    assert capfd.readouterr().err == "three\none\ntwo\n"


@pytest.mark.posix("a stderr that does not block")
def test_first_words_never_block(capfd):
    """This holds for any amount of output while no process reads it."""
    words = FirstWords()
    line = b"x" * 1000 + b"\n"
    with words.as_stderr(), pytest.raises(BlockingIOError):
        sum(os.write(2, line) for _ in range(100_000))
    words.end()
    assert words.last == "x" * 120
    assert len(capfd.readouterr().err) > 30_000


def test_little_is_sent_to_a_child(monkeypatch):
    """A pipe holds it even on Windows (4096 bytes), however long the command line is."""
    monkeypatch.setattr(sys, "argv", ["mprelay", "x" * 10_000])
    usual = spawn.get_preparation_data
    with spawning._sending_little():
        sent = spawn.get_preparation_data("mprelay: worker 64")
    sent["authkey"] = bytes(sent["authkey"])  # of this type it can be pickled here too
    assert len(pickle.dumps(sent)) < 3000
    assert {"dir", "sys_argv"}.isdisjoint(sent)
    assert spawn.get_preparation_data is usual
