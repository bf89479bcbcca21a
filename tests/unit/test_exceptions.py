"""Descriptions of unexpected exceptions."""

import re

import pytest

from mprelay.core.unexpected import describe, place_of


def fail(text):
    """Raise an exception inside a call."""
    raise ZeroDivisionError(text)


def test_the_place_is_where_it_was_raised():
    """The place is file, line and function, not the place where it was caught."""
    with pytest.raises(ZeroDivisionError) as caught:
        fail("x")
    assert re.fullmatch(r"test_exceptions\.py:\d+ fail", place_of(caught.value))


def test_without_a_trace_the_place_is_unknown():
    """An exception that was never raised has no trace."""
    assert place_of(ValueError()) == "unknown"


@pytest.mark.parametrize(("text", "described"), [("by zero", "by zero"), ("\udcff", "\\udcff")])
def test_it_is_described_by_type_and_text(text, described):
    """The text is valid Unicode."""
    assert describe(ZeroDivisionError(text)) == f"ZeroDivisionError: {described}"


def test_a_long_text_is_cut():
    """The limit is 200 characters."""
    assert describe(ValueError("x" * 300)) == "ValueError: " + "x" * 188
