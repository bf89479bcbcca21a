"""The target by name: what a name is, and which addresses can be used."""

import pytest

from mprelay.config.host import Host
from mprelay.config.targets import Target, is_name, look_up
from mprelay.core.answers import Answer
from mprelay.core.protocol import ADDRESSES_LIMIT


@pytest.mark.parametrize(
    "text",
    [
        *("localhost", "db", "db.example", "db.example.", "DB.Example", "a-b.c_d", "_x.y", "1.a", "3com.com"),
        *("x" * 63, ".".join(["x" * 49] * 5), "xn--bcher-kva.example", "1e100", "0x7f.1x"),
    ],
)
def test_a_name(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "a..b", ".a", "a b", "a/b", "a:80", "-a", "a-", "a.-b", "a-.b", "bücher.example", "a\n"),
        *(
            "10.0.0.1",
            "10.0.0.256",
            "10.0.0",
            "1",
            "a.1",
            "::1",
            "fe80::1%eth0",
            "x" * 64,
            ".".join(["x" * 50] * 5),
        ),
    ],
)
def test_no_name(text):
    """A number at the end is a mistyped address."""
    assert not is_name(text)


NAMED = Target("db.example", 443, 443, "192.0.2.9", None)


def answer(*addresses, target=NAMED, **host):
    """The answer if the name stands for these addresses."""
    found = [[ip for ip in addresses if (":" in ip) == of_v6] or "NODATA" for of_v6 in (False, True)]
    return look_up(target, Host(look_up=lambda _name: found, **host))


def test_addresses_that_can_be_used_stay_in_their_order():
    """Each once, and IPv4 as IPv4."""
    found = answer("2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "2001:db8::1")
    assert found == Answer(("192.0.2.2", "192.0.2.1"), ("2001:db8::1", "192.0.2.3"))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("0.0.0.0", "0.0.0.0 is the unspecified address, or of its network"),  # noqa: S104
        ("224.0.0.1", "224.0.0.1 is a multicast address"),
        ("255.255.255.255", "255.255.255.255 is the broadcast address"),
        ("fe80::1", "fe80::1 is a link-local address"),
        ("192.0.2.255", "192.0.2.255 is a broadcast address of this host's network"),
        ("192.0.2.9", "192.0.2.9 and port 443 are where this relay listens"),
    ],
)
def test_an_address_that_no_user_may_give_is_left_out(address, problem):
    """That is said. If no other is left, there is no answer."""
    host = {"is_broadcast": lambda ip: ip == "192.0.2.255"}
    found = answer(address, "192.0.2.1", **host)
    assert found.addresses == ("192.0.2.1",)
    assert found.error is None
    assert found.problem.startswith(f"not all of its addresses can be used: {problem}")
    found = answer(address, "fe80::2", **host)
    assert (found.addresses, found.error) == ((), "UNUSABLE")
    assert None in (found.v4, found.v6)
    assert found.problem.startswith(f"none of its addresses can be used: {problem}")
    assert "; fe80::2 is a link-local address" in found.problem


def test_a_source_reaches_one_family():
    """What there is of the other one does not matter."""
    named = NAMED._replace(source="192.0.2.9")
    assert answer("2001:db8::1", "192.0.2.1", target=named) == Answer(("192.0.2.1",), ())
    assert answer("2001:db8::1", target=named).error == "NODATA"
    named = NAMED._replace(source="2001:db8::9")
    assert answer("2001:db8::1", "192.0.2.1", target=named) == Answer((), ("2001:db8::1",))


def test_without_a_route_ipv6_comes_last():
    found = answer("2001:db8::1", "192.0.2.1", has_route=lambda _ip: False)
    assert found.addresses == ("192.0.2.1", "2001:db8::1")


def test_another_order_is_the_same_answer():
    """Resolvers turn it round. Otherwise each look-up would be a change. The number is bounded."""
    many = [f"192.0.2.{number}" for number in range(100, 100 + 2 * ADDRESSES_LIMIT)]
    one, other = answer("0.0.0.0", "224.0.0.1", *many), answer(*many[::-1], "224.0.0.1", "0.0.0.0")  # noqa: S104
    assert one.problem == other.problem
    assert f"only {ADDRESSES_LIMIT} are kept, of {2 * ADDRESSES_LIMIT}" in one.problem
    assert one.addresses == other.addresses[::-1]
    assert len(one.addresses) == ADDRESSES_LIMIT


@pytest.mark.parametrize(
    ("v4", "v6", "answer"),
    [
        ("SERVFAIL", "SERVFAIL", Answer(None, None, "SERVFAIL", "the server has failed (SERVFAIL)")),
        ("SERVFAIL", "NODATA", Answer(None, (), "SERVFAIL", "the server has failed (SERVFAIL)")),
        ("NXDOMAIN", "TIMEOUT", Answer((), None, "TIMEOUT", "no server has answered in time (TIMEOUT)")),
        ("NXDOMAIN", "NODATA", Answer((), (), "NXDOMAIN", "there is no such name (NXDOMAIN)")),
        ("NODATA", "NODATA", Answer((), (), "NODATA", "the name has no address (NODATA)")),
        ("NODATA", ["::1"], Answer((), ("::1",))),
        (["192.0.2.1"], "NXDOMAIN", Answer(("192.0.2.1",), ())),
        (
            ["192.0.2.1"],
            "REFUSED",
            Answer(("192.0.2.1",), None, "REFUSED", "the server has refused to answer (REFUSED)"),
        ),
    ],
)
def test_each_family_is_judged_by_itself(v4, v6, answer):
    assert look_up(NAMED, Host(look_up=lambda _name: (v4, v6))) == answer


def test_a_host_that_is_not_known_knows_no_name():
    assert look_up(NAMED, Host()).error == "NXDOMAIN"
