"""Admission: which clients may come in, and when."""

from collections import Counter

import pytest

from mprelay.core.acl import NO_ENTRY, Acl, Entry
from mprelay.core.admission import (
    ABANDONED,
    EXHAUSTED,
    TOO_MANY,
    TOO_OFTEN,
    Outcome,
    Patience,
    Policy,
    PortSearch,
    Verdict,
)
from mprelay.core.rates import Rate

REJECTED = Verdict(Outcome.REJECTED, NO_ENTRY)
ADMITTED = Verdict(Outcome.ADMITTED, "192.0.2.0/24")
ADMITTED_AS_ANY = Verdict(Outcome.ADMITTED, "ANY")


@pytest.mark.parametrize(
    ("client", "given_up", "free", "verdict"),
    [
        ("192.0.2.1", False, True, ADMITTED),
        ("192.0.2.1", False, False, EXHAUSTED),
        ("192.0.2.1", True, True, ABANDONED),
        ("192.0.2.1", True, False, ABANDONED),
        ("198.51.100.1", False, True, REJECTED),
        ("198.51.100.1", True, False, REJECTED),
    ],
)
def test_one_verdict_for_each_connection(client, given_up, free, verdict):
    """The ACL decides first, then the client, then the slots. A verdict names the entry that let a client in."""
    policy = Policy(Acl.of([Entry.parse("192.0.2.0/24")]))
    assert policy.decide(client, 0.0, free=free, given_up=given_up) == verdict


def test_a_client_has_another_bucket_with_each_proxy():
    """So a proxy that lies cannot use up the tokens of those who come by themselves."""
    policy = Policy(Acl.of([Entry.parse("ANY")]), Rate(1, 60.0))
    for proxy in (None, "192.0.2.1", "192.0.2.2"):
        decided = [policy.decide("198.51.100.1", 0.0, free=True, proxy=proxy) for _ in range(2)]
        assert decided == [ADMITTED_AS_ANY, TOO_OFTEN]


def test_no_client_is_refused_before_the_moment_is_over():
    """Clients that came after the moment began are not refused either."""
    patience = Patience()
    assert [patience.waiting, patience.refusable] == [False, False]
    patience.begin(2)
    assert patience.waiting
    assert not patience.refusable
    patience.queued -= 1  # there was a slot for it after all
    patience.lapse()
    assert patience.refusable
    patience.queued -= 1
    assert not patience.refusable


def test_the_backlog_may_not_be_counted():
    """The connections that it might have had have not waited."""
    patience = Patience()
    patience.begin(64, counted=False)
    assert not patience.counted
    patience.forget()
    patience.begin(1)
    assert patience.counted


def test_another_listener_has_no_client_to_refuse():
    """Its backlog is a new one."""
    patience = Patience()
    patience.begin(5)
    patience.forget()
    assert [patience.waiting, patience.refusable] == [False, False]
    patience.lapse()
    assert not patience.refusable


def test_the_first_session_after_a_failure_shows_whether_there_are_ports():
    """Earlier sessions got their ports before the failure."""
    ports = PortSearch()
    assert [ports.running, ports.found, ports.tells(1)] == [False, False, False]
    ports.begin()
    assert ports.running
    assert not ports.tells(7)
    ports.admitted(7)
    ports.admitted(8)
    assert ports.found
    assert not ports.tells(6)
    assert ports.tells(7)
    ports.begin()  # it found no port either
    assert [ports.found, ports.tells(8)] == [False, False]
    ports.admitted(9)
    ports.end()
    assert [ports.running, ports.found, ports.tells(9)] == [False, False, False]


def test_limits_come_after_the_acl_and_before_everything_else():
    """Every attempt that the ACL allows takes a token, also one that is refused for another reason."""
    sessions = Counter({"192.0.2.7": 2})
    acl = Acl.of([Entry.parse("192.0.2.0/24")])
    policy = Policy(acl, Rate(2, 60.0), 2, sessions.__getitem__)
    assert policy.decide("198.51.100.1", 0.0, free=True).outcome is Outcome.REJECTED
    assert policy.decide("192.0.2.1", 0.0, free=False) == EXHAUSTED
    assert policy.decide("192.0.2.1", 0.0, free=True) == ADMITTED
    assert policy.decide("192.0.2.1", 0.0, free=True, given_up=True) == TOO_OFTEN
    assert policy.decide("192.0.2.1", 31.0, free=True) == ADMITTED
    assert policy.decide("192.0.2.7", 0.0, free=True, given_up=True) == TOO_MANY
    assert policy.decide("192.0.2.7", 0.0, free=False) == TOO_MANY
    assert policy.decide("192.0.2.7", 0.0, free=True) == TOO_OFTEN


def test_a_network_of_ipv6_is_one_client():
    policy = Policy(Acl.of([Entry.parse("ANY")]), Rate(1, 60.0))
    assert policy.decide("2001:db8::1", 0.0, free=True) == ADMITTED_AS_ANY
    assert policy.decide("2001:db8::2", 0.0, free=True) == TOO_OFTEN
    assert policy.decide("2001:db8:0:1::2", 0.0, free=True) == ADMITTED_AS_ANY
