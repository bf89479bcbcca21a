"""The table of parameters and its validation: each bound from both sides, and a problem for every wrong value."""

import re
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.config import validation
from mprelay.config.host import UNKNOWN_HOST, Host
from mprelay.config.parameters import LABELS_LIMIT, PARAMETERS
from mprelay.config.parsers import UNITS, seconds, whole_seconds
from mprelay.config.sources import ARGUMENT, Given, Source
from mprelay.config.targets import Target
from mprelay.config.validation import Config
from mprelay.core.answers import Answer

NO_DURATIONS = [
    *["-1", "0.5", "x", "99999999999", "", "s", "0.5h", "1.0m", "36601d", "99999999999d"],
    *[
        "1h30m",
        "1H",
        "1 h",
        " 1h",
        "1h ",
        "h1",
        "1hh",
        "1w",
        "1y",
        "1ms",
        "+1h",
        "1_0m",
        "1e3s",
        "٣m",
        "9" * 5000 + "s",
    ],
]
GOOD = {"fwd_port": ["8080"], "trg_host": ["192.0.2.1"], "trg_port": ["80"], "acl": ["ANY"]}


def validate(texts, host=UNKNOWN_HOST, source=ARGUMENT):
    """Validate texts by the names of their parameters."""
    return validation.validate({name: [Given(text, source) for text in texts[name]] for name in texts}, host)


def only_problem(**wrong):
    _, problems = validate(GOOD | wrong)
    assert len(problems) == 1
    return problems[0]


def test_defaults_are_those_of_the_documents():
    """Each optional parameter has the default of docs/parameters.md."""
    values, problems = validate(GOOD)
    assert problems == []
    made = Config(**values)
    assert (made.fwd_port, made.trg_host, made.trg_port, made.acl[0].written) == (8080, "192.0.2.1", 80, "ANY")
    assert (made.connect_timeout, made.idle_timeout, made.absolute_timeout) == (3, 300, 0)
    assert made.buffer is None
    assert made.workers == 1
    assert made.max_sessions == 500
    assert made.bind is None
    assert (made.log_format, made.log_detail) == ("auto", "full")
    assert made.labels == {}
    assert (made.drain_timeout, made.stats_interval, made.progress_interval) == (10, 60, 0)


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (3, 3), (8, 8), (9, 8), (512, 8)])
def test_as_many_workers_as_the_host_has_cpus(cpus, workers):
    """There are at most eight, unless the user asks for more."""
    host = Host(cpus=cpus)
    assert validate(GOOD, host)[0]["workers"] == workers
    assert validate(GOOD | {"workers": ["64"]}, host)[0]["workers"] == 64


@pytest.mark.parametrize(
    ("cpus", "given", "workers"),
    [
        (1, {}, 2),
        (8, {}, 8),
        (1, {"max_sessions": ["254"]}, 1),
        (1, {"max_sessions": ["255"]}, 2),
        (2, {"max_sessions": ["2540"]}, 10),
        (1, {"max_sessions": ["16256"]}, 64),
        (1, {"max_sessions": ["508"], "workers": ["2"]}, 2),
    ],
)
def test_as_many_workers_as_hold_the_sessions(cpus, given, workers):
    """The default rises where a worker holds only so many. Its own limit stays."""
    values, problems = validate(GOOD | given, Host(cpus=cpus, sessions_per_worker=254))
    assert problems == []
    assert values["workers"] == workers


TOO_MANY_SESSIONS = (
    "--max-sessions '20000' must be at most 16256: 64 workers are the most, and each holds at most 254 sessions."
)


def too_few_workers(given, least, held, sessions):
    """The problem of a number of workers."""
    each = f"each worker holds at most 254 sessions, which makes {held}"
    return f"--workers '{given}' must be at least {least}: {each}, not the {sessions} of --max-sessions."


