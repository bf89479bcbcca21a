"""The command line: any argv gives a Config, a text, or problems."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay import __version__
from mprelay.config.cli import Refusal, Text, parse, refuse_value
from mprelay.config.host import Host
from mprelay.config.parameters import PARAMETERS
from mprelay.config.validation import Config
from mprelay.core.exits import Exit

GOOD = ["8080", "192.0.2.1", "80", "ANY"]


def test_all_by_position():
    config = parse([*GOOD, "1", "30", "600", "100"])
    assert isinstance(config, Config)
    assert (config.connect_timeout, config.idle_timeout, config.absolute_timeout, config.buffer) == (
        1,
        30,
        600,
        100,
    )


def test_all_by_option_and_anywhere():
    """Options stand before, between and after the positions, with a blank or an equals sign."""
    config = parse(
        [
            "--connect-timeout",
            "1",
            "8080",
            "--idle-timeout=30",
            "192.0.2.1",
            "80",
            "--label",
            "a=b",
            "ANY",
            "--label=c=-d",
        ]
    )
    assert isinstance(config, Config)
    assert (config.connect_timeout, config.idle_timeout, config.labels) == (1, 30, {"a": "b", "c": "-d"})


@pytest.mark.parametrize(
    ("option", "place", "name"),
    [
        ("--connect-timeout", 1, "connect_timeout"),
        ("--idle-timeout", 2, "idle_timeout"),
        ("--absolute-timeout", 3, "absolute_timeout"),
        ("--buffer", 4, "buffer"),
    ],
)
def test_by_position_and_by_option_is_an_error_that_says_so(option, place, name):
    """Neither silently overrides the other."""
    ((problem,), _, _) = parse([*GOOD, *["2", "30", "600", "200"][:place], option, "3" if place == 1 else "300"])
    assert problem.parameter == name
    assert "by position" in problem.problem
    assert option in problem.problem
    assert problem.message.msg_id is None


def test_a_value_may_turn_out_to_be_wrong_later():
    """When it is used. It is refused as if that had been known."""
    refusal = refuse_value("control", "/run/c", "is a link", "json", {"a": "b"})
    (problem,) = refusal.problems
    assert (problem.parameter, problem.value, problem.problem) == (
        "control",
        "/run/c",
        "--control '/run/c' is a link.",
    )
    assert refusal[1:] == ("json", {"a": "b"})


def test_without_parameters_the_help_and_2():
    """The manual says: execute the program without parameters."""
    shown = parse([])
    assert isinstance(shown, Text)
    assert shown.code == 2
    assert shown == parse(["--help"])._replace(code=2) == parse(["-h"])._replace(code=2)


def test_help_names_every_parameter():
    """The help is generated from the table."""
    text = parse(["--help"]).text
    for parameter in PARAMETERS:
        assert (parameter.option or parameter.metavar) in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_help_shows_the_defaults_of_this_host():
    """There is one worker per CPU, at most eight."""
    for cpus, workers in ((3, 3), (64, 8)):
        text = parse(["--help"], Host(cpus=cpus)).text
        assert f"(1..64; default {workers})" in text
    assert " ".join(re.findall(r"default (\w+)\)", text)) == "3 300 0 auto 8 500 0 0 0 0 0 auto full 10 0 60"


def test_help_shows_the_exit_codes():
    text = " ".join(parse(["--help"]).text.split())
    codes = " ".join(f"{code:d} {code.meaning}" for code in Exit)
    assert text.endswith(f"Exit codes: {codes}")


def test_version():
    assert parse(["--version"]) == Text(f"mprelay {__version__}\n", 0)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--workers", "2"], [("fwd_port", None), ("trg_host", None), ("trg_port", None), ("acl", None)]),
        ([*GOOD, "--frobnicate"], [("arguments", "--frobnicate")]),
        ([*GOOD, "-x"], [("arguments", "-x")]),
        ([*GOOD, "--work", "2"], [("arguments", "--work")]),
        ([*GOOD, "3", "300", "0", "auto", "more"], [("arguments", "more")]),
        ([*GOOD, "--workers"], [("workers", None)]),
        ([*GOOD, "--label", "--workers", "2"], [("label", None)]),
        (["-5", "192.0.2.1", "80", "ANY"], [("fwd_port", "-5")]),
        ([*GOOD, "--version=1", "--workers=0"], [("arguments", "--version=1"), ("workers", "0")]),
        ([*GOOD, "-hx"], [("arguments", "-hx")]),
        (["--", "8080", "192.0.2.1", "80", "--odd"], [("acl", "--odd")]),
        ([*GOOD, "--workers", "0", "--workers", "99"], [("workers", "0"), ("workers", "99")]),
    ],
)
def test_wrong_usage_is_a_problem_with_a_name(argv, expected):
    """The parser never exits by itself, as argparse would."""
    problems = parse(argv).problems
    assert [(p.parameter, p.value) for p in problems] == expected


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (
            [*GOOD, "--idel-timeout=3"],
            "unknown option (is --idle-timeout meant?): '--idel-timeout=3'; see mprelay --help.",
        ),
        ([*GOOD, "--odd"], "unknown option: '--odd'; see mprelay --help."),
        ([*GOOD, "--" + "x" * 99], f"unknown option: '--{'x' * 58}'; see mprelay --help."),
        ([*GOOD, "3", "300", "0", "auto", "more"], "one parameter too many: 'more'; see mprelay --help."),
        ([*GOOD, "--workers"], "--workers needs a value."),
        (GOOD[:3], "<ACL> is missing."),
        (["x" * 61, *GOOD[1:]], f"<fwd port> '{'x' * 60}…' must be a whole number from 1 to 65535."),
        (
            [*GOOD, "1", "--connect-timeout", "2"],
            "<c t/o> or --connect-timeout '2' is given by position ('1') and by option: give it once.",
        ),
    ],
)
def test_a_problem_in_words(argv, sentence):
    """The record and stderr repeat this sentence."""
    ((problem,), _, _) = parse(argv)
    assert problem.problem == sentence


@given(
    st.lists(
        st.one_of(st.text(), st.sampled_from([p.option for p in PARAMETERS if p.option] + GOOD)), max_size=12
    )
)
def test_any_argv_is_accepted_or_refused(argv):
    """The result is a Config, a text to show, or at least one problem; never an exception, never SystemExit."""
    result = parse(argv)
    assert isinstance(result, Config | Text) or (isinstance(result, Refusal) and result.problems)


def test_a_flag_takes_no_value():
    """It may stand anywhere, and twice; what follows it is a parameter of its own."""
    words = ["8080", "192.0.2.1", "80", "ANY"]
    assert not parse(words).acl_ends_sessions
    assert parse(["--acl-ends-sessions", *words]).acl_ends_sessions
    assert parse([*words[:2], "--acl-ends-sessions", *words[2:], "--acl-ends-sessions"]).acl_ends_sessions
    (wrong,) = parse([*words, "--acl-ends-sessions=yes"]).problems
    assert wrong.problem == "this option takes no value: '--acl-ends-sessions=yes'; see mprelay --help."


@pytest.mark.parametrize(
    ("client", "acl", "answer"),
    [
        ("10.1.2.3", "!10.1.0.0/16,ANY", Text("rejected: !10.1.0.0/16\n", 1)),
        ("10.2.2.3", "!10.1.0.0/16,ANY", Text("allowed: ANY\n", 0)),
        ("::ffff:10.0.0.1", "10.0.0.0/8", Text("allowed: 10.0.0.0/8\n", 0)),
        ("2001:db8::1", "10.0.0.0/8", Text("rejected: no entry\n", 1)),
    ],
)
def test_an_acl_can_be_asked(client, acl, answer):
    assert parse(["--acl-test", client, acl]) == answer


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ([], ["arguments"]),
        (["10.0.0.1"], ["arguments"]),
        (["10.0.0.1", "ANY", "x"], ["arguments"]),
        (["x", "ANY"], ["arguments"]),
        (["::1", "10.0.0.1,y"], ["acl", "acl"]),
        (["x", "y"], ["arguments", "acl"]),
    ],
)
def test_a_wrong_question_about_an_acl_is_told(arguments, wrong):
    """Nothing is said of the parameters that such a question does not need."""
    assert [problem.parameter for problem in parse(["--acl-test", *arguments]).problems] == wrong
