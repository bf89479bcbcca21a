"""Texts from outside, made fit for a record."""

import json
import os
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.texts import CONTROL, VALUE_LIMIT, cut, missing, shown

NASTY = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cc", "Zl", "Zp", "Cs"])),
    st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.text("\U0001f4a5\x01\u2028", min_size=300),
)


@pytest.mark.posix("an argument that is no text")
def test_shown_is_always_printable_unicode():
    """Half characters are escaped, and long texts are cut."""
    assert shown(os.fsdecode(b"a\xff")) == "a\\udcff"
    assert len(shown("x" * 1000)) == VALUE_LIMIT
    assert shown("é") == "é"


@given(NASTY, st.integers(0, 40))
def test_cut_keeps_the_longest_beginning_that_fits(value, most):
    """The length is that within the record. No character is split."""
    kept = cut(value, most)
    valid = value.encode("utf-8", "backslashreplace").decode()
    assert valid.startswith(kept)
    size = len(json.dumps(kept, ensure_ascii=False).encode()) - 2
    assert size <= most
    if kept != valid:
        longer = valid[: len(kept) + 1]
        assert len(json.dumps(longer, ensure_ascii=False).encode()) - 2 > most


@pytest.mark.parametrize(
    ("value", "kept"),
    [("123456", "123456"), ("1234567", "123…"), ("12\x01567", "12…"), ("ééé", "ééé"), ("éééé", "é…")],
)
def test_a_mark_ends_what_is_cut(value, kept):
    """It counts: six bytes are six bytes."""
    assert cut(value, 6, "…") == kept


def test_whatever_breaks_or_turns_a_line_is_shown_escaped():
    """Python lacks the property Bidi_Control, so its characters are found by their class or name."""
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    marks = {"ARABIC LETTER MARK", "LEFT-TO-RIGHT MARK", "RIGHT-TO-LEFT MARK"}
    breaking = {
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {"Cc", "Zl", "Zp"}
        or unicodedata.bidirectional(chr(code)) in turning
        or unicodedata.name(chr(code), "") in marks
    }
    assert set(CONTROL) == breaking
    assert all(text.isascii() and text.isprintable() for text in CONTROL.values())
    shown_as = "\\x1b]0;x\\x07 \\x9b \\u202ecod.exe\\u2069 \\u061c\\u200f"
    assert "\x1b]0;x\x07 \x9b \u202ecod.exe\u2069 \u061c\u200f".translate(CONTROL) == shown_as
    assert "naïve 東京 \u05d0".translate(CONTROL) == "naïve 東京 \u05d0"


def test_a_library_that_is_missing_or_cannot_be_loaded():
    """Only a module that is missing is to be installed."""
    absent = ModuleNotFoundError("No module named 'cryptography'", name="cryptography")
    install = "needs a library that is missing: pip install 'mprelay[seal]'"
    assert missing("seal") == missing("seal", absent) == install
    for broken in (ImportError("GLIBC_2.38 not found"), ImportError("GLIBC_2.38 not found", name="_rust")):
        assert missing("seal", broken) == "needs a library that cannot be loaded: GLIBC_2.38 not found"
