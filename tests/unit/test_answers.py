"""Which answer of a resolver is in force, and what is told of it."""

import pytest

from mprelay.core.answers import Answer, Answers, Change, no_addresses

ONE = Answer(("192.0.2.1", "2001:db8::1"))
TURNED = Answer(("2001:db8::1", "192.0.2.1"))
OTHER = Answer(("192.0.2.2",))
PARTLY = Answer(("192.0.2.1", "2001:db8::1"), None, "not all of them can be used")
GONE = no_addresses("NXDOMAIN")
EMPTY = no_addresses("NODATA")
FAILED = no_addresses("SERVFAIL")
LATE = no_addresses("TIMEOUT")
UNUSABLE = Answer((), "UNUSABLE", "none of them can be used")
DEAD = Answer((), None, "the process has ended")

NOTHING = Change(resolved=False, problem=False)
RESOLVED = Change(resolved=True, problem=False)
PROBLEM = Change(resolved=False, problem=True)


@pytest.mark.parametrize(
    ("answers", "changes", "in_force"),
    [
        ([ONE, TURNED, ONE], [NOTHING, NOTHING, NOTHING], ONE),
        ([OTHER, OTHER, ONE], [RESOLVED, NOTHING, RESOLVED], ONE),
        ([FAILED, FAILED, LATE, ONE, ONE], [PROBLEM, NOTHING, PROBLEM, RESOLVED, NOTHING], ONE),
        ([FAILED, OTHER], [PROBLEM, RESOLVED], OTHER),
        ([LATE], [PROBLEM], ONE),
        ([UNUSABLE], [PROBLEM], ONE),
        ([DEAD], [PROBLEM], ONE),
        ([GONE, GONE], [PROBLEM, NOTHING], GONE),
        ([GONE, EMPTY], [PROBLEM, PROBLEM], EMPTY),
        ([GONE, FAILED, GONE], [PROBLEM, PROBLEM, PROBLEM], GONE),
        ([GONE, FAILED, ONE], [PROBLEM, PROBLEM, RESOLVED], ONE),
        ([PARTLY, PARTLY, ONE], [PROBLEM, NOTHING, RESOLVED], ONE),
    ],
)
def test_a_change_is_told_once_and_a_failure_changes_nothing(answers, changes, in_force):
    """NXDOMAIN and NODATA are answers."""
    there = Answers(ONE)
    assert [there.take(answer) for answer in answers] == changes
    assert there.in_force == in_force


def test_the_first_answer_may_have_a_problem():
    """It is told with it, and not again."""
    there = Answers(PARTLY)
    assert there.take(PARTLY) == NOTHING
    assert there.take(ONE) == RESOLVED


def test_each_reason_is_told_in_words():
    """A word that is not known stands for itself."""
    assert GONE.problem == "there is no such name (NXDOMAIN)"
    assert no_addresses("NOTIMP").problem == "the look-up has failed (NOTIMP)"
