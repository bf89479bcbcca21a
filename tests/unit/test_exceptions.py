"""An exception that nobody expected, in words."""

import re

import pytest

from mprelay.core.unexpected import describe, place_of


def fail(text):
    """Raise something from inside a call."""
    raise ZeroDivisionError(text)


def test_the_place_is_where_it_was_raised():
    """And not where it was caught: file, line and function."""
    with pytest.raises(ZeroDivisionError) as caught:
        fail("x")
    assert re.fullmatch(r"test_exceptions\.py:\d+ fail", place_of(caught.value))


def test_without_a_trace_the_place_is_unknown():
    """An exception that was never raised."""
    assert place_of(ValueError()) == "unknown"


@pytest.mark.parametrize(("text", "described"), [("by zero", "by zero"), ("\udcff", "\\udcff")])
def test_it_is_described_by_type_and_text(text, described):
    """In valid Unicode."""
    assert describe(ZeroDivisionError(text)) == f"ZeroDivisionError: {described}"


def test_a_long_text_is_cut():
    """Behind 200 characters."""
    assert describe(ValueError("x" * 300)) == "ValueError: " + "x" * 188
