"""What of a resolver's answers is in force, and what is told of it."""

import pytest

from mprelay.core.answers import Answer, Answers, Change, answer_of, in_words
from mprelay.core.protocol import ADDRESSES_LIMIT

ONE = Answer(("192.0.2.1",), ("2001:db8::1",))
TURNED = Answer(("192.0.2.1",), ("2001:db8::1",), v4_first=True)
OTHER = Answer(("192.0.2.2",), ())
PARTLY = ONE._replace(problem="not all of them can be used")
GONE = Answer((), (), "NXDOMAIN", "no such name")
EMPTY = Answer((), (), "NODATA", "no address")
FAILED = Answer(None, None, "SERVFAIL", "failed")
LATE = Answer(None, None, "TIMEOUT", "late")
V6_FAILED = Answer(("192.0.2.1",), None, "SERVFAIL", "IPv6 failed")
V6_FAILED_V4_EMPTY = Answer((), None, "SERVFAIL", "IPv6 failed")
DEAD = Answer(None, None, None, "the process has ended")

NOTHING = Change(resolved=False, problem=False)
RESOLVED = Change(resolved=True, problem=False)
PROBLEM = Change(resolved=False, problem=True)
BOTH = Change(resolved=True, problem=True)

V6_FIRST = ("2001:db8::1", "192.0.2.1")


@pytest.mark.parametrize(
    ("answers", "news", "in_force"),
    [
        ([ONE, TURNED, ONE], [NOTHING, NOTHING, NOTHING], V6_FIRST),
        ([OTHER, OTHER, ONE], [RESOLVED, NOTHING, RESOLVED], V6_FIRST),
        ([FAILED, FAILED, LATE, ONE, ONE], [PROBLEM, NOTHING, PROBLEM, RESOLVED, NOTHING], V6_FIRST),
        ([FAILED, OTHER], [PROBLEM, RESOLVED], ("192.0.2.2",)),
        ([LATE], [PROBLEM], V6_FIRST),
        ([DEAD], [PROBLEM], V6_FIRST),
        ([GONE, GONE], [PROBLEM, NOTHING], ()),
        ([GONE, EMPTY], [PROBLEM, PROBLEM], ()),
        ([GONE, FAILED, GONE], [PROBLEM, PROBLEM, PROBLEM], ()),
        ([GONE, FAILED, ONE], [PROBLEM, PROBLEM, RESOLVED], V6_FIRST),
        ([PARTLY, PARTLY, ONE], [PROBLEM, NOTHING, RESOLVED], V6_FIRST),
        ([V6_FAILED, ONE], [PROBLEM, RESOLVED], V6_FIRST),
        ([V6_FAILED_V4_EMPTY], [BOTH], ("2001:db8::1",)),
        ([OTHER, V6_FAILED_V4_EMPTY], [RESOLVED, PROBLEM], ("192.0.2.2",)),
    ],
)
def test_a_change_is_told_once_and_a_failure_changes_nothing(answers, news, in_force):
    """Each family has its own answers. Only both together say that there is no address."""
    there = Answers(ONE)
    assert there.news == RESOLVED
    there.tell()
    seen = []
    for answer in answers:
        before = there.addresses
        assert there.take(answer) == (there.addresses != before or there.error == "NODATA")
        seen.append(there.news)
        there.tell()
    assert seen == news
    assert there.addresses == in_force
    assert (there.error is None) == bool(in_force)


def test_what_was_not_told_is_told_later():
    """It is what counts then. What has passed in between is not told."""
    there = Answers(ONE)
    there.tell()
    for answer in (OTHER, FAILED, GONE, ONE):
        there.take(answer)
    assert there.news == NOTHING
    there.take(FAILED)
    assert there.news == PROBLEM


def test_the_first_answer_may_have_a_problem():
    """It is told with it, and not again."""
    there = Answers(PARTLY)
    assert there.news == BOTH
    there.tell()
    there.take(PARTLY)
    assert there.news == NOTHING


def test_the_families_take_turns():
    """Neither uses up the time of the other. Which one begins depends on the routes."""
    v4, v6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2", "2001:db8::3")
    answer = Answer(v4, v6)
    assert answer.addresses == (v6[0], v4[0], v6[1], v4[1], v6[2])
    assert answer._replace(v4_first=True).addresses == (v4[0], v6[0], v4[1], v6[1], v6[2])


def test_the_number_of_addresses_is_bounded():
    """The same ones are kept in whatever order they come."""
    v4 = tuple(f"192.0.2.{number}" for number in range(100, 100 + ADDRESSES_LIMIT))
    one, other = Answer(v4, ("2001:db8::1",)).addresses, Answer(v4[::-1], ("2001:db8::1",)).addresses
    assert len(one) == ADDRESSES_LIMIT
    assert set(one) == set(other)


def test_an_address_is_its_own_answer():
    assert Answer.of("192.0.2.1").addresses == ("192.0.2.1",)
    assert Answer.of("2001:db8::1").addresses == ("2001:db8::1",)


@pytest.mark.parametrize("answer", [ONE, GONE, FAILED, V6_FAILED, DEAD, TURNED])
def test_an_answer_arrives_as_it_was(answer):
    values = [list(value) if type(value) is tuple else value for value in answer]
    assert answer_of(values) == answer


@pytest.mark.parametrize(
    "values",
    [
        *(None, 5, [], [None] * 3, ["192.0.2.1", [], None, None, False], [[], [], None, None, 1]),
        *([["db.evil"], [], None, None, False], [[], ["1" * 60], None, None, False], [[], {}, None, None, False]),
        [["192.0.2.1"] * (ADDRESSES_LIMIT + 1), [], None, None, False],
        [["192.0.2.1", 1], [], None, None, False],
        [[], [], None, None, False],
        [[], [], "X" * 33, None, False],
        [[], [], None, "x" * 4097, False],
    ],
)
def test_what_is_no_answer_is_refused(values):
    """The process that looks up hears from the network, so it is not believed either."""
    with pytest.raises(ValueError, match=r"no answer|no addresses|does not appear"):
        answer_of(values)


def test_each_reason_is_told_in_words():
    """A word that is not known stands for itself."""
    assert in_words("NXDOMAIN") == "there is no such name (NXDOMAIN)"
    assert in_words("NOTIMP") == "the look-up has failed (NOTIMP)"