@pytest.mark.parametrize(
    ("given", "parameter", "problem"),
    [
        ({"workers": ["2"], "max_sessions": ["600"]}, "workers", too_few_workers(2, 3, 508, 600)),
        ({"workers": ["1"]}, "workers", too_few_workers(1, 2, 254, 500)),
        ({"max_sessions": ["20000"]}, "max_sessions", TOO_MANY_SESSIONS),
        ({"workers": ["3"], "max_sessions": ["20000"]}, "max_sessions", TOO_MANY_SESSIONS),
    ],
)
def test_workers_that_cannot_hold_the_sessions_are_refused(given, parameter, problem):
    """The message has the arithmetic."""
    _values, (wrong,) = validate(GOOD | given, Host(cpus=1, sessions_per_worker=254))
    assert (wrong.parameter, wrong.problem) == (parameter, problem)
    assert wrong.value == given[parameter][-1]


@pytest.mark.parametrize("given", [{"workers": ["x"]}, {"max_sessions": ["x"]}])
def test_a_number_that_is_none_is_all_that_is_wrong(given):
    """Nobody can say then whether the pair fits."""
    _values, (wrong,) = validate(GOOD | given, Host(cpus=1, sessions_per_worker=254))
    assert wrong.parameter in given


def test_workers_that_cannot_even_hold_the_default_are_refused():
    """There is no such system. The record names the parameter, although nobody gave it."""
    _values, (wrong,) = validate(GOOD, Host(cpus=1, sessions_per_worker=7))
    assert (wrong.parameter, wrong.value) == ("max_sessions", None)


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
            ["1.2.3.4", "::1", "169.254.1.1", "223.255.255.255", "240.0.0.1", "::ffff:1.2.3.4", "fec0::1"],
            [
                *["", "x", "localhost", "1.2.3", "1.2.3.4.5", "[::1]", "fe80::1%lo", "1.2.3.4/8"],
                *["0.0.0.0", "::", "::ffff:0.0.0.0", "::0"],  # noqa: S104 - refused
                *["224.0.0.1", "239.255.255.255", "::ffff:224.0.0.1", "ff02::1", "ff0e::1"],
                *["255.255.255.255", "::ffff:255.255.255.255", "fe80::1", "febf::1"],
            ],
        ),
        ("trg_port", 4, ["1", "65535"], ["0", "65536", "http"]),
        ("acl", 5, ["any", "10.0.0.0/8", "!::/0,any"], ["10.0.0.1", "10.0.0.1/0.0.0.255", "", "@", "any,"]),
        ("connect_timeout", 6, ["1", "3", "3s"], ["0", "4", "1.5", "4s", "0m", "1m", "1.0s"]),
        (
            "idle_timeout",
            7,
            ["1", "1800", "30m", "1800s"],
            ["0", "1801", "x", "31m", "1h", "30M", "0.5m", "m", "1ms"],
        ),
        ("buffer", 8, ["100", "4000", "auto"], ["99", "4001", "AUTO", "", "1e3"]),
        ("absolute_timeout", None, ["0", "1", "86400", "2h", "1d", "36600d"], NO_DURATIONS),
        ("workers", None, ["1", "64"], ["0", "65", "two"]),
        ("max_sessions", None, ["1", "10000"], ["0", "-5", "1000001"]),
        ("bind", None, ["127.0.0.1", "::"], ["localhost", "eth0", "::1%lo", ""]),
        ("log_format", None, ["auto", "json", "text", "ecs", "ocsf", "gcp"], ["xml", "JSON", "ECS", ""]),
        ("log_detail", None, ["full", "session"], ["none", ""]),
        ("label", None, ["a=b", "a=", "a=b=c", "ü=ö"], ["a", "=b", "", "a\udcff=b", "a=\udcff"]),
        (
            "drain_timeout",
            None,
            ["0", "10", "0.5", "1.5m", ".5h", "36600d"],
            [
                "s",
                ".s",
                "1h30m",
                "1M",
                "1 m",
                "36601d",
                "-1",
                "x",
                "",
                "inf",
                "nan",
                "1e3",
                "1.2.3",
                "99999999999",
            ],
        ),
        (
            "expires_at",
            None,
            [
                "2026-12-31T18:00:00+01:00",
                "2026-12-31t18:00:00z",
                "2026-12-31 18:00:00Z",
                "2026-12-31T18:00:00.123456789-00:00",
                "1970-01-01T00:00:00Z",
                "9999-12-31T00:00:00Z",
            ],
            [
                "2026-12-01",
                "2026-12-01T12:00:00",
                "20261201T120000Z",
                "2026-W48-3T12:00:00Z",
                "2026-12-01T12:00:00+10:60",
                "2026-12-01T12:00:00+24:00",
                "2026-12-01T12:00:00+1000",
                "2026-12-01T12:00Z",
                "2026-12-31T23:59:60Z",
                "2026-12-01T24:00:00Z",
                "2026-02-29T12:00:00Z",
                "2026-12-01T12:00:00.Z",
                "2026-12-01T12:00:00,5Z",
                "1969-12-31T23:59:59Z",
                "0000-01-01T00:00:00Z",
                "9999-12-31T23:59:59-01:00",
                "\u0662026-12-01T12:00:00Z",
                "tomorrow",
                "1798736400",
            ],
        ),
        ("max_per_client", None, ["0", "1", "1000000"], ["-1", "1000001", "x", "1/2"]),
        (
            "max_rate",
            None,
            ["1/1", "10/60", "100/1m", "5/0.5", "1000000/1d"],
            ["0/1", "1/0", "5", "/5", "5/", "1/2/3", "x/1", "1/-1", "1.5/2", "1000001/1"],
        ),
        ("session_timeout", None, ["0", "0.5", "8h"], ["-1", "x"]),
        ("exit_idle", None, ["0", "10m"], ["-1", "x"]),
        ("resolve", None, ["0", "0.1", "30s", "1d"], ["-1", "0.09", "0.05s", "often", ""]),
        ("source", None, ["127.0.0.1"], ["localhost", "eth0", "127.0.0.1/8"]),
        ("proxy_protocol", None, ["v1", "v2"], ["", "1", "V1", "v3", "none"]),
        (
            "accept_proxy",
            None,
            ["192.0.2.1/32", "10.0.0.0/255.0.0.0,2001:db8::/32", "0.0.0.0/1"],
            [
                "0.0.0.0/0",
                "::/0",
                "::ffff:0.0.0.0/96",
                "192.0.2.1",
                "ANY",
                "!192.0.2.0/24",
                "@proxies",
                "x" * 101,
            ],
        ),
        ("keepalive", None, ["0", "1", "32767", "1m"], ["0.5", "32768", "x"]),
        (
            "control",
            None,
            ["/run/mprelay/control", "control", "./a b", "/" + "x" * 106],
            ["", "/", "/run/", "a\0b", "a\udcff", "a\nb", "\ud800", "/" + "x" * 107],
        ),
        ("max_extend", None, ["0", "1h", "0.5"], ["-1", "x"]),
        (
            "metrics",
            None,
            ["9100", "127.0.0.1:9100", "[::1]:65535", "0.0.0.0:1", "[::]:9100", "[::ffff:192.0.2.1]:9100"],
            [
                *("", "0", "65536", ":9100", "127.0.0.1", "127.0.0.1:", "127.1:9100", "localhost:9100", "+1"),
                *("::1:9100", "[127.0.0.1]:9100", "[::1]", "[fe80::1%eth0]:9100", "[]:9100", "1.2.3.4:99999"),
            ],
        ),
        ("stats_interval", None, ["0", "60", "0.01", "0d"], ["-0.1", "never", "0.001", "0.001s"]),
        ("progress_interval", None, ["0", "60", "0.01", "1.5m"], ["-0.1", "never", "0.009", "0.001s"]),
    ],
)
def test_bounds(name, msg_id, good, bad):
    """A value just inside is accepted. A value outside is one problem that names it."""
    for text in good:
        assert validate(GOOD | {name: [text]})[1] == []
    for text in bad:
        wrong = only_problem(**{name: [text]})
        assert (wrong.parameter, wrong.value, wrong.message.msg_id) == (name, text, msg_id)
        assert wrong.problem


