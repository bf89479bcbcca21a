"""The configuration file: what is taken from TOML, and a clear error for everything else."""

import errno
from datetime import UTC, timedelta, timezone
from pathlib import Path, PurePath

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mprelay.config.cli import Refusal, parse
from mprelay.config.host import Host
from mprelay.config.parameters import PARAMETERS
from mprelay.config.toml import UNKNOWN_LIMIT
from mprelay.config.validation import Config
from mprelay.core.texts import QUOTE_LIMIT

GOOD = ("8080", "192.0.2.1", "80", "ANY")
FILE = "/work/f"


def parsed(file, *argv, quotes=True, files=None):
    """Parse a command line with this file, which is text or bytes."""
    data = file if isinstance(file, bytes) else file.encode()
    known = {FILE: data, **(files or {})}

    def read_file(path):
        if (name := PurePath(path).as_posix()) not in known:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return known[name]

    return parse((*argv, "--config", "f"), Host(directory="/work", read_file=read_file, quotes_files=quotes))


def problems(file, *argv, **options):
    refusal = parsed(file, *(argv or GOOD), **options)
    assert isinstance(refusal, Refusal), refusal
    return refusal.problems


def only(file, *argv, **options):
    (problem,) = problems(file, *argv, **options)
    return problem.problem


def config(file, *argv, **options):
    made = parsed(file, *(argv or GOOD), **options)
    assert isinstance(made, Config), made
    return made


def test_every_parameter_may_stand_in_the_file():
    """Those by position too."""
    made = parsed(
        """
        fwd_port = 8080
        trg_host = "192.0.2.1"
        trg_port = "80"
        acl = ["!10.1.0.0/16", "10.0.0.0/8"]
        connect_timeout = 1
        idle_timeout = "30m"
        absolute_timeout = 0
        expires_at = 2026-12-31T18:00:00.5+01:00
        buffer = "auto"
        workers = 0x10
        max_sessions = 1_000
        acl_ends_sessions = true
        max_per_client = 5
        max_rate = "10/1m"
        session_timeout = 0.5
        exit_idle = 60.0
        resolve = 30
        source = "192.0.2.7"
        proxy_protocol = "v2"
        accept_proxy = ["192.0.2.8/32", "192.0.2.9/32"]
        keepalive = +7
        bind = "::"
        log_format = "json"
        log_detail = "session"
        label = { ticket = "CHG-7", number = 7, "a b" = "c=d" }
        drain_timeout = 1
        metrics = 9100
        stats_interval = 0
        """
    )
    assert isinstance(made, Config)
    assert (made.fwd_port, made.trg_host, made.trg_port) == (8080, "192.0.2.1", 80)
    assert made.acl[0].written == "!10.1.0.0/16,10.0.0.0/8"
    assert (made.connect_timeout, made.idle_timeout, made.absolute_timeout) == (1, 1800, 0)
    assert (made.expires_at, made.buffer, made.workers, made.max_sessions) == (1798736400.5, None, 16, 1000)
    assert (made.acl_ends_sessions, made.max_per_client, made.session_timeout, made.exit_idle) == (
        True,
        5,
        0.5,
        60,
    )
    assert (made.source, made.proxy_protocol, made.keepalive, made.bind) == ("192.0.2.7", "v2", 7, "::")
    assert made.accept_proxy.decide("192.0.2.9")[0]
    assert (made.log_format, made.log_detail) == ("json", "session")
    assert made.metrics == ("127.0.0.1", 9100)
    assert made.labels == {"ticket": "CHG-7", "number": "7", "a b": "c=d"}
    assert made.options["idle_timeout"] == "30m"
    assert made.options["keepalive"] == "7"
    assert made.options["accept_proxy"] == "192.0.2.8/32,192.0.2.9/32"


@pytest.mark.parametrize(
    "form",
    [
        '[label]\na = "1"\nb = "2=3"',
        'label = ["a=1", "b=2=3"]',
        'label = { a = "1", b = "2=3" }',
        'label.a="1"\nlabel.b="2=3"',
    ],
)
def test_labels_have_several_forms(form):
    assert config(form).labels == {"a": "1", "b": "2=3"}


def test_a_single_label_is_a_string():
    assert config('label = "a=1"').labels == {"a": "1"}
    assert config("label = []").labels == {}


