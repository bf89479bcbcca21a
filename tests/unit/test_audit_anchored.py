"""Which checkpoints get a token of an authority, and what is said of it."""

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

from support.sealed import Log, whole

from mprelay.audit import anchored
from mprelay.audit.anchored import Stamp
from mprelay.seal.notes import Checkpoint, NotNote

FIRST, OTHER = whole("00000000000000aa"), whole("00000000000000bb")
STAMP = Stamp("aa", 12345, "2026-11-26T12:00:00Z", "Time & Sons", proved=True, problem=None)


def size_of(note):
    return note.splitlines()[1]


def test_the_newest_note_of_each_run():
    """Whatever the order, and whoever else keeps notes in the file."""
    first, second = FIRST.notes, OTHER.notes
    text = "".join(
        [first[0], first[-1], second[0], "example.org/log\n7\nAAAA\n\n— example.org/log AAAA\n", first[1]]
    )
    assert [*anchored.newest(text)] == [
        (f"{FIRST.relay_id}-{size_of(first[-1])}", first[-1]),
        (f"{OTHER.relay_id}-{size_of(second[0])}", second[0]),
    ]


def test_no_note_at_all():
    assert [*anchored.newest("")] == []


@pytest.mark.parametrize("count", range(1, len(FIRST.notes[1])))
def test_a_note_that_is_being_written_does_not_count(count):
    whole_note, unfinished = FIRST.notes[0], FIRST.notes[1][:count]
    assert [note for _, note in anchored.newest(whole_note + unfinished)] == [whole_note]


def test_a_damaged_note_is_told_by_its_number():
    with pytest.raises(NotNote, match="note 2 is damaged: its size"):
        [*anchored.newest(FIRST.notes[0] + FIRST.notes[1].replace("\n", "\n0", 1))]


@pytest.mark.parametrize("relay_id", ["", "../aa", "aa/b", ".", "a" * 65, "a\0", "ä"])
def test_a_run_that_cannot_be_a_files_name(relay_id):
    note = Log(relay_id)
    note.checkpoint()
    with pytest.raises(NotNote, match="note 1 is damaged: its origin is no run"):
        [*anchored.newest(note.notes[0])]


def test_names_are_read_back():
    assert anchored.meant(anchored.name_of(Checkpoint("mprelay/0a", 12, b"", b""))) == ("0a", 12)


@pytest.mark.parametrize("name", ["", "aa", "aa-", "-1", "aa-01", "aa-x", "../aa-1", "aa-1\n", "aa-" + "9" * 20])
def test_names_of_other_files(name):
    assert anchored.meant(name) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "run aa: its first 12,345 lines existed at 2026-11-26T12:00:00Z (TSA Time & Sons)"),
        (
            {"proved": False},
            "run aa: a checkpoint of 12,345 lines existed at 2026-11-26T12:00:00Z (TSA Time & Sons)",
        ),
        (
            {"existed": None, "tsa": None},
            "run aa: a token for 12,345 lines is there, and was not checked (--tsa-cert)",
        ),
        (
            {"existed": None, "problem": "is not good"},
            "broken: the token of run aa for 12,345 lines is not good",
        ),
    ],
)
def test_what_a_person_is_told(changes, said):
    assert anchored.told(STAMP._replace(**changes)) == said
