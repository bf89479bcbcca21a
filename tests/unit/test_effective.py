"""``--check``: what is in force as TOML, which as the configuration file means the same again."""

import tomllib
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.config.cli import Refusal, Text, parse
from mprelay.config.host import Host
from mprelay.config.parameters import PARAMETERS
from mprelay.config.validation import Config

GOOD = ("8080", "192.0.2.1", "80", "ANY")
RULES = {"/work/rules": b"10.0.0.0/8\n", "/work/\udcff": b"ANY\n"}


def host(file=None, **variables):
    files = RULES if file is None else RULES | {"/elsewhere/f": file.encode()}
    return Host(
        cpus=3,
        directory="/work",
        read_file=lambda path: files[PurePath(path).as_posix()],
        look_up=lambda _name: (["192.0.2.5"], "NODATA"),
        environment=variables,
        cannot_seal=lambda: None,
        load_key=lambda path: f"the key in {path}",
    )


def checked(*argv, **variables):
    shown = parse((*argv, "--check"), host(**variables))
    assert isinstance(shown, Text), shown
    assert shown.code == 0
    return shown.text


def test_everything_in_force_is_shown():
    """As typed, or by default; what is not given and has no default is left out."""
    assert tomllib.loads(
        checked(*GOOD, "--drain-timeout", "0.5", "--idle-timeout=30m", MPRELAY_LABEL="a b=c")
    ) == {
        "fwd_port": 8080,
        "trg_host": "192.0.2.1",
        "trg_port": 80,
        "acl": ["ANY"],
        "connect_timeout": 3,
        "idle_timeout": "30m",
        "absolute_timeout": 0,
        "buffer": "auto",
        "workers": 3,
        "max_sessions": 500,
        "acl_ends_sessions": False,
        "max_per_client": 0,
        "session_timeout": 0,
        "exit_idle": 0,
        "resolve": 0,
        "keepalive": 0,
        "log_format": "auto",
        "log_detail": "full",
        "drain_timeout": 0.5,
        "stats_interval": 60,
        "max_extend": 0,
        "progress_interval": 0,
        "tcp_info": False,
        "seal": False,
        "label": {"a b": "c"},
    }


def test_files_are_named_by_their_absolute_paths():
    """The output may be kept in another folder."""
    assert tomllib.loads(checked(*GOOD[:3], "!10.1.0.0/16,@rules"))["acl"] == [
        "!10.1.0.0/16",
        f"@{PurePath('/work/rules')}",
    ]


def test_the_workers_follow_from_the_sessions():
    where = Host(cpus=1, sessions_per_worker=254)
    assert "workers = 5\n" in parse((*GOOD, "--check", "--max-sessions", "1270"), where).text


@pytest.mark.parametrize(
    ("acl", "wrong"),
    [("@\udcff", "is not UTF-8, and a configuration file is"), ("@rules", "has a comma in its path")],
)
def test_what_toml_cannot_have_is_told(acl, wrong):
    """Only a path can be such. A start accepts it."""
    where = host()
    if acl == "@rules":
        where = where._replace(directory="/a,b", read_file=lambda _path: b"ANY")
    assert isinstance(parse((*GOOD[:3], acl), where), Config)
    (problem,) = parse((*GOOD[:3], acl, "--check"), where).problems
    assert problem.parameter == "acl"
    assert wrong in problem.problem


def test_what_is_wrong_is_told_as_at_a_start():
    argv = ("8080", "--workers", "0", "--idel-timeout=3")
    assert parse((*argv, "--check"), host()) == parse(argv, host())
    (wrong,) = parse((*GOOD, "--check=1"), host()).problems
    assert wrong.problem == "this option takes no value: '--check=1'; see mprelay --help."