def test_a_list_is_a_string_or_an_array():
    """An array has an entry in each place."""
    assert config('acl = "10.0.0.0/8,ANY"', *GOOD[:3]).acl == config('acl = ["10.0.0.0/8","ANY"]', *GOOD[:3]).acl
    assert only('acl = ["10.0.0.0/8,ANY"]', *GOOD[:3]) == (
        "<ACL> '[…]' in line 1 of 'f' must have a string for each entry: without a comma."
    )
    assert "must be ANY, or an address" in only("acl = []", *GOOD[:3])
    assert "must be ANY, or an address" in only('acl = ""', *GOOD[:3])


def test_files_are_named_from_the_folder_of_the_file_that_names_them():
    """On the command line they are named from the working directory."""
    files = {
        "/etc/mprelay/relay.toml": b'acl = "@rules"',
        "/etc/mprelay/rules": b"10.0.0.0/8",
        "/work/rules": b"ANY",
    }
    host = Host(directory="/work", read_file=lambda path: files[PurePath(path).as_posix()])
    named = ("--config", "/etc/mprelay/relay.toml")
    made = parse((*GOOD[:3], *named), host)
    assert made.acl[0].items == (f"@{PurePath('/etc/mprelay/rules')}",)
    assert made.acl[0].written == "@rules"
    assert parse((*GOOD[:3], "@rules", *named), host).acl[0].items == (f"@{PurePath('/work/rules')}",)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("workers = true", "--workers 'true' {} must be a number or a string, not a boolean."),
        ("workers = 5.0", "--workers '5.0' {} must be a whole number from 1 to 64."),
        ("workers = 1e0", "--workers '1e0' {} must be a whole number from 1 to 64."),
        ("workers = 2026-12-01", "--workers '2026-12-01' {} must be a number or a string, not a date or a time."),
        ("workers = [2]", "--workers '[…]' {} must be a number or a string, not an array."),
        ("workers = {}", "--workers '{{…}}' {} must be a number or a string, not a table."),
        ("drain_timeout = inf", "--drain-timeout 'inf' {} must be a number of seconds from 0 to 3162240000"),
        ("drain_timeout = nan", "--drain-timeout 'nan' {} must be a number of seconds from 0 to 3162240000"),
        ("drain_timeout = 1e1", "--drain-timeout '1e1' {} must be a number of seconds from 0 to 3162240000"),
        ("drain_timeout = 1_0.5", "--drain-timeout '1_0.5' {} must be a number of seconds from 0 to 3162240000"),
        ("drain_timeout = -1", "--drain-timeout '-1' {} must be a number of seconds from 0 to 3162240000"),
        ("expires_at = 2026-12-01", "--expires-at '2026-12-01' {} must be a date, a time and an offset"),
        ("expires_at = 12:00:00", "--expires-at '12:00:00' {} must be a date, a time and an offset"),
        (
            "expires_at = 2026-12-01T12:00:00",
            "--expires-at '2026-12-01T12:00:00' {} must be a date, a time and an",
        ),
        (
            "expires_at = 1798761600",
            "--expires-at '1798761600' {} must be a date and a time with an offset, not a",
        ),
        ("metrics = 9100", ""),
        ("metrics = 9100.5", "--metrics '9100.5' {} must be ADDR:PORT"),
        ("metrics = true", "--metrics 'true' {} must be a number or a string, not a boolean."),
        ("log_format = 5", "--log-format '5' {} must be a string, not a number."),
        ("source = 1.5", "--source '1.5' {} must be a string, not a number."),
        ("bind = false", "--bind 'false' {} must be a string, not a boolean."),
        ("accept_proxy = 5", "--accept-proxy '5' {} must be a string or an array of strings, not a number."),
        ("accept_proxy = [5]", "--accept-proxy '[…]' {} must be a string, not a number."),
        ('acl_ends_sessions = "true"', ""),
        ("acl_ends_sessions = 1", "--acl-ends-sessions '1' {} must be true or false, not a number."),
        ("acl_ends_sessions = 'on'", "--acl-ends-sessions 'on' {} must be one of true, false."),
        ("label = 5", "--label '5' {} must be a string, not a number."),
        ("label = {a = 1.5}", "--label 'a=1.5' {} must be a string, not a number."),
        ("label = {a = {b = 1}}", "--label 'a={{…}}' {} must be a string, not a table."),
        ("label = {'a=b' = 'c'}", "--label 'a=b=c' {} must have a key without =."),
        ("label = {'' = 'c'}", "--label '=c' {} must be KEY=VALUE."),
        ("label = ['a=1', 'a=2']", "--label 'a=2' {} must not give a key for the second time."),
        ('label = {"a\\u0000" = "b"}', "--label 'a\\x00=b' {} must not have a NUL."),
        (f"label = {{a = {10**20}}}", f"--label 'a={10**20:#x}' {{}} must be a string, not a number."),
        ('label = "a=\\u0000"', "--label 'a=\\x00' {} must not have a NUL."),
        (f"workers = 0x{'f' * 30}", f"--workers '0x{'f' * 30}' {{}} must be a whole number from 1 to 64."),
        (f"bind = 0x{'f' * 30}", f"--bind '0x{'f' * 30}' {{}} must be a string, not a number."),
        (f"workers = 0x{'f' * 9999}", f"--workers '0x{'f' * 57}…' {{}} must be a whole number from 1 to 64."),
        ("idle_timout = 5", "unknown key (is idle_timeout meant?): 'idle_timout' {}."),
        ("[relay]\nworkers = 2", "unknown key: 'relay' {}."),
        ("config = 'f'", "unknown key: 'config' {}."),
    ],
)
def test_what_the_types_of_toml_become(line, wrong):
    """What would have been typed, judged by the same parsers; or one problem that names the line."""
    found = parsed(f"# first\n{line}\n", *GOOD)
    if not wrong:
        assert isinstance(found, Config)
        return
    (problem,) = found.problems
    assert problem.problem.startswith(wrong.format("in line 2 of 'f'")), problem.problem
    assert problem.value is None or len(problem.value) <= QUOTE_LIMIT


