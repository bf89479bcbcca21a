"""The command line: which values are accepted, which are refused, and how each refusal is reported."""

import os
import re
import socket
import subprocess
from contextlib import ExitStack, suppress
from importlib.metadata import version

import pytest
from support.judge import check_run, parse
from support.launching import PROGRAM, PYTHON_EXE, command, run
from support.messages import MESSAGES
from support.peers import accept, free_port, listening, receive
from support.relay import Relay
from support.waiting import PATIENCE

POSITIONS = [
    ("fwd_port", 2),
    ("trg_host", 3),
    ("trg_port", 4),
    ("acl", 5),
    ("connect_timeout", 6),
    ("idle_timeout", 7),
    ("absolute_timeout", None),
    ("buffer", 8),
]

REQUIRED = [name for name, _ in POSITIONS[:4]]

NO_NUMBERS = ["", "x", "-1", "+1", " 1", "1 ", "1.0", "1e1", "0x1", "1_0", "٣", "²", "9" * 5000]

PORTS = ["0", "65536", "80,81", *NO_NUMBERS]

WRONG = {
    "fwd_port": PORTS,
    "trg_host": [
        "",
        "localhost",
        "example.com",
        "127.1",
        "2130706433",
        "256.0.0.1",
        "127.0.0.1/32",
        "127.0.0.1:80",
        "[::1]",
        ":::1",
        "12345::",
        " 127.0.0.1",
        "ANY",
        "0.0.0.0",  # noqa: S104 - refused
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "127.255.255.255",
        "::ffff:127.255.255.255",
        "fe80::1",
        "fe80::1%lo",
    ],
    "trg_port": PORTS,
    "acl": [
        "",
        "ANYONE",
        "NONE",
        "10.1.2.3",
        "2001:db8::1",
        "10.0.0.0/33",
        "2001:db8::/129",
        "10.0.0.0/0.0.0.255",
        "10.0.0.0/255.0.255.0",
        "10.0.0.0/255.255.255.1",
        "10.0.0.0/256.0.0.0",
        "10.0.0.0/",
        "/24",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "10.0.0.0/8,ANY,",
        "10.0.0.0/8 ",
        "10.0.0/8",
        "10.0.0.0/٨",
        "2001:db8::/ffff::",
        "2001:db8::/255.255.0.0",
        "example.com/24",
        "10.0.0.0/" + "9" * 5000,
    ],
    "connect_timeout": ["0", "4", "1.5", *NO_NUMBERS],
    "idle_timeout": ["0", "1801", "1.5", *NO_NUMBERS],
    "absolute_timeout": ["-0", "1.5", *NO_NUMBERS, "never", "1h30m", "1H", "1 h", "0.5h"],
    "buffer": ["0", "99", "4001", "100.0", "4k", *NO_NUMBERS],
    "workers": ["0", "65", "auto", *NO_NUMBERS],
    "max_sessions": ["0", *NO_NUMBERS],
    "bind": ["", "localhost", "*", "0", "127.0.0.1:80", "[::]"],
    "log_format": ["", "xml", "json,text"],
    "log_detail": ["", "none", "full,session"],
    "label": ["", "ticket", "=value", "="],
    "drain_timeout": ["", "x", "-1", "nan", "inf", "٣", "1 s", "1h30m", "1M"],
    "stats_interval": ["", "x", "-1", "nan", "inf", "٣", "1 s"],
}

GOOD = ["8080", "127.0.0.1", "80", "ANY"]

MSG_ID = dict(POSITIONS)

FILLERS = ["3", "300", "0", "auto"]  # good values of the last four positions

OPTIONAL = [name for name, _ in POSITIONS[4:]]

