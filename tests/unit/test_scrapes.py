"""What the metrics process says, and what may be believed of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.scrapes import NotSaid, Question, Start, question_of, start_of
from mprelay.core.texts import PROBLEM_LIMIT


@pytest.mark.parametrize(
    ("line", "start"),
    [
        (b'{"problem": null}', Start(None)),
        (b'{"problem": "in use", "error": "EADDRINUSE"}', Start("in use", "EADDRINUSE")),
    ],
)
def test_it_says_whether_it_serves(line, start):
    """Without a problem it does."""
    assert start_of(line) == start


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"17",
        b"[]",
        b'{"problem": 1}',
        b'{"error": []}',
        b'{"ready": true}',
        b'{"problem": "%s"}' % (b"x" * (PROBLEM_LIMIT + 1)),
    ],
)
def test_another_start_is_not_one(line):
    """What goes into a record is a text, and not a long one."""
    with pytest.raises(NotSaid):
        start_of(line)


def test_the_last_question_counts():
    """The sessions that an earlier one asked for are not forgotten."""
    assert question_of(b"17") == Question(17, sessions=False)
    assert question_of(b"17\n18 sessions\n19") == Question(19, sessions=True)


@pytest.mark.parametrize("lines", [b"", b"17\n", b"-1", b"17 records", b"9" * 19, b"\xc2\xb2"])
def test_another_question_is_not_one(lines):
    """It is a number."""
    with pytest.raises(NotSaid):
        question_of(lines)


@given(st.binary())
def test_any_bytes_are_something_or_nothing(data):
    """No other exception is raised."""
    for read in (start_of, question_of):
        try:
            read(data)
        except NotSaid:
            continue
