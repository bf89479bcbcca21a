"""A record read back out of any format."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.samples import usual

from mprelay.audit import forms
from mprelay.audit.forms import NotRecord
from mprelay.records import ecs, gcp, ocsf
from mprelay.records.about import About, without_nulls
from mprelay.records.catalogue import FIELDS, MESSAGES

ABOUT = About("1.2.3", "gateway", "198.51.100.9", 8080, "db.example")
COMMON = {"timestamp", "level", "event", "message", "msg_id", "seq", "relay_id"}
FORMATS = {
    "json": dict,
    "gcp": gcp.shape,
    "ecs": lambda record: ecs.shape(record, ABOUT),
    "ocsf": lambda record: ocsf.shape(record, ABOUT),
}
AWKWARD = [None, True, 1, -1, 1.5, "x", "9" * 99, [], ["x"], [1], [[]], {}, {"a": 1}]

each_format = pytest.mark.parametrize("log_format", FORMATS)
each_message = pytest.mark.parametrize(
    "message", MESSAGES, ids=lambda message: f"{message.event}-{message.msg_id}"
)


def record_of(message, seq=7, labels=None, **more):
    """A record as the recorder composes it."""
    fields = usual(message) | more
    head = {"timestamp": "2026-11-26T12:00:00.000123Z", "level": message.level, "event": message.event}
    head |= {"message": "text of message", "msg_id": message.msg_id, "seq": seq, "relay_id": "0123456789abcdef"}
    return head | fields | ({"labels": labels} if labels else {})


def written(log_format, record):
    """The object of the record's line."""
    return forms.parsed(orjson.dumps(FORMATS[log_format](record)))


def kept(log_format, record):
    """What the format has kept of a record."""
    return record if log_format in {"json", "gcp"} else without_nulls(record)


@each_format
@each_message
def test_each_record_is_read_back(message, log_format):
    record = record_of(message, labels={"ticket": "CHG-1042", "owner": "net ops"})
    shaped = written(log_format, record)
    assert forms.read(shaped) == kept(log_format, record)
    assert forms.place_of(shaped) == ("0123456789abcdef", 7, message.event)


@each_format
def test_a_connection_through_a_proxy(log_format):
    (message,) = [message for message in MESSAGES if message.event == "connection.accepted"]
    record = record_of(message, proxy_ip="198.51.100.80", proxy_port=9, client_ip="2001:db8::1")
    assert forms.read(written(log_format, record)) == record


_VALUES = {
    "string": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    "integer": st.integers(0, 2**53),
    "number": st.floats(0, 1e9).map(lambda value: round(value, 3)),
    "boolean": st.booleans(),
}
_NOT_FREE = COMMON | {"reason", "first_at", "last_at", "refused", "client_ip", "inbound_ip", "listen_ip", "host"}


@st.composite
def records(draw):
    """Any record of the catalogue, with any values where that changes nothing else."""
    message = draw(st.sampled_from(MESSAGES))
    record = record_of(message, seq=draw(st.integers(1, 2**63 - 1)))
    for name in record:
        field = FIELDS[name]
        if name not in _NOT_FREE and field.type in _VALUES:
            values = _VALUES[field.type]
            record[name] = draw(st.none() | values if field.nullable else values)
    return record


@each_format
@given(record=records())
def test_what_a_format_has_kept_is_read_back(log_format, record):
    """Whatever the values are."""
    assert forms.read(written(log_format, record)) == kept(log_format, record)


def test_labels_keep_what_their_format_keeps():
    (message,) = [message for message in MESSAGES if message.event == "relay.active"]
    record = record_of(message, labels={"a.b": "=1", "c": ""})
    assert forms.read(written("json", record))["labels"] == {"a.b": "=1", "c": ""}
    assert forms.read(written("ocsf", record))["labels"] == {"a.b": "=1", "c": ""}
    assert forms.read(written("ecs", record))["labels"] == {"a_b": "=1", "c": ""}
    assert forms.read(written("gcp", record))["labels"] == {"a_b": "=1", "c": ""}


@pytest.mark.parametrize("line", [b"", b"x", b"[1]", b'"x"', b"\xff", b"{}\r{", b"[" * 5000, b"\xef\xbb\xbf{}"])
def test_other_lines_are_no_objects(line):
    with pytest.raises(NotRecord):
        forms.parsed(line)