SEALING = Host(directory="/work", cannot_seal=lambda: None, load_key=lambda path: f"the key in {path}")


def test_a_log_is_sealed_where_the_library_is():
    """What is missing is said, once for each parameter that needs it."""
    made, problems = validate(GOOD | {"seal": ["true"], "seal_key": ["k"], "checkpoint_to": ["n"]}, SEALING)
    assert problems == []
    assert made["seal"]
    key, notes = (str(PurePath("/work", name)) for name in "kn")
    assert made["seal_key"] == (key, f"the key in {key}")
    assert made["checkpoint_to"] == notes
    without = SEALING._replace(cannot_seal=lambda: "needs something")
    assert validate(GOOD | {"seal": ["false"]}, without)[1] == []
    _, problems = validate(GOOD | {"seal": ["true"], "seal_key": ["k"]}, without)
    assert [(one.parameter, one.problem) for one in problems] == [
        ("seal", "--seal needs something."),
        ("seal_key", "--seal-key 'k' needs something."),
    ]


@pytest.mark.parametrize(
    ("given", "parameter", "wrong"),
    [
        ({"seal": ["true"], "log_format": ["text"]}, "seal", "must not be given with --log-format text"),
        ({"seal_key": ["k"]}, "seal_key", "must not be given without --seal"),
        ({"checkpoint_to": ["n"]}, "checkpoint_to", "must not be given without --seal"),
        ({"seal": ["true"], "checkpoint_to": [""]}, "checkpoint_to", "must be the path of a file"),
        ({"seal": ["true"], "checkpoint_to": ["a\0"]}, "checkpoint_to", "must be the path of a file"),
        ({"seal": ["true"], "seal_key": [""]}, "seal_key", "must be the path of a file"),
    ],
)
def test_what_is_wrong_with_a_seal(given, parameter, wrong):
    _, (problem,) = validate(GOOD | given, SEALING)
    assert problem.parameter == parameter
    assert wrong in problem.problem


