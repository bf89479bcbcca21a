"""Where the keys of a TOML document stand."""

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mprelay.config import lines

DOCUMENT = '''\
a = 1

# a comment with ] and """
b = [
  "x",  # ]
  """y
c = 3
""",
]
"quoted key" = "d = 4"
e = """
f = 5
[g]
"""
h.i = { j = 1 }

[label] # its head
ticket = "1"
"a.b" = \'\'\'
\'\'\'
[k.l.m]
n = 1
[[o]]
p = 1
'''

EXPECTED = {
    ("a",): range(1, 2),
    ("b",): range(4, 10),
    ("quoted key",): range(10, 11),
    ("e",): range(11, 15),
    ("h",): range(15, 16),
    ("h", "i"): range(15, 16),
    ("label",): range(17, 18),
    ("label", "ticket"): range(18, 19),
    ("label", "a.b"): range(19, 21),
    ("k", "l"): range(21, 22),
    ("k",): range(21, 22),
    ("o",): range(23, 24),
    ("o", "p"): range(24, 25),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_key_has_its_lines(end):
    assert lines.find(DOCUMENT.replace("\n", end)) == EXPECTED


def test_a_long_array_is_found_in_time():
    """Only lines that may complete it are tried."""
    text = "a = [\n" + '  "10.0.0.0/8",\n' * 10_000 + "]\nb = 1"
    assert lines.find(text) == {("a",): range(1, 10_003), ("b",): range(10_003, 10_004)}


def test_what_takes_too_long_is_not_found():
    """A message has no line then."""
    assert lines.find("a = 1\nb = [\n" + "# ]\n" * 2000 + "]\nc = 1") == {("a",): range(1, 2)}
    assert ("b",) not in lines.find("\n" * 30_000 + "b = 1")


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.lists(st.text())), max_size=5))
def test_any_document_has_a_place_for_each_key(table):
    text = tomli_w.dumps(table, multiline_strings=True)
    found = lines.find(text)
    assert set(found) == {(key,) for key in table}
    assert sorted(number for part in found.values() for number in part) == [
        number for number, _ in enumerate(text.split("\n")[:-1], 1)
    ]
