"""The sources of the configuration on top of each other: arguments, variables, file, defaults."""

import re
from pathlib import PurePath
from types import MappingProxyType

import pytest

from mprelay.config.cli import Refusal, Text, parse
from mprelay.config.host import Host
from mprelay.config.layers import from_variables
from mprelay.config.parameters import CONFIG_FILE, PARAMETERS, variable_of
from mprelay.config.validation import Config

GOOD = ("8080", "192.0.2.1", "80", "ANY")
VARIABLES = {
    "MPRELAY_FWD_PORT": "8080",
    "MPRELAY_TRG_HOST": "192.0.2.1",
    "MPRELAY_TRG_PORT": "80",
    "MPRELAY_ACL": "10.0.0.0/8",
}
SERVICES = ("MPRELAY", "MPRELAY_METRICS", "MPRELAY_CONTROL")


def host(file="", **variables):
    """A host with these variables, and the same file under any path."""
    text = file.encode()
    return Host(cpus=2, directory="/work", read_file=lambda _path: text, environment=variables)


def of_service(name):
    """The variables that Kubernetes makes for a Service."""
    return {
        f"{name}_SERVICE_HOST": "10.0.0.11",
        f"{name}_SERVICE_PORT": "9100",
        f"{name}_PORT": "tcp://10.0.0.11:9100",
        f"{name}_PORT_9100_TCP": "tcp://10.0.0.11:9100",
        f"{name}_PORT_9100_TCP_PROTO": "tcp",
        f"{name}_PORT_9100_TCP_PORT": "9100",
        f"{name}_PORT_9100_TCP_ADDR": "10.0.0.11",
    }


def made(*argv, file="", **variables):
    """The Config of a command line that is right."""
    config = parse(argv, host(file, **variables))
    assert isinstance(config, Config), config
    return config


def sentences(*argv, file="", **variables):
    """What is wrong."""
    refusal = parse(argv, host(file, **variables))
    assert isinstance(refusal, Refusal), refusal
    return [problem.problem for problem in refusal.problems]


def test_the_order_is_argument_variable_file_default():
    """Each parameter by itself. What a lower source has beside that stays."""
    file = "idle_timeout = 11\nconnect_timeout = 1\nkeepalive = 5"
    argv = (*GOOD, "--config", "f", "--idle-timeout", "13")
    config = made(*argv, file=file, MPRELAY_IDLE_TIMEOUT="12", MPRELAY_CONNECT_TIMEOUT="2")
    assert (config.idle_timeout, config.connect_timeout, config.keepalive, config.max_sessions) == (13, 2, 5, 500)
    assert (config.options["idle_timeout"], config.options["connect_timeout"]) == ("13", "2")
    assert (config.options["keepalive"], config.options["drain_timeout"]) == ("5", "10")


def test_the_required_ones_may_come_from_anywhere():
    config = made("8081", "--config=f", file='trg_port = 80\nacl = "ANY"', MPRELAY_TRG_HOST="192.0.2.9")
    assert (config.fwd_port, config.trg_host, config.trg_port) == (8081, "192.0.2.9", 80)
    assert config.acl[0].written == "ANY"


def test_what_a_lower_source_has_is_not_judged():
    """It has no effect, wrong as it is, and not even its type counts."""
    file = 'idle_timeout = "x"\nworkers = true\nacl = "nobody"'
    assert made(*GOOD, "--config", "f", "--workers", "2", file=file, MPRELAY_IDLE_TIMEOUT="5").workers == 2
    (wrong,) = sentences(*GOOD, "--config", "f", "--workers", "2", file=file)
    assert wrong.startswith("<i t/o> or --idle-timeout 'x' in line 1 of 'f' must be")


def test_a_position_beside_the_same_in_the_file_is_no_error():
    """Twice is wrong only on the command line itself."""
    assert made(*GOOD, "2", "--config", "f", file="connect_timeout = 1").connect_timeout == 2
    (wrong,) = sentences(*GOOD, "2", "--connect-timeout", "2", "--config", "f", file="connect_timeout = 1")
    assert "by position ('2') and by option" in wrong


def test_a_wrong_value_names_its_variable():
    (wrong,) = parse(GOOD, host(MPRELAY_CONNECT_TIMEOUT="9")).problems
    assert (
        wrong.problem == "<c t/o> or --connect-timeout '9' in MPRELAY_CONNECT_TIMEOUT must be a whole number of "
        "seconds from 1 to 3."
    )
    assert (wrong.parameter, wrong.value, wrong.message.msg_id) == ("connect_timeout", "9", 6)


