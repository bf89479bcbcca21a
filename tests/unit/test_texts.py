"""Texts from outside, made fit for a record."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.texts import VALUE_LIMIT, cut, shown

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