RIGHT = {
    "fwd_port": ["1", "80", "65535"],
    "trg_host": ["127.0.0.1", "192.0.2.254", "::1", "2001:DB8::5"],
    "trg_port": ["65535", "1", "80"],  # never the relay's own port
    "acl": [
        "ANY",
        "any",
        "Any",
        "192.168.100.30/255.255.255.255",
        "192.168.100.0/24",
        "192.168.100.30/24",
        "192.168.100.30/255.255.255.0",
        "10.0.0.0/0",
        "10.0.0.0/0.0.0.0",
        "10.0.0.0/128.0.0.0",
        "2001:db8::5/64",
        "::1/128",
        "::/0",
    ],
    "connect_timeout": ["1", "2", "3", "3s"],
    "idle_timeout": ["1", "1800", "90s", "30m"],
    "absolute_timeout": ["0", "1", "86400", "31536000", "2h", "1d"],
    "buffer": ["100", "4000", "auto"],
    "workers": ["2" if PYTHON_EXE else "1", "64"],
    "max_sessions": ["1", "500", "508" if PYTHON_EXE else "20000"],  # a worker has at most 254 on Windows
    "bind": ["0.0.0.0", "127.0.0.1", "::", "::1"],  # noqa: S104 - never bound here
    "log_format": ["auto", "json"],
    "log_detail": ["full", "session"],
    "label": ["ticket=1", "ticket=", "ticket=a=b", "ticket= ", "ticket=--help"],
    "drain_timeout": ["0", "10", "3600", "1.5m"],
    "stats_interval": ["0", "1", "60", "86400", "1h"],
}

HOSTILE = {
    "newline": "a\nb\r\n{}\n",
    "quotes": '"\'\\\\"}{',
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    "separators": "\u2028\u2029",
    "braces": "{message}{0}{{%s%d",
    "unicode": "žluťoučký 😀 ﷽ \u202e",
}

PLAIN_C = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale that knows ASCII only, and a Python that obeys it."""


# -- wrong values --------------------------------------------------------------------------------------------


def check_remark(said: bytes, records: list[dict]) -> None:
    """Stderr has one short line: the first problem, and how many more there are."""
    line = said.decode()
    assert line.startswith("mprelay: ")
    assert line.endswith("see the records on stdout)\n")
    assert line[:-1].isprintable()
    assert len(line) <= 350
    more = re.search(r" \((?:and (\d+) more; )?see the records on stdout\)\n$", line)
    assert int(more[1] or 0) == len(records) - 1
    first = line.removeprefix("mprelay: ")[: more.start() - len("mprelay: ")].removesuffix("…")
    assert records[0]["problem"].startswith(first)


def refused(*args: str | bytes) -> list[dict]:
    """Run the program with wrong parameters and return the records. It may also print one line for the person."""
    done = run(*args)
    assert done.returncode == 2
    records = parse(done.stdout)
    check_remark(done.stderr, records)
    check_run(records)
    assert [record["event"] for record in records] == ["config.invalid"] * len(records)
    return records


def option_of(name: str) -> str:
    """Return the option of a parameter."""
    return "--" + name.replace("_", "-")


def by_option(*pairs: tuple[str, str | bytes]) -> list[str | bytes]:
    """Return a command line with these parameters given by option."""
    return [*GOOD, *(part for name, value in pairs for part in (option_of(name), value))]


def judge(record: dict, name: str, value: str | None) -> None:
    """Compare one config.invalid record with its parameter's row in docs/parameters.md."""
    assert record["parameter"] == name
    assert record["msg_id"] == MSG_ID.get(name)
    if record["msg_id"] is not None:
        assert record["message"] == MESSAGES[record["msg_id"]]
    if value is None:
        assert record["value"] is None
    elif len(value) <= 100:
        assert record["value"] == value
    else:
        assert record["value"].startswith(value[:100])


@pytest.mark.parametrize("name", [name for name in WRONG if name not in REQUIRED])
def test_each_wrong_value_of_an_option_is_refused_with_its_message(name):
    """All wrong values stand in one command line. Each has its own record, in the order given."""
    records = refused(*by_option(*((name, value) for value in WRONG[name])))
    assert len(records) == len(WRONG[name])
    for record, value in zip(records, WRONG[name], strict=True):
        judge(record, name, value)


