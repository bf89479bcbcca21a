"""The table of parameters: each bound from both sides, every wrong value told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay import config
from mprelay.config import LABELS_LIMIT, PARAMETERS, Config, validate

GOOD = {"fwd_port": ["8080"], "trg_host": ["192.0.2.1"], "trg_port": ["80"], "acl": ["ANY"]}


def only_problem(**wrong):
    _, problems = validate(GOOD | wrong)
    assert len(problems) == 1
    return problems[0]


def test_defaults_are_the_contracts():
    """What is not given."""
    values, problems = validate(GOOD)
    assert problems == []
    made = Config(**values)
    assert (made.fwd_port, made.trg_host, made.trg_port, str(made.acl)) == (8080, "192.0.2.1", 80, "ANY")
    assert (made.connect_timeout, made.idle_timeout, made.absolute_timeout) == (3, 300, 0)
    assert made.buffer is None
    assert 1 <= made.workers <= 8
    assert made.max_sessions == 500
    assert made.bind is None
    assert (made.log_format, made.log_detail) == ("auto", "full")
    assert made.labels == {}
    assert (made.drain_timeout, made.stats_interval) == (10, 60)


@pytest.mark.parametrize(
    ("name", "msg_id", "good", "bad"),
    [
        (
            "fwd_port",
            2,
            ["1", "65535"],
            ["0", "65536", "-1", "", "x", "80.0", "+80", "8_0", " 80", "٨٠", "9" * 99],
        ),
        (
            "trg_host",
            3,
            ["1.2.3.4", "::1"],
            ["", "x", "localhost", "1.2.3", "1.2.3.4.5", "[::1]", "fe80::1%lo", "1.2.3.4/8"],
        ),
        ("trg_port", 4, ["1", "65535"], ["0", "65536", "http"]),
        ("acl", 5, ["any", "10.0.0.0/8"], ["10.0.0.1", "10.0.0.1/0.0.0.255"]),
        ("connect_timeout", 6, ["1", "3"], ["0", "4", "1.5"]),
        ("idle_timeout", 7, ["1", "1800"], ["0", "1801", "x"]),
        ("buffer", 8, ["100", "4000", "auto"], ["99", "4001", "AUTO", "", "1e3"]),
        ("absolute_timeout", None, ["0", "1", "86400"], ["-1", "0.5", "x", "99999999999"]),
        ("workers", None, ["1", "64"], ["0", "65", "two"]),
        ("max_sessions", None, ["1", "10000"], ["0", "-5", "1000001"]),
        ("bind", None, ["127.0.0.1", "::"], ["localhost", "eth0", "::1%lo", ""]),
        ("log_format", None, ["auto", "json", "text"], ["xml", "JSON", ""]),
        ("log_detail", None, ["full", "session"], ["none", ""]),
        ("label", None, ["a=b", "a=", "a=b=c", "ü=ö"], ["a", "=b", "", "a\udcff=b", "a=\udcff"]),
        ("drain_timeout", None, ["0", "10", "0.5"], ["-1", "x", "", "inf", "nan", "1e3", "1.2.3", "99999999999"]),
        ("stats_interval", None, ["0", "60", "0.01"], ["-0.1", "never", "0.001"]),
    ],
)
def test_bounds(name, msg_id, good, bad):
    """Each value just inside is taken; each outside is one problem that names it."""
    for text in good:
        assert validate(GOOD | {name: [text]})[1] == []
    for text in bad:
        wrong = only_problem(**{name: [text]})
        assert (wrong.parameter, wrong.value, wrong.entry.msg_id) == (name, text, msg_id)
        assert wrong.problem


def test_each_parameter_of_the_table_is_tried_above():
    """A new row needs a new line of bounds."""
    (mark,) = [mark for mark in test_bounds.pytestmark if mark.name == "parametrize"]
    assert {row[0] for row in mark.args[1]} == {parameter.name for parameter in PARAMETERS}


def test_every_wrong_value_is_told_and_not_only_the_first():
    """All at once, missing ones too."""
    _, problems = validate({"fwd_port": ["0"], "trg_host": ["x"], "idle_timeout": ["0"], "workers": ["0"]})
    assert [(p.parameter, p.value) for p in problems] == [
        ("fwd_port", "0"),
        ("trg_host", "x"),
        ("trg_port", None),
        ("acl", None),
        ("idle_timeout", "0"),
        ("workers", "0"),
    ]


def test_labels_are_collected():
    """Repeatable."""
    values, _ = validate(GOOD | {"label": ["ticket=CHG-1", "owner=a=b"]})
    assert values["labels"] == {"ticket": "CHG-1", "owner": "a=b"}


def test_a_label_given_twice_is_an_error():
    """One must not silently replace the other; each is told."""
    assert only_problem(label=["a=1", "a=2"]).value == "a=2"
    _, problems = validate(GOOD | {"label": ["a=1", "a=2", "a=3", "b=1", "b=2"]})
    assert [problem.value for problem in problems] == ["a=2", "a=3", "b=2"]


def test_ipv4_is_shown_as_ipv4_however_it_was_written():
    """The mapped form means the same address."""
    values, _ = validate(GOOD | {"trg_host": ["::ffff:192.0.2.1"], "bind": ["::FFFF:7f00:1"]})
    assert (values["trg_host"], values["bind"]) == ("192.0.2.1", "127.0.0.1")


def test_labels_that_would_burst_a_record_are_an_error():
    """Every record stays below 4096 bytes, escapes counted."""
    fits = "x" * (LABELS_LIMIT - len('{"a": ""}'))
    assert validate(GOOD | {"label": [f"a={fits}"]})[1] == []
    assert str(LABELS_LIMIT) in only_problem(label=[f"a={fits}x"]).problem
    assert only_problem(label=["a=" + "\x01" * 200]).parameter == "label"


@given(
    st.dictionaries(st.sampled_from([p.name for p in PARAMETERS]), st.lists(st.text(), min_size=1, max_size=3))
)
def test_any_texts_make_a_config_or_problems(given_texts):
    """Never an exception; without a problem nothing that is required is missing."""
    values, problems = validate(given_texts)
    if not problems:
        made = Config(**values)
        assert None not in (made.fwd_port, made.trg_host, made.trg_port, made.acl)


def test_usable_cpus_are_counted_everywhere(monkeypatch):
    """Those that this process may use; where the system does not say, those of the machine."""
    usable = config.usable_cpus()
    assert usable >= 1
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert config.usable_cpus() >= usable