@pytest.mark.parametrize("text", ["10M", "1:30", "1.5h", "1h30m", "5 m", "٣m", "1_0s", "1e5"])
def test_units_are_the_same_everywhere(text):
    """By option, variable and file alike: the same problem, but for its place."""
    by_option = sentences(*GOOD, "--idle-timeout", text)
    assert len(by_option) == 1
    for place, found in (
        ("MPRELAY_IDLE_TIMEOUT", sentences(*GOOD, MPRELAY_IDLE_TIMEOUT=text)),
        ("line 1 of 'f'", sentences(*GOOD, "--config", "f", file=f'idle_timeout = "{text}"')),
    ):
        assert [sentence.replace(f" in {place}", "") for sentence in found] == by_option
        assert f" in {place} " in found[0]


def test_an_empty_variable_is_not_given():
    """Above all an empty list takes no list away, and lets nobody in."""
    empty = {variable_of(parameter): "" for parameter in (*PARAMETERS, CONFIG_FILE)}
    assert from_variables(empty).given == {}
    config = made(*GOOD[:3], "--config", "f", file='acl = "10.0.0.0/8"\naccept_proxy = "192.0.2.1/32"', **empty)
    assert config.acl[0].written == "10.0.0.0/8"
    assert not config.acl[1].acl.decide("192.0.2.1")[0]
    assert config.accept_proxy is not None
    assert sentences(*GOOD[:3], **empty) == ["<ACL> is missing."]


def test_unknown_variables_are_ignored():
    assert made(*GOOD, MPRELAY_NO_SUCH_OPTION="1", MPRELAY_="1", mprelay_workers="x").workers == 2


@pytest.mark.parametrize("service", SERVICES)
def test_the_variables_of_a_kubernetes_service_change_nothing(service):
    """Neither a start nor the help of a call without arguments."""
    assert made(*GOOD, **of_service(service)) == made(*GOOD)
    assert parse((), host(**of_service(service))) == parse((), host())


def test_no_parameter_has_the_name_of_such_a_variable():
    """Whatever the ports of these Services are called."""
    made_by_service = re.compile(rf"({'|'.join(SERVICES)})_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_.*)?)")
    for parameter in (*PARAMETERS, CONFIG_FILE):
        assert made_by_service.fullmatch(variable_of(parameter)) is None


@pytest.mark.parametrize(("text", "on"), [("true", True), ("false", False)])
def test_a_flag_is_true_or_false(text, on):
    """The higher source wins: a variable can take back what the file says, and the option what it says."""
    file = f"acl_ends_sessions = {'false' if on else 'true'}"
    config = made(*GOOD, "--config", "f", file=file, MPRELAY_ACL_ENDS_SESSIONS=text)
    assert config.acl_ends_sessions is on
    assert config.options["acl_ends_sessions"] == text
    assert made(*GOOD, "--acl-ends-sessions", MPRELAY_ACL_ENDS_SESSIONS=text).acl_ends_sessions
    (wrong,) = sentences(*GOOD, MPRELAY_ACL_ENDS_SESSIONS="yes")
    assert wrong == "--acl-ends-sessions 'yes' in MPRELAY_ACL_ENDS_SESSIONS must be one of true, false."


def test_labels_of_all_sources_are_put_together():
    """Of those with the same key the highest wins. A key that one source gives twice is an error."""
    file = '[label]\nowner = "file"\nticket = "file"\nteam = "file"'
    argv = (*GOOD, "--config", "f", "--label", "owner=argument", "--label", "more=a=b")
    config = made(*argv, file=file, MPRELAY_LABEL="ticket=variable\nowner=variable\n\n")
    assert config.labels == {"owner": "argument", "more": "a=b", "ticket": "variable", "team": "file"}
    assert made(*GOOD, MPRELAY_LABEL="a=\u20281\x0b\nb=").labels == {"a": "\u20281\x0b", "b": ""}
    (wrong,) = sentences(*GOOD, MPRELAY_LABEL="a=1\na=2")
    assert wrong == "--label 'a=2' in MPRELAY_LABEL must not give a key for the second time."