def rows(table: dict[str, list[str]], names: list[str]) -> list[dict[str, str]]:
    """Deal the values of `names` out over as many command lines as the longest list needs."""
    most = max(len(table[name]) for name in names)
    return [{name: table[name][row % len(table[name])] for name in names} for row in range(most)]


@pytest.mark.parametrize("row", rows(WRONG, list(MSG_ID)))
def test_each_wrong_value_of_a_position_is_refused_with_its_message(row):
    records = refused(*row.values())
    assert len(records) == len(row)
    for record in records:
        judge(record, record["parameter"], row.pop(record["parameter"]))


def by_position(name: str, value: str | bytes) -> list[str | bytes]:
    """Return a command line whose only wrong value is this parameter, given by position."""
    line = [*GOOD, *FILLERS]
    line[[position for position, _ in POSITIONS].index(name)] = value
    return line


@pytest.mark.parametrize(("name", "value"), [("fwd_port", "0"), ("buffer", "99")])
def test_one_wrong_value_is_one_record(name, value):
    (record,) = refused(*by_position(name, value))
    judge(record, name, value)


def test_every_wrong_value_is_reported_not_only_the_first():
    """Eight positions and eight options, all of them wrong."""
    options = [(name, values[1]) for name, values in WRONG.items() if name not in MSG_ID]
    positions = ["0", "host", "65536", "10.0.0.1", "4", "1801", "x", "99"]
    records = refused(*positions, *(part for name, value in options for part in (option_of(name), value)))
    expected = [(name, value) for (name, _), value in zip(POSITIONS, positions, strict=True)] + options
    assert sorted((record["parameter"], record["value"]) for record in records) == sorted(expected)
    for record in records:
        judge(record, *next(pair for pair in expected if pair[0] == record["parameter"]))