@pytest.mark.parametrize(
    ("failure", "wrong"),
    [(OSError(2, "No such file"), "cannot be read: No such file"), (ValueError("is wrong"), "is wrong")],
)
def test_what_is_wrong_with_a_key(failure, wrong):
    def load(_path):
        raise failure

    _, (problem,) = validate(GOOD | {"seal": ["true"], "seal_key": ["k"]}, SEALING._replace(load_key=load))
    assert problem.problem == f"--seal-key 'k' {wrong}."


def test_an_unknown_host_seals_nothing():
    _, problems = validate(GOOD | {"seal": ["true"]})
    assert len(problems) == 1
    with pytest.raises(ValueError, match="not known"):
        UNKNOWN_HOST.load_key("k")


def test_each_parameter_of_the_table_is_tested_above():
    """A new row of the table needs a new row of bounds."""
    (mark,) = [mark for mark in test_bounds.pytestmark if mark.name == "parametrize"]
    others = {"seal_key", "checkpoint_to"}
    tested = {row[0] for row in mark.args[1]} | others
    assert tested == {parameter.name for parameter in PARAMETERS if not parameter.flag}


def test_a_control_socket_is_named_from_the_working_directory():
    """The relay leaves that directory. Where the system does not say who connects, there is no such socket."""
    host = Host(directory="/srv")
    assert validate(GOOD | {"control": ["run/./c"]}, host)[0]["control"] == "/srv/run/c"
    assert validate(GOOD | {"control": ["/run/c"]}, host)[0]["control"] == "/run/c"
    _, (problem,) = validate(GOOD | {"control": ["/run/c"]}, Host(control_path_limit=0))
    assert "Linux" in problem.problem


def test_metrics_are_on_the_loopback_if_nothing_else_is_asked_for():
    """Only there are clients and labels shown."""
    for text, endpoint, loopback in (
        ("9100", ("127.0.0.1", 9100), True),
        ("[::ffff:127.0.0.1]:9100", ("127.0.0.1", 9100), True),
        ("[0::1]:9100", ("::1", 9100), True),
        ("192.0.2.1:9100", ("192.0.2.1", 9100), False),
        ("[::]:9100", ("::", 9100), False),
    ):
        made = validate(GOOD | {"metrics": [text]})[0]["metrics"]
        assert (made, made.is_loopback) == (endpoint, loopback)