def test_a_wrong_label_is_told_in_whatever_source_it_is():
    found = sentences(*GOOD, "--config", "f", "--label", "ticket=1", file="label = [true]", MPRELAY_LABEL="odd")
    assert found == [
        "--label 'true' in line 1 of 'f' must be a string, not a boolean.",
        "--label 'odd' in MPRELAY_LABEL must be KEY=VALUE.",
    ]


MOMENT = "2027-01-01T00:00:00Z"
LATER = "2028-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("argv", "variables", "file", "expected"),
    [
        (["--absolute-timeout", "60"], {}, f"expires_at = {MOMENT}", (60, None)),
        (["--expires-at", MOMENT], {}, "absolute_timeout = 60", (0, 1798761600.0)),
        (["--expires-at", MOMENT], {}, "absolute_timeout = true", (0, 1798761600.0)),
        (["--expires-at", MOMENT], {"MPRELAY_EXPIRES_AT": LATER}, "absolute_timeout = 60", (0, 1798761600.0)),
        ([], {"MPRELAY_ABSOLUTE_TIMEOUT": "1m"}, f"expires_at = {MOMENT}", (60, None)),
        (["3", "300", "0", "auto"], {}, f"expires_at = {MOMENT}", (0, 1798761600.0)),
        (["--absolute-timeout", "0h"], {}, f"expires_at = {MOMENT}", (0, 1798761600.0)),
        (["--absolute-timeout", "0"], {}, "absolute_timeout = 60", (0, None)),
    ],
)
def test_the_higher_of_two_ways_to_expire_wins(argv, variables, file, expected):
    """The options of relay.active follow. A timeout of 0 takes no moment away."""
    config = made(*GOOD, *argv, "--config", "f", file=file, **variables)
    assert (config.absolute_timeout, config.expires_at) == expected
    shown = config.options["absolute_timeout"]
    assert shown == {60: ("1m" if variables else "60")}.get(expected[0], shown)
    assert shown.startswith("0") == (expected[0] == 0)


def test_both_ways_in_one_source_stay_an_error():
    (wrong,) = sentences(*GOOD, "--config", "f", file=f"absolute_timeout = 60\nexpires_at = {MOMENT}")
    assert wrong == (
        f"--expires-at '{MOMENT.replace('Z', '+00:00')}' in line 2 of 'f' must not be given beside an absolute "
        "timeout."
    )


@pytest.mark.parametrize("wrong", [["--absolute-timeout", "x"], ["--absolute-timeout"]])
def test_a_wrong_timeout_is_told_whatever_it_takes_the_place_of(wrong):
    (told,) = sentences(*GOOD, "--config", "f", *wrong, file=f"expires_at = {MOMENT}")
    assert "--absolute-timeout" in told


def test_without_arguments_the_variables_may_be_meant():
    """The file, or one that is required. Then all that is missing is told."""
    assert isinstance(made(**VARIABLES), Config)
    assert isinstance(
        made(
            file="\n".join(f'{name[8:].lower()} = "{VARIABLES[name]}"' for name in VARIABLES), MPRELAY_CONFIG="f"
        ),
        Config,
    )
    assert sentences(MPRELAY_FWD_PORT="8080", MPRELAY_TRG_PORT="80") == [
        "<trg host> is missing.",
        "<ACL> is missing.",
    ]
    for others in ({}, {"MPRELAY_WORKERS": "2"}, {"MPRELAY_CONFIG": "", "MPRELAY_ACL": ""}):
        shown = parse((), host(**others))
        assert isinstance(shown, Text)
        assert shown.code == 2


def test_the_file_may_be_named_by_a_variable():
    """The option wins, and there is one file."""
    files = {"/work/a": b"workers = 3", "/etc/b": b"workers = 4"}
    where = Host(
        directory="/work",
        read_file=lambda path: files[PurePath(path).as_posix()],
        environment={"MPRELAY_CONFIG": "/etc/b"},
    )
    assert parse(GOOD, where).workers == 4
    assert parse((*GOOD, "--config", "a"), where).workers == 3
    (wrong,) = parse((*GOOD, "--config", "a", "--config", "/etc/b"), where).problems
    assert wrong.problem == "--config '/etc/b' is one file too many."


def test_an_environment_is_never_changed():
    frozen = MappingProxyType(dict(VARIABLES))
    assert isinstance(parse((), Host(environment=frozen)), Config)