@pytest.mark.posix("strace(1)")
def test_refused_parameters_bind_nothing_and_start_nothing(tool):
    """The kernel is the witness: no socket is bound, and no process is cloned."""
    strace = [tool("strace"), "-f", "-qq", "-e", "trace=bind,listen,clone,clone3,fork,vfork,execve", PROGRAM]
    done = subprocess.run(
        [*strace, *GOOD, "--workers", "65"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    calls = done.stderr.splitlines()
    assert len([call for call in calls if "execve(" in call]) == 1, calls
    assert [call for call in calls if re.search(r"(bind|listen|clone3?|v?fork)\(", call)] == []


def test_refused_parameters_do_not_disturb_the_owner_of_the_port():
    """Values are checked before the port is tried."""
    with listening() as server:
        port = str(server.getsockname()[1])
        (record,) = refused(port, "127.0.0.1", "80", "nobody")
        judge(record, "acl", "nobody")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_missing_position_is_reported(count):
    """A missing position is a wrong value without a value to show."""
    records = refused(*GOOD[:count])
    missing = POSITIONS[count:4]
    assert [(r["parameter"], r["msg_id"], r["value"]) for r in records] == [(*pair, None) for pair in missing]


def test_options_alone_leave_every_position_missing():
    """An option without any position is an error, not a request for help."""
    records = refused("--workers", "2")
    assert [r["parameter"] for r in records] == ["fwd_port", "trg_host", "trg_port", "acl"]


@pytest.mark.parametrize("values", [["1", "30", "0", "100"], ["2", "60", "600", "auto"]])
def test_by_position_and_by_option_is_an_error_that_says_so(values):
    """It is an error even if both values are good, and even if they are equal."""
    options = [part for name, value in zip(OPTIONAL, values, strict=True) for part in (option_of(name), value)]
    records = refused(*GOOD, "1", "30", "0", "100", *options)
    assert [record["parameter"] for record in records] == OPTIONAL
    for record in records:
        assert "by position" in record["message"]
        assert "by option" in record["message"]
        assert record["msg_id"] is None


def test_unknown_options_are_errors_that_name_them():
    """A typing error is never taken for another option, because options cannot be abbreviated."""
    unknown = ["--no-such-option", "--no-such=1", "-x", "--work", "-workers"]
    for line in ([*GOOD, *unknown], [*unknown, *GOOD]):
        records = refused(*line)
        assert [record["value"] for record in records] == unknown
        for record in records:
            assert record["msg_id"] is None
            assert record["value"] in record["message"]


def test_a_ninth_position_is_an_error():
    """Nothing that was typed is ignored."""
    (record,) = refused(*GOOD, *FILLERS, "surplus")
    assert (record["msg_id"], record["value"]) == (None, "surplus")


def test_options_without_their_values_are_errors():
    """The next word is another option, or there is none."""
    names = [name for name in WRONG if name not in REQUIRED]
    records = refused(*GOOD, *map(option_of, names))
    assert sorted((record["parameter"], record["value"]) for record in records) == sorted(
        (name, None) for name in names
    )


def test_refusals_carry_the_labels():
    """Every record carries the labels, so that a failed start can be found by its ticket."""
    records = refused(*GOOD, "--workers", "0", "--idle-timeout", "0", "--label", "ticket=CHG-7")
    assert [record.get("labels") for record in records] == [{"ticket": "CHG-7"}] * 2


@pytest.mark.parametrize("option", [["--log-format", "text"], ["--log-format=text"]])
def test_refusals_are_text_if_text_is_asked_for(option):
    """A newline in a value does not start a second line."""
    done = run("0", *GOOD[1:], "3", "1\n2\r\x1b[2J", "--idle-timeout", "60", "--workers", "1\n2", *option)
    assert done.returncode == 2
    *lines, rest = done.stdout.decode().split("\n")
    assert rest == ""
    words = [re.fullmatch(r"\S+Z ERROR (.*)", line)[1] for line in lines]
    assert len(words) == 3
    assert f"{MESSAGES[2]} (<fwd port> '0' must be a whole number from 1 to 65535.)" in words
    for name in ("--idle-timeout", "--workers"):
        assert any(name in text for text in words)
    assert all(text.isprintable() for text in words)


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("127.0.0.1", ()),
        ("127.1.2.3", ()),
        ("::1", ("--bind", "::")),
        ("::ffff:127.0.0.1", ("--bind", "0.0.0.0")),  # noqa: S104 - refused
        ("127.0.0.3", ("--bind", "127.0.0.3")),
    ],
)
def test_a_target_that_is_the_own_listener_is_refused(host, options):
    """One connection would take every slot. Other wrong values are reported too."""
    port = str(free_port())
    records = refused(port, host, port, "nobody", *options)
    wrong = {record["parameter"]: record for record in records}
    assert set(wrong) == {"trg_host", "acl"}
    judge(wrong["trg_host"], "trg_host", host)
    assert "listens" in wrong["trg_host"]["problem"]


