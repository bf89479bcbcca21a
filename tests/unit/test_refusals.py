"""Sums of refused connections: each refusal is counted once, and memory is bounded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.refusals import CLIENTS_LIMIT, Refusals, Sum


def test_each_client_and_kind_has_its_sum():
    """A sum has the number, and the first and the last moment."""
    refusals = Refusals()
    for at in (1.0, 2.0, 5.0):
        refusals.add("192.0.2.1", "rejected", at)
    refusals.add("192.0.2.1", "exhausted", 3.0)
    refusals.add("192.0.2.2", "rejected", 4.0)
    assert len(refusals) == 3
    assert refusals.take(2) == [
        Sum("192.0.2.1", "rejected", 3, 1.0, 5.0),
        Sum("192.0.2.1", "exhausted", 1, 3.0, 3.0),
    ]
    assert refusals.take(2) == [Sum("192.0.2.2", "rejected", 1, 4.0, 4.0)]
    assert not refusals


def test_a_flood_from_many_addresses_is_bounded():
    """Beyond the bound, refusals are counted by kind alone."""
    refusals = Refusals()
    for number in range(CLIENTS_LIMIT + 500):
        refusals.add(f"client {number}", "rejected", float(number))
    refusals.add("another", "abandoned", 9.0)
    assert len(refusals) == CLIENTS_LIMIT + 2
    *_, rejected, abandoned = refusals.take(CLIENTS_LIMIT + 2)
    assert rejected == Sum(None, "rejected", 500, float(CLIENTS_LIMIT), CLIENTS_LIMIT + 499.0)
    assert abandoned == Sum(None, "abandoned", 1, 9.0, 9.0)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["rejected", "abandoned", "exhausted"]))),
    st.integers(1, 4),
)
def test_nothing_is_lost(refused, most):
    """This holds whatever is added, and whatever the size of the portions that are taken."""
    refusals = Refusals()
    for at, (client, kind) in enumerate(refused):
        refusals.add(str(client), kind, float(at))
    counted = Counter()
    while taken := refusals.take(most):
        assert len(taken) <= most
        for total in taken:
            counted[total.client_ip, total.refused] += total.times
            assert total.first_at <= total.last_at
    assert counted == Counter((str(client), kind) for client, kind in refused)
