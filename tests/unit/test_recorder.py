"""The recorder: each record is one line of valid JSON below 4096 bytes, in sequence."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kept import Kept

from mprelay.config.parameters import LABELS_LIMIT, PARAMETERS
from mprelay.config.validation import OPTION_LIMIT, OPTION_LIMITS, WITH_A_FIELD
from mprelay.core.protocol import CloseReason
from mprelay.core.texts import ACL_LIMIT, NAME_LIMIT, PROBLEM_LIMIT, VALUE_LIMIT, shown
from mprelay.records import catalogue
from mprelay.records.catalogue import MESSAGES
from mprelay.records.recorder import Clock, Recorder
from mprelay.records.render import RENDERERS

NASTY = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cc", "Zl", "Zp", "Cs"])),
    st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.text("\U0001f4a5\x01\u2028", min_size=300),
)

OPTIONS = [parameter.name for parameter in PARAMETERS if parameter.name not in WITH_A_FIELD]
FLAGS = {parameter.name for parameter in PARAMETERS if parameter.flag}  # "true" or "false"


@given(NASTY, NASTY, st.dictionaries(NASTY.map(shown), NASTY.map(shown), max_size=3))
def test_no_text_breaks_a_record(value, problem, labels):
    """Newlines, quotes, NUL, half characters, any length: one line, valid, below 4096 bytes."""
    while len(json.dumps(labels, ensure_ascii=False).encode()) > LABELS_LIMIT:
        labels.popitem()
    for log_format in ("json", "text"):
        kept = Kept(log_format, labels=labels)
        kept.recorder.refuse("label", value, catalogue.CONFIG_INVALID, repr(problem))
        kept.recorder.flush()
        (line,) = kept.lines
        assert len(line) < 4096
        assert line.endswith(b"\n")
        text = line.decode()
        assert len(text.splitlines() if log_format == "text" else text.split("\n")) == (
            1 if log_format == "text" else 2
        )
        if log_format == "json":
            record = json.loads(line)
            assert record.get("labels", {}) == labels
            assert record["value"] == shown(value)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.event)
def test_every_entry_at_its_largest_stays_below_the_limit(message):
    """All fields have their largest size, and so have the labels."""
    long = "\x01" * VALUE_LIMIT
    ip = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    figures = {"pid": 2**31, "cpu_percent": 12345.6, "rss": 2**60, "fds": 10**6}
    large = {
        "parameter": max((p.name for p in PARAMETERS), key=len),
        "value": long,
        "problem": "\U0001f4a5" * (PROBLEM_LIMIT // 4),  # repr has escaped all non-printable characters
        "place": "x" * 60,
        "detail": "x" * 200,
        "acl": "x" * ACL_LIMIT,
        "options": {
            name: "x" * (5 if name in FLAGS else OPTION_LIMITS.get(name, OPTION_LIMIT)) for name in OPTIONS
        },
        "target_host": "x" * 253,
        "host": "x" * NAME_LIMIT,
        "opened_by": "x" * NAME_LIMIT,
        "error": "x" * 200,
        "supervisor": figures,
        "worker_stats": [{"worker": 64, **figures, "sessions": 10**6}] * 16,
        "closed": {reason.value: 2**40 for reason in CloseReason},
        "reason": max(CloseReason, key=len).value,
    }
    fields = {name: large.get(name, 2**62) for name in message.fields}
    connection = {"client_ip": ip, "client_port": 65535, "session": 2**62, "target_ip": ip, "target_port": 65535}
    fields = connection | {"worker": 64, "errno": 105, "listen_port": 65535} | large | fields
    wanted = {"client_ip", "client_port", "session", "target_ip", "target_port", "worker", *message.fields}
    wanted |= set(re.findall(r"{(\w+)}", message.sentence))
    kept = Kept(labels={"k": "x" * (LABELS_LIMIT - 9)})
    kept.recorder.write(message, 4e9, **{name: fields[name] for name in wanted})
    kept.recorder.flush()
    assert len(kept.lines[0]) < 4096


@pytest.mark.parametrize("bad", ["\x01", '"', "\U0001f4a5", "\udcff", "x"])
def test_an_unexpected_exception_stays_below_the_limit(bad):
    """This holds for any text of the exception, and for any place."""
    kept = Kept(labels={"k": "x" * (LABELS_LIMIT - 9)})
    kept.recorder.unexpected(4e9, bad * 300, bad * 300, 64)
    kept.recorder.flush()
    (line,) = kept.lines
    assert len(line) < 4096
    assert json.loads(line)["event"] == "internal.error"


@given(st.floats(0, 4e9))
def test_clock_shows_what_the_calendar_says(at):
    """RFC 3339, UTC, microseconds. This also holds when the time goes back."""
    clock = Clock()
    clock.show(at + 1)
    seen = datetime.strptime(clock.show(at), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(seen.timestamp() - at) < 2e-6


def test_relay_ids_differ():
    """They are unique per run."""
    assert Kept().recorder.relay_id != Kept().recorder.relay_id


def test_each_listener_gets_each_record_once():
    """They get them in the order of writing, and not before the flush."""
    first, second = [], []
    recorder = Recorder(RENDERERS["json"], first.extend, second.extend)
    recorder.write(catalogue.ADMISSION_PAUSED)
    recorder.write(catalogue.ADMISSION_RESUMED, paused_s=1.0, waiting=None)
    assert first == second == []
    recorder.flush()
    recorder.flush()
    assert [json.loads(line)["seq"] for line in first] == [1, 2]
    assert first == second