def test_every_own_address_is_known():
    """The addresses of this machine's interfaces, as the kernel picks them for a distant destination."""
    for family, far in ((socket.AF_INET, "192.0.2.77"), (socket.AF_INET6, "2001:db8::77")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            port = str(free_port())
            (record,) = refused(port, probe.getsockname()[0], port, "ANY")
            assert "listens" in record["problem"]


def test_the_same_port_of_another_own_address_is_no_loop():
    """A relay may listen on one address and forward to a service on another address, on the same port."""
    with socket.socket() as server:
        port = free_port()
        server.bind(("127.0.0.2", port))
        server.listen()
        server.settimeout(PATIENCE)
        relay = Relay(("127.0.0.2", port), "--bind", "127.0.0.1")
        relay.port, relay.args[0] = port, str(port)
        with relay, relay.connect() as client, accept(server) as target:
            client.sendall(b"through")
            assert receive(target, 7) == b"through"


def test_with_records_in_a_file_stderr_names_the_problem():
    """The line has the first problem, and how many more there are."""
    done = run("8080", "127.0.0.1", "80", "10.0.0.1", "4", "--workers", "0")
    assert done.stderr.decode() == (
        "mprelay: <ACL> '10.0.0.1' has no mask: 10.0.0.1/32 is this address alone "
        "(and 2 more; see the records on stdout)\n"
    )
    done = run(*GOOD, "--workers", "\x1b[2J")
    assert done.stderr.decode() == (
        "mprelay: --workers '\\x1b[2J' must be a whole number from 1 to 64 (see the records on stdout)\n"
    )


@pytest.mark.posix("Wine, which makes two streams of one")
def test_a_collector_of_both_streams_gets_nothing_but_records():
    """With ``2>&1`` the line for the person would be invalid JSON."""
    done = run(*GOOD, "--workers", "0", stderr=subprocess.STDOUT)
    (record,) = parse(done.stdout)
    judge(record, "workers", "0")


@pytest.mark.parametrize(
    "stderr",
    [
        pytest.param("full", marks=pytest.mark.posix("/dev/full")),
        "unread",
        pytest.param("closed", marks=pytest.mark.posix("a shell's 2>&-")),
        "broken",
    ],
)
def test_a_stderr_that_accepts_nothing_delays_no_refusal(stderr):
    """Stderr is a full device, a full pipe, closed, or a pipe without a reader."""
    reader, writer = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        if stderr == "full":
            os.close(writer)
            writer = os.open("/dev/full", os.O_WRONLY)
        elif stderr == "unread":
            os.set_blocking(writer, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(writer, bytes(4096))
            os.set_blocking(writer, True)
        elif stderr == "broken":
            stack.pop_all().close()
        stack.callback(os.close, writer)
        shell = ["/bin/sh", "-c", 'exec "$0" "$@"' + " 2>&-" * (stderr == "closed")]
        done = subprocess.run(
            [*shell, *command(*GOOD, "--workers", "0")],
            input=b"",
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 2
    (record,) = parse(done.stdout)
    judge(record, "workers", "0")


# -- right values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", rows(RIGHT, list(RIGHT)))
def test_right_values_are_not_refused(row, request):
    """An unknown option keeps the relay from starting, and it is the only problem reported."""
    required = [row.pop(name) for name in REQUIRED]
    if int(request.node.callspec.id.removeprefix("row")) % 2:
        line = [*(f"{option_of(name)}={value}" for name, value in row.items()), *required]
    else:
        optional = [row.pop(name) for name in OPTIONAL]
        apart = [part for name, value in row.items() for part in (option_of(name), value)]
        line = [*required, *optional, *apart]
    (record,) = refused(*line, "--no-such-option")
    assert record["value"] == "--no-such-option"


# -- hostile values ------------------------------------------------------------------------------------------


def test_hostile_labels_arrive_unchanged_on_every_record():
    """Whatever a label contains, a record stays one line of valid JSON."""
    labels = {**HOSTILE, **{f"key {text}": "x" for text in HOSTILE.values()}}
    options = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
    with listening() as server, Relay(server.getsockname(), *options) as relay:
        with relay.connect(), accept(server):
            pass
        relay.wait("session.closed")
        relay.stop()
        assert [record["labels"] for record in relay.records] == [labels] * len(relay.records)


@pytest.mark.posix("the locale's encoding of arguments")
def test_arguments_are_utf8_in_any_locale():
    """This holds for labels in every record, and for the values that a refusal repeats."""
    with Relay(("127.0.0.1", 9), "--label", "Söhne=žluťoučký 😀", env=PLAIN_C) as relay:
        assert relay.wait("relay.active")["labels"] == {"Söhne": "žluťoučký 😀"}
    done = run("8080", "hôte", "80", "ANY", "--workers", "zwölf", "--größe", env=PLAIN_C)
    records = parse(done.stdout)
    assert [record["value"] for record in records] == ["--größe", "hôte", "zwölf"]
    assert all(record["value"] in record["problem"] for record in records)
    assert "größe" in done.stderr.decode()


@pytest.mark.posix("the locale's encoding of arguments")
@pytest.mark.slow
def test_text_is_utf8_in_any_locale():
    """The help may contain non-ASCII characters, and so may what a user typed."""
    assert run("--help", env=PLAIN_C).stdout == run("--help").stdout
    done = run(*GOOD, "--workers", "zwölf", "--log-format", "text", env=PLAIN_C)
    assert "--workers 'zwölf' must be" in done.stdout.decode()


@pytest.mark.posix("arguments that are bytes")
@pytest.mark.parametrize("label", [b"k=\xff\xfe", b"k=\xc3", b"k=\xed\xa0\x80"])
@pytest.mark.parametrize("environment", [None, PLAIN_C], ids=["utf8", "C"])
def test_invalid_utf8_is_refused_in_the_same_words(label, environment):
    (record,) = parse(run(*GOOD, "--label", label, env=environment).stdout)
    assert record["parameter"] == "label"
    assert "must be valid UTF-8" in record["problem"]
    shown = label.decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode()
    assert record["value"] == shown


@pytest.mark.parametrize(
    "label",
    [
        *(
            pytest.param(label, marks=pytest.mark.posix("arguments that are bytes"))
            for label in (
                b"k=\xff\xfe",
                b"\xc3=v",
                b"k=\xed\xa0\x80",
                b"k=" + b"x" * 100_000,
                b"x" * 100_000 + b"=v",
            )
        ),
        "k=" + "x" * 10_000,
        "x" * 10_000 + "=v",
    ],
)
def test_labels_that_fit_into_no_record_are_refused(label):
    """Neither invalid UTF-8 nor a label longer than a record gets into a record."""
    (record,) = refused(*GOOD, "--label", label)
    assert (record["parameter"], record["msg_id"]) == ("label", None)


def test_many_labels_that_fit_into_no_record_are_refused_together():
    labels = [part for number in range(400) for part in ("--label", f"key{number}=value {number}")]
    records = refused(*GOOD, *labels)
    assert {record["parameter"] for record in records} == {"label"}


@pytest.mark.posix("a command line above 32,767 characters")
@pytest.mark.parametrize(
    "bad",
    [b"\x01" * 9000, b'"' * 9000, b"\\" * 9000, b"\n" * 9000, b"\xff" * 9000, "😀".encode() * 9000],
    ids=["control", "quote", "backslash", "newline", "invalid", "emoji"],
)
def test_hostile_values_break_no_record(bad):
    """Each value is tried by position, by option, as a surplus position and as an option.

    Records stay below 4096 bytes.
    """
    options = [part for name in WRONG if name not in REQUIRED for part in (option_of(name), bad)]
    positions = [bad] * 9
    records = refused(*positions, *options, b"--" + bad, b"--no=" + bad)
    wrong = {record["parameter"] for record in records}
    assert wrong >= set(WRONG)


def test_braces_in_a_value_are_no_template():
    """Values are repeated verbatim, never interpreted."""
    done = run(*GOOD, "--workers", "{value}{0}%s", "--{message}")
    assert done.returncode == 2
    unknown, workers = parse(done.stdout)
    assert (unknown["value"], workers["value"]) == ("--{message}", "{value}{0}%s")
    assert "{value}{0}%s" in workers["message"]


# -- help and version ----------------------------------------------------------------------------------------


def test_help_names_everything_and_goes_to_stdout():
    """Each position and each option of docs/parameters.md is named, and the exit code is 0."""
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    for name in ("FWD_PORT", "TRG_HOST", "TRG_PORT", "ACL", "C_TO", "I_TO", "A_TO", "BUF"):
        assert re.search(rf"\b{name}\b", text), name
    for option in [*map(option_of, [name for name in WRONG if name not in REQUIRED]), "--version", "--help"]:
        assert re.search(rf"(?<!\S){option}\b", text), option


def test_version_goes_to_stdout():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split()[-1] == version("mprelay")


def test_without_parameters_the_help_and_exit_2():
    """The manual says: execute the program without parameters."""
    done = run()
    assert (done.returncode, done.stderr) == (2, b"")
    assert done.stdout == run("--help").stdout
