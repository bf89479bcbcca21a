"""Token buckets, compared with one that counts its tokens in fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core import rates
from mprelay.core.rates import CLIENTS_LIMIT, Rate, Rates, client_of


class Bucket:
    """A token bucket as it is drawn on the board."""

    def __init__(self, count, seconds):
        self.count = count
        self.tokens = Fraction(count)
        self.each = Fraction(seconds) / count
        self.at = Fraction(0)

    def take(self, now):
        """Take a token at this moment, if there is one."""
        self.tokens = min(Fraction(self.count), self.tokens + (now - self.at) / self.each)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@given(st.integers(1, 5), st.integers(1, 8), st.lists(st.integers(0, 16), max_size=60))
def test_it_is_a_token_bucket(count, seconds, pauses):
    """Moments are eighths of seconds, and tokens come back in whole eighths or not: both agree."""
    made, bucket, now = Rates(Rate(count, seconds)), Bucket(count, seconds), Fraction(0)
    for pause in pauses:
        now += Fraction(pause, 8)
        assert made.take("192.0.2.1", float(now)) == bucket.take(now)


def admitted(made, tries_per_second, seconds, client="192.0.2.1", start=0.0):
    """How many of so many tries come in."""
    tries = round(tries_per_second * seconds)
    return sum(made.take(client, start + number / tries_per_second) for number in range(tries))


def test_whoever_goes_on_trying_comes_in_as_often_as_the_rate_says():
    assert admitted(Rates(Rate(5, 10)), 10, 60) == 34  # five at once, and one every two seconds


@pytest.mark.parametrize(("rate", "tries", "expected"), [((1, 3600), 100, 1), ((1000, 1), 5000, 1999)])
def test_low_and_high_rates_are_exact(rate, tries, expected):
    assert abs(admitted(Rates(Rate(*rate)), tries, 1) - expected) <= 1


def test_after_a_long_pause_there_is_one_burst():
    made = Rates(Rate(5, 10))
    assert admitted(made, 1000, 0.1) == 5
    month = 30 * 86400.0
    assert admitted(made, 1000, 0.1, start=month) == 5


def test_a_client_is_an_address_or_a_network_of_ipv6():
    assert client_of("192.0.2.1") != client_of("192.0.2.2")
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:0:0:1")
    assert client_of("2001:db8::1") != client_of("2001:db8:0:1::1")
    assert client_of("::1") != client_of("1:2:3:4::")


def test_each_client_has_its_own_tokens():
    made = Rates(Rate(1, 10))
    assert made.take("192.0.2.1", 0.0)
    assert made.take("192.0.2.2", 0.0)
    assert not made.take("192.0.2.1", 9.9)
    assert made.take("192.0.2.1", 10.0)


def test_memory_is_bounded_and_whoever_is_out_of_tokens_stays_so(monkeypatch):
    monkeypatch.setattr(rates, "CLIENTS_LIMIT", 100)
    made = Rates(Rate(2, 60))
    assert [made.take("greedy", 0.0) for _ in range(3)] == [True, True, False]
    for number in range(1000):
        assert made.take(number, 1.0)
    assert len(made) == 100
    assert not made.take("greedy", 2.0)
    assert [made.take("new", 2.0) for _ in range(5)] == [True, True, False, False, False]
    assert CLIENTS_LIMIT >= 50_000