SECONDS = st.from_regex(r"\A(0|[1-9][0-9]{0,3}|0[0-9]?|[0-9]{0,3}\.[0-9]{1,9}|[0-9]\.)[smhd]?\Z")
ADDRESS = st.sampled_from(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.3", "db.example", "1e5"])
TEXTS = {
    "fwd_port": st.integers(1, 65535).map(str) | st.just("0080"),
    "trg_host": ADDRESS,
    "trg_port": st.integers(1, 65535).map(str),
    "acl": st.lists(
        st.sampled_from(["ANY", "any", "!10.1.0.0/16", "::/0", "@rules", "@/work/rules"]), min_size=1
    ).map(",".join),
    "connect_timeout": st.sampled_from(["1", "2s", "3", "03"]),
    "idle_timeout": st.sampled_from(["1", "30m", "1800s"]),
    "absolute_timeout": st.sampled_from(["0", "1d", "60", "00"]),
    "expires_at": st.sampled_from(["2026-12-31t18:00:00z", "2026-12-31 18:00:00.123456789-05:30"]),
    "buffer": st.sampled_from(["auto", "100", "0200"]),
    "workers": st.integers(1, 64).map(str),
    "max_sessions": st.integers(1, 1_000_000).map(str),
    "acl_ends_sessions": st.sampled_from(["true", "false"]),
    "max_per_client": st.integers(0, 1_000_000).map(str),
    "max_rate": st.sampled_from(["10/1m", "1/0.5"]),
    "session_timeout": SECONDS,
    "exit_idle": SECONDS,
    "resolve": SECONDS,
    "source": st.just("192.0.2.7"),
    "proxy_protocol": st.sampled_from(["v1", "v2"]),
    "accept_proxy": st.sampled_from(["192.0.2.8/32", "10.0.0.0/8,2001:db8::/32"]),
    "keepalive": st.sampled_from(["0", "5m", "32767"]),
    "bind": ADDRESS,
    "log_format": st.sampled_from(["auto", "json", "text"]),
    "log_detail": st.sampled_from(["full", "session"]),
    "label": st.text().map(lambda text: f"{text or 'x'}={text}").filter(lambda text: "\0" not in text),
    "drain_timeout": SECONDS,
    "control": st.just("/run/c"),
    "max_extend": SECONDS,
    "metrics": st.sampled_from(["9100", "127.0.0.1:9100", "[0::1]:9100"]),
    "stats_interval": SECONDS,
    "progress_interval": SECONDS,
    "tcp_info": st.sampled_from(["true", "false"]),
    "seal": st.sampled_from(["true", "true", "false"]),
    "seal_key": st.just(str(PurePath("/own.key"))),
    "checkpoint_to": st.just(str(PurePath("/notes"))),
}


def test_a_control_socket_is_named_by_its_absolute_path():
    """The file may be read from another directory."""
    assert tomllib.loads(checked(*GOOD, "--control", "run/c"))["control"] == "/work/run/c"


def test_files_of_the_seal_are_named_by_their_absolute_paths():
    """A key is named from where its name stands, as any file is."""
    made = tomllib.loads(checked(*GOOD, "--seal", "--seal-key", "own.key", "--checkpoint-to", "./notes"))
    assert (made["seal_key"], made["checkpoint_to"]) == (
        str(PurePath("/work/own.key")),
        str(PurePath("/work/notes")),
    )


def test_each_parameter_is_tried_below():
    assert set(TEXTS) == {parameter.name for parameter in PARAMETERS}


REQUIRED = {name: TEXTS[name] for name in ("fwd_port", "trg_host", "trg_port", "acl")}
OTHERS = {name: TEXTS[name] for name in TEXTS if name not in REQUIRED}


@given(st.fixed_dictionaries(REQUIRED, optional=OTHERS))
def test_the_output_is_a_fixed_point(texts):
    """Given as the file it makes the same configuration, and the same output."""
    variables = {f"MPRELAY_{name.upper()}": text for name, text in texts.items()}
    variables["MPRELAY_LABEL"] = ""
    labels = [f"--label={texts['label']}"] if "label" in texts else []
    config = parse(labels, host(**variables))
    shown = parse([*labels, "--check"], host(**variables))
    if isinstance(config, Refusal):
        assert shown == config
        return
    assert isinstance(shown, Text)
    again = host(shown.text)
    assert parse(("--check", "--config", "/elsewhere/f"), again) == shown
    back = parse(("--config", "/elsewhere/f"), again)
    for name in Config.__slots__:
        if name != "acl":
            assert getattr(back, name) == getattr(config, name), name
    assert back.acl[0].items == config.acl[0].items
    assert back.acl[1].digests == config.acl[1].digests
