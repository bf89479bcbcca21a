"""Which refusals are recorded one by one."""

from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.floods import CLIENTS_LIMIT, PERIOD, SINGLE, Floods, Part


def told(floods, count, now, client="192.0.2.1"):
    """How many of `count` refusals at this moment are recorded one by one."""
    return [floods.count(client, now) for _ in range(count)].count(Part.NOTHING)


def test_the_first_ten_in_ten_seconds_are_told_one_by_one():
    floods = Floods()
    assert told(floods, 4, 0.0) == 4
    assert told(floods, 4, 5.0) == 4
    assert told(floods, 100, 9.9) == 2
    assert told(floods, 100, 9.9, "192.0.2.2") == SINGLE


def test_whoever_comes_slowly_is_always_told():
    floods = Floods()
    assert sum(told(floods, SINGLE, turn * PERIOD) for turn in range(100)) == 100 * SINGLE


def test_a_flood_goes_on_until_a_period_with_few():
    floods = Floods()
    assert told(floods, 1000, 0.0) == SINGLE
    assert told(floods, 1000, PERIOD) == 0
    assert told(floods, 5, 2 * PERIOD) == 0
    assert told(floods, 1000, 3 * PERIOD) == SINGLE


def test_a_flood_is_over_after_a_pause():
    floods = Floods()
    assert told(floods, 1000, 0.0) == SINGLE
    assert told(floods, 1000, 2 * PERIOD) == SINGLE
    assert told(floods, 1000, 2 * PERIOD, "192.0.2.2") == SINGLE


def test_a_flood_from_many_addresses_is_bounded():
    """Addresses beyond the bound are a flood, until the others are forgotten."""
    floods = Floods()
    for number in range(CLIENTS_LIMIT):
        assert told(floods, 1, number / CLIENTS_LIMIT, f"client {number}") == 1
    assert floods.count("one more", 1.0) is Part.CROWD
    assert len(floods) == CLIENTS_LIMIT
    assert told(floods, 1, 1.0, "client 7") == 1
    assert told(floods, 5, 1.0 + PERIOD, "one more") == 5
    assert len(floods) == 1


def test_a_flood_beside_others_is_not_forgotten():
    """Others are refused meanwhile, and their periods end."""
    floods = Floods()
    single = 0
    for tick in range(3000):
        now = tick / 10
        single += told(floods, 2, now)
        told(floods, 1, now, f"other {tick % 50}")
    assert single == SINGLE


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 30)), max_size=60))
def test_in_any_period_few_are_told(refusals):
    """There are at most two periods, and never less than the first ten of an address."""
    floods = Floods()
    now, single = 0.0, {}
    for client, pause in refusals:
        now += pause / 20
        if floods.count(str(client), now) is Part.NOTHING:
            single.setdefault(client, []).append(now)
    for client, moments in single.items():
        assert len(moments) >= min(SINGLE, sum(client == other for other, _ in refusals))
        for moment in moments:
            assert sum(moment <= other < moment + PERIOD for other in moments) <= 2 * SINGLE