@each_format
@pytest.mark.parametrize("name", ["relay_id", "seq", "event", "timestamp"])
@pytest.mark.parametrize("value", [None, 0, -1, 1.5, True, 2**64, [], {}])
def test_what_lacks_its_place_is_no_record(log_format, name, value):
    """Or has something else in its place."""
    written_as = {"ecs": "sequence", "ocsf": "sequence"}.get(log_format, "seq")
    names = {
        "relay_id": {"relay_id", "ephemeral_id", "correlation_uid"},
        "seq": {written_as},
        "event": {"action", "event_code"} if log_format in {"ecs", "ocsf"} else {"event"},
        "timestamp": {"@timestamp", "original_time", "timestamp"},
    }[name]
    shaped = written(log_format, record_of(MESSAGES[-1]))
    changed = json.loads(
        json.dumps(shaped), object_hook=lambda fields: fields | dict.fromkeys(names & {*fields}, value)
    )
    with pytest.raises(NotRecord, match=f"has no {name}"):
        forms.read(changed)
    with pytest.raises(NotRecord):
        forms.read({name: value})


@pytest.mark.parametrize("relay_id", ["", "a" * 65, "a\n", "a b", "a/b", "..", "a: whole", "\u0663"])
@each_format
def test_a_relay_id_that_could_be_a_sentence_is_none(log_format, relay_id):
    """Verdicts name runs by it, files are named after it, and each run is kept until the end."""
    record = record_of(MESSAGES[0]) | {"relay_id": relay_id}
    with pytest.raises(NotRecord, match="has no relay_id"):
        forms.place_of(written(log_format, record))
    with pytest.raises(NotRecord, match="has no event"):
        forms.place_of({"relay_id": "x", "seq": 1, "event": "x" * 65})


@pytest.mark.parametrize(
    "inner", [{"seq": None, "event": 7, "relay_id": []}, {"seq": 9, "event": "x", "relay_id": "y"}]
)
@pytest.mark.parametrize("log_format", ["ecs", "ocsf"])
def test_the_place_of_a_line_is_said_once(log_format, inner):
    """What is proved of a line is its place in the log, so nothing else in it can tell another one."""
    message = MESSAGES[0]
    shaped = written(log_format, record_of(message))
    shaped["mprelay" if log_format == "ecs" else "unmapped"] = inner
    record = forms.read(shaped)
    assert (record["relay_id"], record["seq"], record["event"]) == ("0123456789abcdef", 7, message.event)


@each_format
def test_what_is_nested_too_deeply_to_be_shown_is_left_out(log_format):
    deep = orjson.loads(b"[" * 1000 + b"]" * 1000)
    record = record_of(MESSAGES[0])
    shaped = written(log_format, record) | {
        "labels": {"a": deep},
        "unmapped": {"b": deep},
        "mprelay": {"b": deep},
    }
    assert json.dumps(forms.read(shaped | {"new": deep}))
    assert forms.read(written("json", record) | {"new": [{"a": [1]}]})["new"] == [{"a": [1]}]


def test_a_line_is_read_in_the_format_that_its_place_was_found_in():
    metadata = {"correlation_uid": "0123456789abcdef", "sequence": 7, "event_code": "x", "original_time": "t"}
    assert forms.read({"metadata": metadata, "seq": 9, "timestamp": "u"}) == {
        "timestamp": "t",
        "event": "x",
        "seq": 7,
        "relay_id": "0123456789abcdef",
    }


@each_format
@given(data=st.data())
def test_nothing_in_a_line_makes_it_fail(log_format, data):
    """Any value at any place: a record, or none. What is in it has the types of the catalogue."""
    message = data.draw(st.sampled_from(MESSAGES))
    shaped = written(log_format, record_of(message, labels={"a": "b"}))
    places = []

    def walk(inner):
        for name in inner:
            places.append((inner, name))
            if isinstance(inner[name], dict):
                walk(inner[name])

    walk(shaped)
    inner, name = data.draw(st.sampled_from(places))
    inner[name] = data.draw(
        st.sampled_from([None, True, 1, -1, 1.5, "x", "9" * 99, [], ["x"], [1], [[]], {}, {"a": 1}])
    )
    try:
        record = forms.read(shaped)
    except NotRecord:
        return
    types = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list}
    for name, value in record.items():
        if value is not None and name in FIELDS and FIELDS[name].type in types:
            assert type(value) is types[FIELDS[name].type], name
    assert all(type(value) is str for value in (record.get("labels") or {}).values())
