"""What `mprelayctl top` shows: lines, their order, what a filter leaves, rates, and which cells have changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.ctl.figures import address, escaped, size, span
from mprelay.ctl.screen import (
    COLUMNS,
    Changes,
    Sample,
    Usage,
    cells,
    changes,
    chosen,
    facts,
    lines_of,
    origin,
    packed,
    rate,
    titles,
    widths,
    worker_rows,
)


def session(number, client="127.0.0.1", port=40000, target="192.0.2.1", *, worker=1, up=0, down=0, **more):
    """A session, as the relay tells of it. One that no worker has yet lacks that field."""
    told = {
        "session": number,
        "client_ip": client,
        "client_port": port,
        "target_ip": target,
        "target_port": 80,
        "worker": worker,
        "age_s": 1.0,
        "idle_s": 0.5,
        "bytes_from_client": up,
        "bytes_from_target": down,
        **more,
    }
    return {name: value for name, value in told.items() if name != "worker" or value is not None}


STATUS = {
    "phase": "active",
    "paused_by": None,
    "active": 2,
    "max_sessions": 500,
    "expires_in_s": 61.5,
    "attempts": 10,
    "rejected": 1,
    "limited": 2,
    "abandoned": 1,
    "proxy_invalid": 1,
    "exhausted": 3,
    "bytes_from_client": 2048,
    "bytes_from_target": 5,
    "listen_ip": "::",
    "listen_port": 8080,
    "target_host": "db.example",
    "target_port": 5432,
    "labels": {},
    "workers": [],
}


def sample(at, *sessions, usages=None, **status):
    return Sample(at, STATUS | status, sessions, usages or {})


def lines(*sessions):
    return lines_of([sample(1.0, *sessions)])


def numbers(found):
    return [line.session for line in found]


# -- figures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10 * 1024, "10 KiB"),
        (1024**2, "1.0 MiB"),
        (2**62, "4.0 EiB"),
        (2**74, "16384 EiB"),
        (0.4, "0 B"),
    ],
)
def test_a_size_has_a_unit(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59, "59s"), (187, "3:07"), (3723, "1:02:03"), (4 * 86400 + 5 * 3600, "4d 05:00")],
)
def test_a_span_is_read_as_a_time(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("ip", "text"), [("192.0.2.1", "192.0.2.1:80"), ("2001:db8::1", "[2001:db8::1]:80"), (None, "?:80")]
)
def test_an_address_has_its_port(ip, text):
    assert address(ip, 80) == text


def test_texts_from_outside_are_shown_escaped():
    assert escaped("a\x1b]0;x\x07\x9b\u202eb\udcff") == "a\\x1b]0;x\\x07\\x9b\\u202eb\\udcff"


# -- rates ---------------------------------------------------------------------------------------------------


def test_a_rate_takes_two_moments():
    assert rate(1.0, 100, 3.0, 300) == 100
    assert rate(1.0, 100, 1.0, 300) is None


def test_a_session_has_the_rate_since_it_was_first_seen():
    """Session 2 came in between, and 3 is new. Both ways are counted."""
    first = sample(1.0, session(1, up=100))
    second = sample(2.0, session(1, up=100), session(2, down=10))
    third = sample(3.0, session(1, up=400, down=100), session(2, down=60), session(3, up=7))
    assert [line.rate for line in lines_of([first, second, third])] == [200, 50, None]


def test_a_worker_shows_what_it_has_used():
    """It has no share of a CPU in its first sample, and no figure at all if it cannot be seen."""
    workers = [{"worker": 1, "pid": 11, "sessions": 3}, {"worker": 2, "pid": 12, "sessions": 0}]
    first = sample(1.0, usages={11: Usage(1.0, 2048)}, workers=workers)
    assert worker_rows([first]) == {"1": ("1", "11", "-", "2.0 KiB", "3"), "2": ("2", "12", "-", "-", "0")}
    second = sample(3.0, usages={11: Usage(1.5, 4096), 12: Usage(9.0, 1)}, workers=workers)
    assert worker_rows([first, second]) == {
        "1": ("1", "11", "25%", "4.0 KiB", "3"),
        "2": ("2", "12", "-", "1 B", "0"),
    }


# -- what is chosen, and in which order ----------------------------------------------------------------------


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column_gives_an_order(column):
    """Equal ones are in the order of their numbers, whichever way it goes."""
    small = session(2, "9.0.0.1", 9, "9.0.0.1", worker=1, age_s=1, idle_s=1, up=1, down=1)
    large = {"age_s": 9, "idle_s": 9}
    known = lines_of(
        [
            sample(
                1.0,
                small,
                session(3, "10.0.0.1", 10, "10.0.0.1", worker=2),
                session(4, "10.0.0.1", 10, "10.0.0.1", worker=2),
            ),
            sample(
                2.0,
                session(4, "10.0.0.1", 10, "10.0.0.1", worker=2, up=10, down=10, **large),
                small,
                session(3, "10.0.0.1", 10, "10.0.0.1", worker=2, up=10, down=10, **large),
            ),
        ]
    )
    assert numbers(chosen(known, "", column, reverse=False)) == [2, 3, 4]
    assert numbers(chosen(known, "", column, reverse=True)) == [4, 3, 2] if column == "session" else [3, 4, 2]


@pytest.mark.parametrize("column", ["target", "worker", "rate"])
def test_what_is_not_known_yet_is_less_than_anything(column):
    before = sample(1.0, session(2))
    known = lines_of([before, sample(2.0, session(2), session(1, target=None, worker=None))])
    assert numbers(chosen(known, "", column, reverse=False)) == [1, 2]
    assert numbers(chosen(known, "", column, reverse=True)) == [2, 1]


def test_addresses_are_sorted_as_numbers():
    """IPv4 comes first, and ports decide between the sessions of one client."""
    known = lines(session(1, "::1"), session(2, "10.0.0.1", 9), session(3, "9.0.0.1"), session(4, "10.0.0.1", 8))
    assert numbers(chosen(known, "", "client", reverse=False)) == [3, 4, 2, 1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", [1, 2, 3]),
        ("10.0.", [1, 2]),
        ("DB8::", [3]),
        (":443 ", [2]),
        ("198.51", [2]),
        ("w2", [2, 3]),
        ("2", [1, 2, 3]),
        ("w", []),
        ("10.0. w2", [2]),
        ("nobody", []),
    ],
)
def test_a_filter_has_words_that_all_match(words, found):
    """A word is part of the client or of the target, or it names the worker."""
    known = lines(
        session(1, "10.0.0.1", worker=None),
        session(2, "10.0.0.9", 443, "198.51.100.7", worker=2),
        session(3, "2001:db8::5", worker=2),
    )
    assert numbers(chosen(known, words, "session", reverse=False)) == found


# -- what stands on the screen -------------------------------------------------------------------------------


def test_a_line_has_a_cell_for_each_column():
    first = sample(1.0, session(7, up=1))
    assert [cells(line) for line in lines_of([first])] == [
        ("7", "127.0.0.1:40000", "1", "1s", "0s", "1 B", "0 B", "-", "192.0.2.1:80")
    ]
    later = sample(2.0, session(7, "2001:db8::1", 9, None, worker=None, up=2048, down=3, age_s=65, idle_s=2))
    assert [cells(line) for line in lines_of([first, later])] == [
        ("7", "[2001:db8::1]:9", "-", "1:05", "2s", "2.0 KiB", "3 B", "2.0 KiB", "?:80")
    ]
    assert len(COLUMNS) == 9, "each has a digit as its key"


def test_nothing_in_an_address_commands_the_terminal():
    """A zone could be anything."""
    (line,) = lines(session(1, "fe80::1%\x1b[2J", target="fe80::2%\u202e"))
    assert (line.client, line.target) == ("[fe80::1%\\x1b[2J]:40000", "[fe80::2%\\u202e]:80")


def test_the_titles_show_the_order():
    assert titles("age", reverse=True)[:4] == ["1 no.", "2 client", "3 worker", "4▼age"]
    assert titles("age", reverse=False)[3] == "4▲age"


def test_columns_become_wider_and_never_narrower():
    assert widths([2, 2], [("a", "bcd"), ("ef", "g")]) == [2, 3]
    assert widths([2, 3], []) == [2, 3]


def test_changes_name_single_cells():
    shown = {"1": ("1", "a", "b"), "2": ("2", "a", "b"), "3": ("3", "a", "b")}
    wanted = {"4": ("4", "x", "y"), "2": ("2", "a", "c"), "3": ("3", "a", "b")}
    assert changes(shown, wanted) == Changes(["1"], {"4": ("4", "x", "y")}, [("2", 2, "c")])
    assert changes(wanted, wanted) == Changes([], {}, [])


ROWS = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.sampled_from("xy"), st.sampled_from("xy")))


@given(ROWS, ROWS)
def test_changes_lead_from_one_table_to_the_other(shown, wanted):
    found = changes(shown, wanted)
    table = {key: [*row] for key, row in shown.items()}
    for key in found.gone:
        del table[key]
    for key, row in found.come.items():
        assert key not in table
        table[key] = [*row]
    for key, column, text in found.changed:
        assert table[key][column] != text
        table[key][column] = text
    assert table == {key: [*row] for key, row in wanted.items()}


def test_the_head_has_the_most_important_facts_first():
    assert facts(STATUS) == [
        "active",
        "2/500 sessions",
        "expires in 1:01",
        "attempts 10",
        "refused 8",
        "from clients 2.0 KiB",
        "from target 5 B",
    ]


def test_the_head_says_who_has_paused_admission_and_that_nothing_expires():
    assert facts(STATUS | {"paused_by": "operator", "expires_in_s": None})[:3] == [
        "active, paused by operator",
        "2/500 sessions",
        "never expires",
    ]
    assert facts(STATUS | {"expires_in_s": -0.1})[2] == "expires in 0s"


def test_the_origin_shows_labels_escaped():
    labels = {"ticket": "OPS-1", "x": "\x1b]0;x\x07\u2066"}
    assert origin(STATUS | {"labels": labels}) == [
        "[::]:8080 → db.example:5432",
        "ticket=OPS-1",
        "x=\\x1b]0;x\\x07\\u2066",
    ]


def test_parts_are_packed_into_lines():
    """The last line has what is left, and is cut."""
    parts = ["aaaa", "bbbb", "cccc", "dddd"]
    assert packed(parts, 11, 3) == "aaaa · bbbb\ncccc · dddd"
    assert packed(parts, 10, 3) == "aaaa\nbbbb\ncccc · dd…"
    assert packed(parts, 3, 1) == "aa…"
    assert packed([], 10, 3) == ""
