"""The recorder: each record is one line of valid JSON below 4096 bytes, in sequence."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kept import Kept
from support.samples import LARGEST_LABELS, largest

from mprelay.config.parameters import LABELS_LIMIT
from mprelay.core.texts import shown
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


@given(NASTY, NASTY, st.dictionaries(NASTY.map(shown), NASTY.map(shown), max_size=3))
def test_no_text_breaks_a_record(value, problem, labels):
    """Newlines, quotes, NUL, half characters, any length: one line, valid, below 4096 bytes."""
    while len(json.dumps(labels, ensure_ascii=False).encode()) > LABELS_LIMIT:
        labels.popitem()
    for log_format in ("json", "text", "ecs", "ocsf", "gcp"):
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
    kept = Kept(labels=LARGEST_LABELS)
    kept.recorder.write(message, 4e9, **largest(message))
    kept.recorder.flush()
    assert len(kept.lines[0]) < 4096


@pytest.mark.parametrize("bad", ["\x01", '"', "\U0001f4a5", "\udcff", "x"])
def test_an_unexpected_exception_stays_below_the_limit(bad):
    """This holds for any text of the exception, and for any place."""
    kept = Kept(labels=LARGEST_LABELS)
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
