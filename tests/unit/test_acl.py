"""The access list, with `ipaddress` as oracle."""

import gc
import ipaddress
import pickle
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.acl import NO_ENTRY, Acl, Entry

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)


def acl(*entries):
    """A list of these entries."""
    return Acl.of([Entry.parse(entry) for entry in entries])


@pytest.mark.parametrize("text", ["ANY", "any", "Any", "aNY"])
def test_any_allows_every_client(text):
    listed = acl(text)
    assert listed.decide("203.0.113.9").allowed
    assert listed.decide("2001:db8::1").allowed
    assert str(Entry.parse(text)) == "ANY"
    assert str(Entry.parse(f"!{text}")) == "!ANY"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.168.100.30/24", "192.168.100.0/24"),
        ("192.168.100.30/255.255.255.255", "192.168.100.30/32"),
        ("10.1.2.3/255.0.0.0", "10.0.0.0/8"),
        ("10.1.2.3/255.255.254.0", "10.1.2.0/23"),
        ("1.2.3.4/0", "0.0.0.0/0"),
        ("1.2.3.4/0.0.0.0", "0.0.0.0/0"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("2001:DB8::1/128", "2001:db8::1/128"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
    ],
)
def test_entries_are_named_in_canonical_form(text, canonical):
    assert str(Entry.parse(text)) == canonical
    assert str(Entry.parse(f"!{text}")) == f"!{canonical}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.168.1.1",
        "2001:db8::1",
        "192.168.1.1/",
        "/24",
        "192.168.1.1/33",
        "192.168.1.1/-1",
        "192.168.1.1/+8",
        "192.168.1.1/ 8",
        "192.168.1.1/8 ",
        " ANY",
        "ANY/0",
        "192.168.1.1/0.0.0.255",
        "192.168.1.1/255.0.255.0",
        "192.168.1.1/255.255.255.1",
        "192.168.1.1/0.255.255.255",
        "192.168.1.1/127.255.255.255",
        "192.168.1.1/255.255.255",
        "192.168.1.1/24/24",
        "192.168.001.1/24",
        "192.168.1/24",
        "256.0.0.1/8",
        "localhost/8",
        "2001:db8::1/129",
        "2001:db8::1/ffff::",
        "2001:db8::1/255.255.255.0",
        "fe80::1%eth0/64",
        "10.0.0.0/٨",
        "10.0.0.0/" + "9" * 50,
        "10.0.0.0/" + "0" * 5000,
        "10.0.0.0/0_8",
        "10.0.0.0/ 8",
        "010.0.0.0/8",
        "!",
        "!!10.0.0.0/8",
        "! 10.0.0.0/8",
        "10.0.0.0/8,",
        "@",
    ],
)
def test_anything_else_is_an_error(text):
    """A bare address, a mask with a gap and an inverse mask are rejected, not guessed at."""
    with pytest.raises(ValueError):  # noqa: PT011 - the user sees the manual's sentence, not this text
        Entry.parse(text)


@given(V4, st.integers(0, 32), V4)
def test_ipv4_decides_as_ipaddress_does(net, prefix, client):
    """A prefix length and its dotted mask mean the same."""
    network = ipaddress.ip_network(f"{net}/{prefix}", strict=False)
    expected = client in network
    assert acl(f"{net}/{prefix}").decide(str(client)).allowed == expected
    assert Entry.parse(f"{net}/{network.netmask}").network == network
    assert acl(f"{net}/{prefix}").decide(f"::ffff:{client}").allowed == expected
    assert acl(f"::ffff:{net}/{96 + prefix}").decide(str(client)).allowed == expected


@given(V4, st.integers(0, 31), st.integers(0, 2**32 - 1))
def test_every_client_of_the_network_is_allowed(net, prefix, host):
    """Two random addresses seldom share a network, so this client is drawn from the network."""
    network = ipaddress.ip_network(f"{net}/{prefix}", strict=False)
    client = network[host % network.num_addresses]
    assert acl(f"{net}/{prefix}").decide(str(client)).allowed


@given(V6, st.integers(0, 128), V6)
def test_ipv6_decides_as_ipaddress_does(net, prefix, client):
    """An IPv4-mapped client is judged as IPv4."""
    network = ipaddress.ip_network(f"{net}/{prefix}", strict=False)
    seen = client.ipv4_mapped or client
    if net.ipv4_mapped is None:
        assert acl(f"{net}/{prefix}").decide(str(client)).allowed == (seen in network)


@given(V4)
def test_all_of_ipv6_holds_no_ipv4_client(client):
    """``::/0`` does not allow IPv4, however the client is written."""
    assert not acl("::/0").decide(str(client)).allowed
    assert not acl("::/0").decide(f"::ffff:{client}").allowed
    assert not acl("0.0.0.0/0").decide("2001:db8::1").allowed


@given(st.text())
def test_any_text_is_an_entry_or_a_value_error(text):
    """No other exception is raised. The canonical form is an entry too, and means the same."""
    try:
        entry = Entry.parse(text)
    except ValueError:
        return
    again = Entry.parse(str(entry))
    assert (again.allows, again.network) == (entry.allows, entry.network)


