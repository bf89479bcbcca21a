"""Histograms as Prometheus has them."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.histogram import Durations, Histogram


def test_a_value_on_a_bound_does_not_exceed_it():
    """The buckets are cumulative, and the last one has all."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert [*histogram.buckets()] == [(1.0, 2), (2.0, 4), (inf, 5)]
    assert histogram.total == 7.0


@given(st.lists(st.floats(0, 1e6)))
def test_the_buckets_count_what_does_not_exceed_them(values):
    """Whatever comes, each bound has the count of a plain look at all values."""
    for histogram in (Durations().connect, Durations().session):
        for value in values:
            histogram.observe(value)
        assert [*histogram.buckets()] == [
            (bound, sum(value <= bound for value in values)) for bound, _ in histogram.buckets()
        ]