def test_every_wrong_value_is_told_with_its_line():
    wrong = problems("\nworkers = 0\n\n[label]\nx = true\n[odd]\n", "8080", "--workerz", "--idle-timeout", "0")
    assert [(problem.parameter, problem.source and problem.source.place) for problem in wrong] == [
        ("arguments", ""),
        ("config", "line 6 of 'f'"),
        ("label", "line 5 of 'f'"),
        ("trg_host", None),
        ("trg_port", None),
        ("acl", None),
        ("idle_timeout", ""),
        ("workers", "line 2 of 'f'"),
    ]


def test_a_value_of_several_lines_names_them():
    text = only('# a\nacl = [\n"10.0.0.1",\n]\n', *GOOD[:3])
    assert text == "<ACL> '10.0.0.1' in lines 2 to 4 of 'f' has no mask: 10.0.0.1/32 is this address alone."


def test_a_line_that_cannot_be_told_is_left_out():
    assert "--workers '0' in 'f' must" in only("\n" * 30_000 + "workers = 0")


def test_many_unknown_keys_are_counted():
    wrong = problems("".join(f"x{number} = 1\n" for number in range(UNKNOWN_LIMIT + 3)))
    assert len(wrong) == UNKNOWN_LIMIT + 1
    assert wrong[-1].problem == "3 more unknown keys in 'f'."


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        (
            "a = 1\nworkers = 2 = 3\n",
            "--config 'workers = 2 = 3' in line 2 of 'f' is not TOML: expected newline or end",
        ),
        (
            "workers = 1\nworkers = 2",
            "--config 'workers = 2' in line 2 of 'f' is not TOML: cannot overwrite a value.",
        ),
        ("[label]\n[label]", "--config '[label]' in line 2 of 'f' is not TOML: cannot declare ('label',) twice."),
        (
            "workers",
            "--config 'workers' in line 1 of 'f' is not TOML: expected '=' after a key in a key/value pair.",
        ),
        ("workers = [\n1,\n", "--config 'f' is not TOML: "),
        ("x = " + "[" * 2000, "--config 'f' is nested too deeply."),
        ("x = " + "9" * 5000, "--config 'f' has a number that is too long."),
        ("x" * 9000 + " = = 1", f"--config '{'x' * 59}…' in line 1 of 'f' is not TOML: invalid value."),
        ("a = 1\rb = 2", "--config 'a = 1\\rb = 2' in line 1 of 'f' is not TOML: "),
        (b"a = '\xff'", "--config 'f' is not UTF-8: its byte 6 belongs to no character."),
        ("workers = 1".encode("utf-16"), "--config 'f' is UTF-16, and must be UTF-8."),
        (
            "workers = 1".encode("utf-16-be").join((b"\xfe\xff", b"")),
            "--config 'f' is UTF-16, and must be UTF-8.",
        ),
    ],
)
def test_what_is_no_toml(file, wrong):
    """There is no traceback for any of them. Nothing is said of what the file may have given."""
    (problem,) = problems(file, "8080")
    assert problem.problem.startswith(wrong), problem.problem
    assert problem.parameter == "config"
    assert len(problem.value) <= QUOTE_LIMIT