def test_metrics_do_not_meet_the_listener():
    """One of the two could not be bound. Which one, nobody could say."""
    port = GOOD["fwd_port"][0]
    for bind, host, meets in (
        (None, "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),  # noqa: S104 - nothing is bound
        ("::", "127.0.0.1", True),
        ("192.0.2.1", "127.0.0.1", False),
    ):
        given_bind = {} if bind is None else {"bind": [bind]}
        for metrics, wrong in ((f"{host}:{port}", meets), (f"{host}:{int(port) + 1}", False)):
            problems = validate(GOOD | given_bind | {"metrics": [metrics]})[1]
            assert [one.parameter for one in problems] == ["metrics"] * wrong


def test_every_wrong_value_is_reported_and_not_only_the_first():
    """All are reported together, missing parameters included."""
    _, problems = validate({"fwd_port": ["0"], "trg_host": ["::g"], "idle_timeout": ["0"], "workers": ["0"]})
    assert [(p.parameter, p.value) for p in problems] == [
        ("fwd_port", "0"),
        ("trg_host", "::g"),
        ("trg_port", None),
        ("acl", None),
        ("idle_timeout", "0"),
        ("workers", "0"),
    ]


def test_a_problem_has_the_source_of_the_value():
    """The sentence names the source, unless it is the command line. A missing value has no source."""
    line = Source("line 4 of mprelay.toml")
    texts = {"fwd_port": ["8080"], "trg_port": ["0"], "workers": ["many"], "label": ["a=1", "a=2"]}
    _, problems = validate(texts, source=line)
    wrong = {problem.parameter: problem for problem in problems}
    assert {name: wrong[name].source for name in wrong} == {
        **dict.fromkeys(("trg_host", "acl")),
        **dict.fromkeys(("trg_port", "workers", "label"), line),
    }
    assert wrong["workers"].problem == (
        "--workers 'many' in line 4 of mprelay.toml must be a whole number from 1 to 64."
    )
    assert wrong["acl"].problem == "<ACL> is missing."
    typed = only_problem(workers=["many"])
    assert typed.source == ARGUMENT
    assert typed.problem == "--workers 'many' must be a whole number from 1 to 64."


def test_a_check_across_parameters_has_the_source_too():
    """Its sentence names the source of the target."""
    line = Source("MPRELAY_TRG_HOST")
    texts = GOOD | {"trg_host": ["127.0.0.1"], "trg_port": ["8080"]}
    (wrong,) = validate(texts, source=line)[1]
    assert wrong.source == line
    assert wrong.problem == (
        "<trg host> '127.0.0.1' in MPRELAY_TRG_HOST and port 8080 are where this relay listens: "
        "it would relay to itself."
    )


def test_where_tcp_tells_nothing_it_is_not_asked():
    """The record says so at the start. A flag has no value that the sentence could name."""
    assert validate(GOOD | {"tcp_info": ["true"]})[0]["tcp_info"] is True
    assert validate(GOOD, Host(tells_paths=False))[1] == []
    _, (wrong,) = validate(GOOD | {"tcp_info": ["true"]}, Host(tells_paths=False))
    assert (wrong.parameter, wrong.value) == ("tcp_info", None)
    assert wrong.problem == "--tcp-info needs Linux: this system does not count the segments that are sent again."


def test_metrics_need_a_library():
    """Nobody looks for it where there are no metrics."""
    assert validate(GOOD | {"metrics": ["9100"]})[1] == []
    assert validate(GOOD, Host(serves_metrics=lambda: pytest.fail("looked for")))[1] == []
    _, (wrong,) = validate(GOOD | {"metrics": ["9100"]}, Host(serves_metrics=lambda: False))
    assert (wrong.parameter, wrong.value) == ("metrics", "9100")
    assert wrong.problem == ("--metrics '9100' needs a library that is missing: pip install 'mprelay[metrics]'.")


def test_labels_are_collected():
    """The option may be repeated."""
    values, _ = validate(GOOD | {"label": ["ticket=CHG-1", "owner=a=b"]})
    assert values["labels"] == {"ticket": "CHG-1", "owner": "a=b"}


def test_a_label_given_twice_is_an_error():
    """A label must not silently replace another. Each repetition is a problem."""
    assert only_problem(label=["a=1", "a=2"]).value == "a=2"
    _, problems = validate(GOOD | {"label": ["a=1", "a=2", "a=3", "b=1", "b=2"]})
    assert [problem.value for problem in problems] == ["a=2", "a=3", "b=2"]


def test_ipv4_is_shown_as_ipv4_however_it_was_written():
    """The mapped form means the same address."""
    values, _ = validate(GOOD | {"trg_host": ["::ffff:192.0.2.1"], "bind": ["::FFFF:7f00:1"]})
    assert (values["trg_host"], values["bind"]) == ("192.0.2.1", "127.0.0.1")


def test_labels_too_large_for_a_record_are_an_error():
    """Every record stays below 4096 bytes, escapes included."""
    fits = "x" * (LABELS_LIMIT - len('{"a": ""}'))
    assert validate(GOOD | {"label": [f"a={fits}"]})[1] == []
    assert str(LABELS_LIMIT) in only_problem(label=[f"a={fits}x"]).problem
    assert only_problem(label=["a=" + "\x01" * 200]).parameter == "label"


@given(
    st.dictionaries(st.sampled_from([p.name for p in PARAMETERS]), st.lists(st.text(), min_size=1, max_size=3))
)
def test_any_texts_make_a_config_or_problems(given_texts):
    """No exception is raised. Without a problem, every required parameter has a value."""
    values, problems = validate(given_texts)
    if not problems:
        made = Config(**values)
        assert None not in (made.fwd_port, made.trg_host, made.trg_port, made.acl)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("0.0.0.0", "unspecified"),  # noqa: S104 - refused
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("::ffff:0:0", "unspecified"),
        ("224.0.0.251", "multicast"),
        ("ff02::fb", "multicast"),
        ("::ffff:224.0.0.251", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::ffff:255.255.255.255", "broadcast"),
        ("fe80::1", "zone"),
        ("fe80::1%eth0", "zone"),
        ("localhost", "IPv4 or IPv6 address"),
    ],
)
def test_the_problem_gives_the_reason_that_a_target_is_invalid(target, reason):
    """The manual's sentence says only that it is invalid."""
    wrong = only_problem(trg_host=[target])
    assert (wrong.message.msg_id, wrong.value) == (3, target)
    assert reason in wrong.problem
    assert target in wrong.problem


