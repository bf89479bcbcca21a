"""Nested ranges, and which of them decides: compared with a search from the beginning."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.ranges import NOBODY, Ranges

END = 2**128 - 1


@st.composite
def nested(draw):
    """Ranges as networks are: the first number is a multiple of the size, which is a power of two."""
    found = []
    for index in range(draw(st.integers(0, 12))):
        size = 1 << draw(st.sampled_from([0, 1, 2, 3, 62, 63, 64, 65, 66, 127, 128]))
        first = draw(st.sampled_from([0, 5, 1 << 64, (1 << 64) + 5, END])) // size * size
        found.append((first, first + size - 1, index))
    return found


EDGES = [0, 1, 4, 5, 6, 8, 2**63, 2**64 - 1, 2**64, 2**64 + 4, 2**64 + 5, 2**64 + 8, 2**65, 2**127, END - 1, END]


@given(nested(), st.sampled_from(EDGES) | st.integers(0, END))
def test_the_first_in_the_list_that_holds_a_number_decides(ranges, number):
    expected = next((index for first, last, index in ranges if first <= number <= last), NOBODY)
    assert Ranges.of(ranges).find(number) == expected


@given(nested())
def test_ranges_that_decide_nowhere_take_no_room(ranges):
    """Neighbours with the same decider are one interval, so there are at most two for each range, and one."""
    made = Ranges.of(ranges)
    assert made == Ranges.of([*ranges, *((first, last, index + 100) for first, last, index in ranges)])
    assert len(made._deciders) <= 2 * len(ranges) + 1


def test_ranges_are_the_same_after_they_were_sent():
    made = Ranges.of([(0, 7, 0), (4, 5, 1), (1 << 70, (1 << 70) + 3, 2)])
    sent = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    assert sent == made
    assert hash(sent) == hash(made)
    assert sent != Ranges.of([])
    assert [sent.find(number) for number in (0, 4, 8, (1 << 70) + 1)] == [0, 0, NOBODY, 2]