@pytest.mark.parametrize(
    ("text", "offer"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1/128"),
        ("10.0.0.1/0.0.0.255", "10.0.0.1/255.255.255.0"),
        ("10.0.0.1/0.255.255.255", "10.0.0.1/255.0.0.0"),
        ("10.0.0.1/127.255.255.255", "10.0.0.1/128.0.0.0"),
    ],
)
def test_an_error_offers_a_correct_entry(text, offer):
    """The offered entry is accepted."""
    with pytest.raises(ValueError, match=f"{offer}( |$)"):
        Entry.parse(text)
    Entry.parse(offer)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ANYONE", "ANY"),
        ("10.0.0/8", "192.0.2.0/24"),
        ("10.0.0.0/33", "0 to 32"),
        ("10.0.0.0/", "0 to 32"),
        ("10.0.0.0/" + "9" * 50, "0 to 32"),
        ("10.0.0.0/" + "9" * 5000, "100 characters"),
        ("::/129", "0 to 128"),
        ("::/255.0.0.0", "0 to 128"),
        ("10.0.0.0/255.0.255.0", "gap"),
        ("10.0.0.0/256.0.0.0", "255.255.255.0"),
        ("fe80::1%lo/64", "zone"),
        ("::ffff:10.1.2.3/32", "96 to 128"),
    ],
)
def test_an_error_names_the_bound(text, named):
    with pytest.raises(ValueError, match=named):
        Entry.parse(text)


@pytest.mark.parametrize(
    ("entries", "client", "decision"),
    [
        (["any"], "192.0.2.1", (True, "any")),
        (["10.1.2.3/8"], "10.9.9.9", (True, "10.1.2.3/8")),
        (["10.1.2.3/255.0.0.0"], "192.0.2.1", (False, NO_ENTRY)),
        (["2001:DB8::1/32"], "192.0.2.1", (False, NO_ENTRY)),
        ([], "192.0.2.1", (False, NO_ENTRY)),
        (["!10.1.0.0/16", "10.0.0.0/8"], "10.1.2.3", (False, "!10.1.0.0/16")),
        (["!10.1.0.0/16", "10.0.0.0/8"], "10.2.2.3", (True, "10.0.0.0/8")),
        (["10.0.0.0/8", "!10.1.0.0/16"], "10.1.2.3", (True, "10.0.0.0/8")),
        (["!any", "10.0.0.0/8"], "2001:db8::1", (False, "!any")),
        (["10.1.0.0/16", "!10.0.0.0/8", "10.1.2.0/24", "ANY"], "10.1.2.3", (True, "10.1.0.0/16")),
        (["10.1.0.0/16", "!10.0.0.0/8", "10.1.2.0/24", "ANY"], "10.2.2.3", (False, "!10.0.0.0/8")),
        (["10.1.0.0/16", "!10.0.0.0/8", "10.1.2.0/24", "ANY"], "192.0.2.1", (True, "ANY")),
        (["!::ffff:10.0.0.0/104", "0.0.0.0/0"], "10.2.2.3", (False, "!::ffff:10.0.0.0/104")),
    ],
)
def test_a_decision_names_the_entry_as_it_was_written(entries, client, decision):
    """The first that matches decides. The second decision comes from the cache."""
    listed = acl(*entries)
    assert listed.decide(client) == listed.decide(client) == decision


def test_a_client_must_be_an_address():
    with pytest.raises(ValueError, match="nobody"):
        acl("ANY").decide("nobody")


def of_network(deny, address, prefix):
    """An entry for a network of this address."""
    return f"{'!' * deny}{address}/{prefix % (ipaddress.ip_address(address).max_prefixlen + 1)}"


BASES = ["10.1.2.3", "10.1.2.4", "10.1.3.0", "255.255.255.255", "0.0.0.1", "2001:db8::", "::", "ffff::"]
OTHERS = ["10.1.2.2", "10.1.3.255", "::1", "2001:db8::7"]
NESTED = st.builds(of_network, st.booleans(), st.sampled_from(BASES), st.integers(0, 128))


@given(st.lists(NESTED, max_size=12), st.sampled_from(BASES + OTHERS) | V4.map(str) | V6.map(str))
def test_a_list_decides_as_a_search_from_its_beginning_does(entries, client):
    """The networks are nested in each other, and the same more than once."""
    ip = ipaddress.ip_address(client)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    expected = next((entry for entry in map(Entry.parse, entries) if ip in entry.network), None)
    decision = acl(*entries).decide(client)
    assert decision == ((False, NO_ENTRY) if expected is None else (expected.allows, expected.written))


def test_a_list_is_the_same_after_it_was_sent_to_another_process():
    listed = acl("!10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32")
    sent = pickle.loads(pickle.dumps(listed))  # noqa: S301 - our own
    assert sent == listed
    assert (len(sent), hash(sent)) == (3, hash(listed))
    assert sent.decide("10.1.0.1") == (False, "!10.1.0.0/16")
    assert sent != acl("10.0.0.0/8")


def test_a_list_that_nobody_uses_takes_no_memory():
    """It is gone without the garbage collector, which runs seldom."""
    listed = acl("10.0.0.0/8")
    assert listed.decide("10.0.0.1").allowed
    gone = weakref.ref(listed)
    gc.disable()
    try:
        del listed
        assert gone() is None
    finally:
        gc.enable()