def test_a_broadcast_address_of_this_hosts_network_is_refused():
    """Only the system knows these addresses. It is asked about valid IPv4 addresses only, in their plain form."""
    asked = []
    host = Host(is_broadcast=lambda ip: asked.append(ip) or ip == "192.0.2.255")
    for target in ("192.0.2.255", "::ffff:192.0.2.255"):
        (wrong,) = validate(GOOD | {"trg_host": [target]}, host)[1]
        assert (wrong.parameter, wrong.value, wrong.message.msg_id) == ("trg_host", target, 3)
        assert "broadcast" in wrong.problem
    assert validate(GOOD | {"trg_host": ["192.0.2.254"]}, host)[1] == []
    validate(GOOD | {"trg_host": ["2001:db8::1"]}, host)
    validate(GOOD | {"trg_host": ["localhost"]}, host)
    assert asked == ["192.0.2.255", "192.0.2.255", "192.0.2.254"]


OWN = ("192.0.2.1", "127.0.0.1", "2001:db8::1", "::1")


@pytest.mark.parametrize(
    ("target", "bind", "refused"),
    [
        # All addresses, by default or as ::, IPv4 included.
        ("127.0.0.1", None, True),
        ("127.9.9.9", None, True),
        ("::1", None, True),
        ("192.0.2.1", None, True),
        ("::ffff:192.0.2.1", None, True),
        ("2001:DB8:0::1", None, True),
        ("192.0.2.2", None, False),
        ("2001:db8::2", None, False),
        ("127.0.0.1", "::", True),
        ("192.0.2.1", "0::0", True),
        ("2001:db8::1", "::", True),
        ("192.0.2.2", "::", False),
        # All of IPv4.
        ("127.0.0.1", "0.0.0.0", True),  # noqa: S104 - never bound
        ("192.0.2.1", "0.0.0.0", True),  # noqa: S104
        ("192.0.2.1", "::ffff:0.0.0.0", True),
        ("::1", "0.0.0.0", False),  # noqa: S104
        ("2001:db8::1", "0.0.0.0", False),  # noqa: S104
        # A single address: a relay from there to the same port of another address is common.
        ("192.0.2.1", "192.0.2.1", True),
        ("127.0.0.1", "192.0.2.1", False),
        ("192.0.2.1", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("::1", "127.0.0.1", False),
        ("::1", "0:0::1", True),
        ("2001:db8::1", "2001:db8:0:0::1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        # An address without an interface, to which the listener is bound (ip_nonlocal_bind, ip route add local).
        ("192.0.2.2", "192.0.2.2", True),
    ],
)
def test_a_target_that_is_the_own_listener_is_refused(target, bind, refused):
    """One connection would take every slot."""
    typed = GOOD | {"trg_host": [target], "trg_port": GOOD["fwd_port"]}
    if bind is not None:
        typed["bind"] = [bind]
    problems = validate(typed, Host(own_addresses=lambda: OWN))[1]
    assert [(p.parameter, p.value, p.message.msg_id) for p in problems] == [("trg_host", target, 3)] * refused
    assert all("listens" in p.problem for p in problems)


def test_own_addresses_are_listed_only_if_the_ports_are_equal():
    """Listing them may take a while."""

    def ask():
        raise AssertionError

    host = Host(own_addresses=ask)
    assert validate(GOOD | {"trg_host": ["127.0.0.1"]}, host)[1] == []
    assert len(validate({"trg_host": ["127.0.0.1"]}, host)[1]) == 3
    assert len(validate({**GOOD, "fwd_port": ["x"], "trg_port": ["x"]}, host)[1]) == 2


def test_an_unusable_target_is_reported_with_all_other_problems():
    """The check across parameters does not require the others to be right."""
    typed = GOOD | {"trg_host": ["127.0.0.1"], "trg_port": ["8080"], "workers": ["0"], "acl": ["x"]}
    assert sorted(p.parameter for p in validate(typed)[1]) == ["acl", "trg_host", "workers"]


@given(st.integers(0, 10**12), st.sampled_from(sorted(UNITS)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_unit_is_the_same_as_its_seconds(number, unit, low, high):
    """Its bounds are the same, and so is the message for a wrong value."""

    def outcome(parse, text):
        try:
            return parse(text)
        except ValueError as wrong:
            return str(wrong)

    in_seconds = str(number * UNITS[unit])
    for parse in (whole_seconds(low, high), seconds):
        assert outcome(parse, f"{number}{unit}") == outcome(parse, in_seconds) == outcome(parse, in_seconds + "s")


@given(st.decimals(0, 36600, allow_nan=False, places=3), st.sampled_from(sorted(UNITS)))
def test_fractions_may_have_units(number, unit):
    """Half a minute is 30 seconds."""
    assert seconds(f"{number:f}{unit}") == pytest.approx(float(number) * UNITS[unit])


@given(st.text("0123456789.smhdMHD -+_e", max_size=8))
def test_a_duration_is_one_number_and_at_most_one_unit(text):
    """Capitals, blanks and a second unit are wrong. The error says what would be right."""
    right = re.fullmatch(r"(\d+)([smhd]?)", text)
    if right and int(right[1]) * UNITS.get(right[2], 1) <= 10**9:
        assert whole_seconds(0, 10**9)(text) == int(right[1]) * UNITS.get(right[2], 1)
    else:
        with pytest.raises(ValueError, match="90s, 10m, 2h, 1d"):
            whole_seconds(0, 10**9)(text)


@pytest.mark.parametrize(
    ("source", "target", "wrong"),
    [
        ("192.0.2.9", "192.0.2.1", None),
        ("192.0.2.9", "2001:db8::1", "and the target are of two address families: the target is 2001:db8::1"),
        ("0.0.0.0", "192.0.2.1", "is not an address of this host"),  # noqa: S104 - nothing listens
        ("224.0.0.1", "192.0.2.1", "is not an address of this host"),
        ("192.0.2.8", "192.0.2.1", "is not an address of this host"),
        ("192.0.2.9", "nobody", None),  # the target is wrong by itself
    ],
)
def test_a_source_is_an_address_that_can_reach_the_target(source, target, wrong):
    host = Host(can_send_from=lambda ip: ip == "192.0.2.9")
    _, problems = validate(GOOD | {"trg_host": [target], "source": [source]}, host)
    told = [problem.problem for problem in problems if problem.parameter == "source"]
    assert told == ([] if wrong is None else [f"--source {source!r} {wrong}."])


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T01:00:00.25+01:00", 0.25),
        ("2026-12-31T18:00:00-05:30", 1798759800.0),
    ],
)
def test_a_moment_of_the_wall_clock(text, at):
    values, problems = validate(GOOD | {"expires_at": [text]})
    assert (values["expires_at"], problems) == (at, [])


def test_an_expiry_is_given_in_one_way():
    """An absolute timeout of 0 is none: BUF may stand behind it."""
    moment = ["2026-12-31T18:00:00Z"]
    _, (problem,) = validate(GOOD | {"expires_at": moment, "absolute_timeout": ["60"]})
    assert problem.parameter == "expires_at"
    assert not validate(GOOD | {"expires_at": moment, "absolute_timeout": ["0"]})[1]


KNOWN = Host(
    look_up=lambda name: (["192.0.2.5"], ["2001:db8::5"]) if name == "db.example" else ("SERVFAIL", "SERVFAIL")
)


def test_a_name_is_looked_up_if_it_is_to_be_resolved():
    """What is asked again later, and the first answer, are with the configuration."""
    values, problems = validate(GOOD | {"trg_host": ["db.example"], "resolve": ["30"], "bind": ["::1"]}, KNOWN)
    assert problems == []
    made = Config(**values)
    assert (made.trg_host, made.resolve) == ("db.example", 30)
    assert made.target == Target("db.example", 80, 8080, "::1", None)
    assert made.answer == Answer(("192.0.2.5",), ("2001:db8::5",))


def test_an_address_is_never_looked_up():
    values, problems = validate(GOOD | {"resolve": ["30"]}, KNOWN)
    assert (values["target"], values["answer"], problems) == (None, Answer.of("192.0.2.1"), [])


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({}, "must be an IPv4 or IPv6 address; a name needs --resolve"),
        ({"resolve": ["0"]}, "must be an IPv4 or IPv6 address; a name needs --resolve"),
        ({"resolve": ["30"]}, "gives no address: the server has failed (SERVFAIL)"),
    ],
)
def test_a_name_without_an_address_is_message_3(options, wrong):
    values, (problem,) = validate(GOOD | {"trg_host": ["no.example"]} | options, KNOWN)
    assert problem.problem == f"<trg host> 'no.example' {wrong}."
    assert problem.message.msg_id == 3
    assert values["trg_host"] == "no.example"


def test_nothing_is_looked_up_if_something_else_is_wrong():
    """It might take seconds."""

    def never(name):
        raise AssertionError(name)

    wrong = {"trg_host": ["db.example"], "resolve": ["30"], "workers": ["0"]}
    _, problems = validate(GOOD | wrong, Host(look_up=never))
    assert [problem.parameter for problem in problems] == ["workers"]


def test_a_source_has_the_family_of_one_address_at_least():
    """The others are left out."""
    named = {"trg_host": ["db.example"], "resolve": ["30"], "source": ["192.0.2.9"]}
    values, problems = validate(GOOD | named, KNOWN)
    assert problems == []
    assert values["answer"].addresses == ("192.0.2.5",)
