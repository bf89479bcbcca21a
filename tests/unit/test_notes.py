"""What is signed, and notes: C2SP signed-note and tlog-checkpoint."""

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: cryptography, which Wine 8 cannot load", allow_module_level=True)

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from mprelay.seal import notes
from mprelay.seal.notes import Checkpoint, NotNote

CHECKPOINT = Checkpoint("mprelay/3f0c9a1d", 1000, b"r" * 32, b"c" * 32)
NOTE = notes.signed(CHECKPOINT, b"k" * 32, b"s" * 64)


def test_a_note_is_what_it_was_made_of():
    note = notes.parse(NOTE)
    assert note.checkpoint == CHECKPOINT
    assert note.signatures == [("mprelay/3f0c9a1d", notes.key_id("mprelay/3f0c9a1d", b"k" * 32), b"s" * 64)]


def test_its_form():
    assert NOTE == (
        "mprelay/3f0c9a1d\n"
        "1000\n"
        "cnJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnI=\n"
        "record Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=\n"
        "\n"
        "— mprelay/3f0c9a1d " + NOTE.split(" ")[-1]
    )


def test_the_note_of_others():
    """The example of Go's package sumdb/note, from which C2SP's signed-note comes: ID and signature."""
    name, number = "PeterNeumann", "c74f20a3"
    key = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    blob = notes.decoded(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    kind, public = notes.decoded(key)[:1], notes.decoded(key)[1:]
    assert kind == b"\x01"
    assert blob[:4] == notes.key_id(name, public) == bytes.fromhex(number)
    Ed25519PublicKey.from_public_bytes(public).verify(blob[4:], text.encode())


def test_others_may_sign_too():
    """Witnesses do, and whoever wants to find out whether unknown signatures are passed over."""
    grease = "— grease/1 " + notes.encoded(b"1234" + b"anything") + "\n"
    body, _, ours = NOTE.partition("\n\n")
    note = notes.parse(f"{body}\n\n{grease}{ours}{grease}{grease}")
    assert [name for name, *_ in note.signatures] == ["grease/1", "mprelay/3f0c9a1d", "grease/1", "grease/1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        NOTE.rstrip("\n"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("1000", "01000"),
        NOTE.replace("1000", "+1000"),
        NOTE.replace("1000", "١"),  # noqa: RUF001 - a digit of another script
        NOTE.replace("cnJy", "cnJ", 1),
        NOTE.replace("nI=\n", "nJ=\n", 1),  # other bits behind the end
        NOTE.replace("record ", "extension ", 1),
        NOTE.replace("record ", "more\nrecord ", 1),
        NOTE.replace("— mprelay", "- mprelay"),
        NOTE.replace("— mprelay/3f0c9a1d ", "—  "),
        NOTE.replace("— mprelay/3f0c9a1d ", "— mprelay/3f0c9a1d"),
        NOTE + "\n",
        NOTE[:-3] + "\n",
    ],
)
def test_what_is_no_note(text):
    with pytest.raises(NotNote):
        notes.parse(text)


@given(st.integers(1, 5))
def test_a_file_of_notes_is_split(count):
    assert [*notes.split(NOTE * count)] == [NOTE] * count


@pytest.mark.parametrize("size", range(len(NOTE)))
def test_a_note_that_is_being_written_counts_for_nothing(size):
    assert [*notes.split(NOTE + NOTE[:size])] == [NOTE]
    assert [*notes.split(NOTE[:size])] == []


def test_only_a_newline_ends_a_line_of_a_note():
    """Others keep their notes in the same file, and have other characters in them."""
    other = NOTE.replace("mprelay", "a\u2028b\x0cc\x85d")
    assert [*notes.split(NOTE + other + NOTE)] == [NOTE, other, NOTE]


def test_empty_lines_between_notes_belong_to_none():
    assert [*notes.split(f"\n{NOTE}\n\n{NOTE}\n")] == [NOTE] * 2


def test_a_note_that_was_converted_is_told_as_that():
    with pytest.raises(NotNote, match="carriage returns"):
        notes.parse(NOTE.replace("\n", "\r\n"))


@given(st.binary())
def test_base64_has_one_spelling(data):
    assert notes.decoded(notes.encoded(data)) == data
    for other in (notes.encoded(data) + "=", notes.encoded(data) + "\n", " " + notes.encoded(data)):
        with pytest.raises(NotNote):
            notes.decoded(other)


def test_base64_of_another_size():
    with pytest.raises(NotNote):
        notes.decoded(notes.encoded(b"x" * 31), 32)
    with pytest.raises(NotNote):
        notes.decoded("é" * 44, 32)


def test_no_text_of_one_kind_passes_for_another():
    """Both are signed by the same key."""
    statement = notes.statement("mprelay/3f0c9a1d", 1000, b"r" * 32, b"k" * 32)
    assert statement.split("\n")[0] != CHECKPOINT.text().split("\n")[0]
    with pytest.raises(NotNote):
        notes.parse(f"{statement}\n— mprelay/3f0c9a1d {notes.encoded(b'1234' + b's' * 64)}\n")
