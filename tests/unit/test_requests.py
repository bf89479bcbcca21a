"""What an operator may ask for, and what is no request."""

import json
from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.core.requests import LINE_LIMIT, LOOKS, Inbox, NotRequest, Request, request_of


def of(**values):
    """Make a request of these values."""
    return request_of(json.dumps(values).encode())


@pytest.mark.parametrize("command", [*LOOKS, "drain", "pause", "resume", "reload"])
def test_most_commands_have_no_arguments(command):
    """An argument that is not known is refused: it would be an order that is not obeyed."""
    assert of(command=command) == Request(command)
    with pytest.raises(NotRequest, match=f"{command} does not know 'session'"):
        of(command=command, session=1)


def test_kill_names_a_session():
    """By its serial."""
    assert of(command="kill", session=7) == Request("kill", session=7, arguments={"session": 7})


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.9/24", "192.0.2.0/24"),
        ("192.0.2.9/255.255.255.0", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_kill_names_clients(client, network):
    """By an address, or by a network as in an ACL."""
    assert of(command="kill", client=client).client == ip_network(network)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "needs `session` or `client`"),
        ({"session": 1, "client": "192.0.2.1"}, "and not both"),
        ({"session": 0}, "`session` '0' must be the serial number"),
        ({"session": True}, "`session` 'true' must"),
        ({"session": "1"}, "`session` '1' must"),
        ({"session": 1.0}, "`session` '1.0' must"),
        ({"session": None}, "`session` is missing and must"),
        ({"session": [[1]]}, "`session` is a list and must"),
        ({"client": {}}, "`client` is an object and must"),
        ({"client": 5}, "`client` '5' must be an address"),
        ({"client": "x" * 101}, "must be an address"),
        ({"client": "everybody"}, "`client` 'everybody' must be an address"),
        ({"client": "192.0.2.0/33"}, "must have a prefix length"),
        ({"client": "192.0.2.0/0.0.0.255"}, "inverse mask"),
        ({"client": "fe80::1%lo"}, "must not have a zone"),
    ],
)
def test_a_kill_of_nobody_says_what_would_be_right(values, words):
    """Nothing is guessed: too much would be killed."""
    with pytest.raises(NotRequest) as wrong:
        of(command="kill", **values)
    assert words in str(wrong.value)


def test_extend_has_seconds():
    """Fractions are allowed."""
    assert of(command="extend", seconds=60) == Request("extend", seconds=60.0, arguments={"seconds": 60.0})
    assert of(command="extend", seconds=0.5).seconds == 0.5


@pytest.mark.parametrize("seconds", [0, -1, "60", "1h", None, True, [], 1e12, 10**30])
def test_other_seconds_are_refused(seconds):
    """The limit is that of every parameter."""
    with pytest.raises(NotRequest, match="must be a number of seconds"):
        of(command="extend", seconds=seconds)


@pytest.mark.parametrize(
    "line",
    [b"", b"status", b"5", b"[]", b'"status"', b"{", b"\xff", b"{}", b'{"command": 5}', b'{"command": "x"}'],
)
def test_anything_else_is_no_request(line):
    """It says what a request looks like, or which commands there are."""
    with pytest.raises(NotRequest, match=r"one JSON object a line|must be one of status, sessions"):
        request_of(line)


@pytest.mark.parametrize("depth", [250, 255, 400, 1000, 1100])
def test_depths_are_no_crash(depth):
    """Orjson reads deeper lists than it writes."""
    with pytest.raises(NotRequest):
        request_of(b'{"command":' + b"[" * depth + b"]" * depth + b"}")


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps))
def test_any_bytes_are_a_request_or_none(data):
    """There is no other exception."""
    with suppress(NotRequest):
        assert request_of(data if isinstance(data, bytes) else data.encode(errors="replace")).command


def test_lines_come_in_any_pieces():
    """The last one needs no newline if nothing can follow. An empty line is one."""
    inbox = Inbox()
    inbox.add(b"one\n\ntw")
    assert (inbox.has_line, len(inbox)) == (True, 7)
    assert [inbox.take(ended=False) for _ in range(3)] == [b"one", b"", None]
    assert (inbox.has_line, len(inbox)) == (False, 2)
    inbox.add(b"o")
    assert [inbox.take(ended=True) for _ in range(2)] == [b"two", None]
    assert len(inbox) == 0


@pytest.mark.parametrize("end", [b"", b"\n", b"\nmore"])
def test_a_line_has_an_end(end):
    """It is not waited for."""
    inbox = Inbox()
    inbox.add(b"x" * LINE_LIMIT)
    assert inbox.take(ended=False) is None
    inbox.add(b"\n")
    assert inbox.take(ended=False) == b"x" * LINE_LIMIT
    inbox.add(b"x" * (LINE_LIMIT + 1) + end)
    with pytest.raises(NotRequest, match="at most 4096 bytes"):
        inbox.take(ended=False)
    assert len(inbox) == 0