def test_a_byte_order_mark_and_crlf_are_read_as_meant():
    made = parsed(b'\xef\xbb\xbffwd_port = 8080\r\ntrg_host = "192.0.2.1"\r\ntrg_port = 80\r\nacl = "ANY"\r\n')
    assert (made.fwd_port, made.acl[0].written) == (8080, "ANY")


@pytest.mark.parametrize(
    ("argv", "wrong"),
    [
        (["--config", "none"], "--config 'none' cannot be read: No such file or directory."),
        (["--config", ""], "--config '' must name a file."),
        (["--config"], "--config needs a value."),
    ],
)
def test_a_file_that_cannot_be_read(argv, wrong):
    """What it may have given is not called missing. Other wrong values are told."""

    def read_file(_path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    found = parse(("80x", "--workers", "0", *argv), Host(read_file=read_file)).problems
    assert [problem.problem for problem in found if problem.parameter == "config"] == [wrong]
    assert [problem.parameter for problem in found if problem.parameter != "config"] == ["fwd_port", "workers"]


UNSHOWN = "hush"


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        (f"{UNSHOWN} = {UNSHOWN}", "--config in line 1 of 'f' is not TOML."),
        (f"x = '''{UNSHOWN}", "--config 'f' is not TOML."),
        (f"{UNSHOWN} = 1", "unknown key in line 1 of 'f'."),
        (f"bind = '{UNSHOWN}'", "--bind in line 1 of 'f' must be an IPv4 or IPv6 address."),
        (f"label = ['{UNSHOWN}']", "--label in line 1 of 'f' must be KEY=VALUE."),
        (f"acl = '{UNSHOWN}'", "<ACL> in line 1 of 'f' has a wrong entry."),
        (f"acl = '@{UNSHOWN}'", "<ACL> in line 1 of 'f' has a wrong entry."),
        (f"trg_host = '{UNSHOWN}'", "<trg host> in line 1 of 'f' does not go with the other parameters."),
        (
            f"trg_host = '{UNSHOWN}'\nresolve = 5",
            "<trg host> in line 1 of 'f' gives no address: there is no such name",
        ),
    ],
)
def test_nothing_is_quoted_to_whoever_may_not_read_it(file, wrong):
    """The relay may have rights that the person who started it has not."""
    full = 'fwd_port = 8080\ntrg_host = "192.0.2.1"\ntrg_port = 80\nacl = "ANY"\n'
    lines = [line for line in full.splitlines() if line.split()[0] != file.split()[0]]
    (problem,) = problems("\n".join([file, *lines]), "--log-detail=full", quotes=False)
    assert problem.problem.startswith(wrong)
    assert UNSHOWN not in problem.problem
    assert problem.value in {None, "f"}


def test_each_number_may_be_written_as_one():
    """A new row of the table whose default is a number needs its form."""
    for parameter in PARAMETERS:
        default = parameter.typed_default(Host())
        if default is not None and default.isdigit():
            assert parameter.form == "number", parameter.name


@given(st.binary())
def test_any_file_is_taken_or_refused(data):
    assert isinstance(parsed(data, *GOOD), Config) or problems(data)


VALUES = st.recursive(
    st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=-5, minutes=-30))])),
        st.dates(),
        st.times(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([parameter.name for parameter in PARAMETERS]) | st.text(), VALUES, max_size=4)
)
def test_any_toml_is_taken_or_refused(table):
    """There is no exception, whatever the types are."""
    file = tomli_w.dumps(table)
    found = parsed(file, *GOOD)
    assert isinstance(found, Config) or (isinstance(found, Refusal) and found.problems)


def test_the_example_of_the_documents_is_right():
    """docs/operations.md shows a file. Its rules stand in another one."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]
    known = {"/etc/mprelay/web.toml": example.encode(), "/etc/mprelay/staff": b"192.0.2.0/24\n"}
    assert isinstance(
        parse(
            ("--config", "/etc/mprelay/web.toml"), Host(read_file=lambda path: known[PurePath(path).as_posix()])
        ),
        Config,
    )
