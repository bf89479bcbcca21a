"""The formats of others: every record of the catalogue, against what others wrote."""

import json
import re
import sys
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform == "win32":
    pytest.skip("not on Windows: jsonschema, whose rpds-py does not load under Wine 8", allow_module_level=True)

from support.formats import CHECKS, FORMATS, check_one_type, own_of, sequence_of
from support.samples import LARGEST_LABELS, largest, usual

from mprelay.core.protocol import CloseReason
from mprelay.records import catalogue, ecs, gcp, ocsf
from mprelay.records.about import About, before, ending, keyed, milliseconds
from mprelay.records.catalogue import MESSAGES, SESSION_CLOSED
from mprelay.records.fitting import line
from mprelay.records.recorder import Recorder
from mprelay.records.render import renderer

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
ABOUT = About("1.2.3", "gateway", "198.51.100.9", 8080, "db.example")
LONGEST_IP = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
SHAPES = {"ecs": ecs.shape, "ocsf": ocsf.shape, "gcp": lambda record, _about: gcp.shape(record)}
AWKWARD = {"a": "1", "a.b": "2", "event": "x", ".x": "3", "x.": "4", "a..b": "5", " ": "6", "k" * 200: "7"}

each_message = pytest.mark.parametrize(
    "message", MESSAGES, ids=lambda message: f"{message.event}-{message.msg_id}"
)
each_format = pytest.mark.parametrize("log_format", FORMATS)


class Written:
    """A recorder that writes in a format, and its records."""

    def __init__(self, log_format, *, labels=None, about=ABOUT):
        self.lines = []
        self.log_format = log_format
        render = renderer(log_format, about, terminal=False)
        self.recorder = Recorder(render, self.lines.extend, labels=labels)

    def write(self, message, at=1764158400.000123, **fields):
        """Write a record; return it as it was read again."""
        self.recorder.write(message, at, **fields)
        self.recorder.flush()
        assert len(self.lines[-1]) < 4096
        record = json.loads(self.lines[-1])
        CHECKS[self.log_format](record)
        return record


def as_json(message, labels=None, **fields):
    """The same record as JSON."""
    lines = []
    recorder = Recorder(renderer("json", ABOUT, terminal=False), lines.extend, labels=labels)
    recorder.write(message, 1764158400.000123, **fields)
    recorder.flush()
    return json.loads(lines[0])


def leaves(value):
    """All values within a value."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for inner in value for leaf in leaves(inner)] if isinstance(value, list) else [value]


@each_format
@each_message
def test_each_record_is_valid_and_complete(message, log_format):
    """It is what others expect, and every value stands somewhere in it."""
    fields = usual(message)
    labels = {"ticket": "CHG-1042", "owner": "net ops"}
    record = Written(log_format, labels=labels).write(message, **fields)
    told = {str(leaf) for leaf in leaves(record)}
    for name, value in as_json(message, **fields).items():
        if name == "duration_ms" and log_format == "ecs":
            assert record["event"]["duration"] == round(value * 1e6)
        elif name == "listen_port" and log_format == "ecs":
            assert record["service"]["address"] == "0.0.0.0:12"
        elif name not in ("relay_id", "listen_ip"):
            assert {str(leaf) for leaf in leaves(value)} - {"None"} <= told, name
    assert sequence_of(log_format, record) == (record_id(log_format, record), 1)
    if log_format == "ocsf":
        assert record["metadata"]["labels"] == ["ticket=CHG-1042", "owner=net ops"]
    else:
        assert record["labels" if log_format == "ecs" else "logging.googleapis.com/labels"] == labels


def record_id(log_format, record):
    """The relay_id by its other place, where the format has two."""
    match log_format:
        case "ecs":
            return record["event"]["id"].partition(":")[0]
        case "ocsf":
            return record["metadata"]["uid"].partition(":")[0]
        case _:
            return record["relay_id"]


@each_format
@each_message
def test_each_record_at_its_largest_fits_and_says_if_it_was_shortened(message, log_format):
    """The labels are the longest too, and escapes make a text up to six times as long."""
    fields = largest(message)
    if "client_port" in fields:
        fields |= {"proxy_ip": LONGEST_IP, "proxy_port": 65535}
    about = About("1.2.3.dev0", "x" * 64, LONGEST_IP, 65535, "x" * 253)
    record = Written(log_format, labels=LARGEST_LABELS, about=about).write(message, **fields)
    whole = SHAPES[log_format](as_json(message, LARGEST_LABELS, **fields), about)
    fits = len(orjson.dumps(whole)) < 4095
    assert own_of(log_format, record).get("truncated", False) is not fits
    assert own_of(log_format, record).keys() - {"truncated"} == own_of(log_format, whole).keys()
    assert LARGEST_LABELS["k"] in " ".join(map(str, leaves(record)))


def test_the_longest_list_is_shortened_first_and_texts_last():
    """What every record carries is never touched, however long."""
    record = {"seq": 1, "event": "e" * 500, "labels": {"k": "v" * 1000}, "message": "m" * 100}
    many = record | {"addresses": ["a" * 40] * 100, "closed": {f"r{number}": 1 for number in range(40)}}
    made = json.loads(line(dict, many))
    assert made == many | {"addresses": ["a" * 40] * 25, "truncated": True}
    long = record | {"value": "v" * 2400, "problem": "p" * 2000, "options": {"a": "b"}}
    made = json.loads(line(dict, long))
    assert made == long | {
        "options": {},
        "value": "v" * 1200 + "…",
        "problem": "p" * 1000 + "…",
        "truncated": True,
    }
    hopeless = {"event": "e" * 5000}
    assert json.loads(line(dict, hopeless)) == hopeless | {"truncated": True}


@each_format
@pytest.mark.parametrize("log_detail", ["full", "session"])
def test_the_format_is_chosen_whatever_the_terminal_is(log_format, log_detail):
    chosen = renderer(log_format, ABOUT, terminal=True, coloured=True, log_detail=log_detail)
    record = json.loads(chosen(as_json(catalogue.ADMISSION_PAUSED)))
    CHECKS[log_format](record)


@each_format
def test_no_key_of_a_label_makes_a_field_value_and_object_at_once(log_format):
    """Dots stand at any place of a key. Each value is still there."""
    written = Written(log_format, labels=AWKWARD)
    records = [written.write(message, **usual(message)) for message in MESSAGES]
    check_one_type(records)
    for record in records:
        told = {str(leaf).rpartition("=")[2] for leaf in leaves(record)}
        assert set(AWKWARD.values()) <= told


@given(st.dictionaries(st.text(st.sampled_from("a._2* \n"), min_size=1), st.text(max_size=3)))
def test_keys_of_labels_stay_apart(labels):
    """No label is lost, and a key that fits stays as it is."""
    made = keyed(labels)
    assert sorted(made.values()) == sorted(labels.values())
    assert all(not set(key) & set('.* \n"') for key in made)
    assert {key: made[key] for key in labels if not set(key) & set(".* \n")}.items() <= labels.items()
    assert list(made.values()) == list(labels.values())


def test_keys_that_become_the_same_get_a_number():
    assert keyed({"a.b": "1", "a_b": "2", "a*b": "3"}) == {"a_b_2": "1", "a_b": "2", "a_b_3": "3"}


@pytest.mark.parametrize(
    ("duration_ms", "nanoseconds", "whole"),
    [
        (1500.0, 1_500_000_000, 1500),
        (0.0, 0, 0),
        (0.001, 1000, 0),
        (1234.567, 1_234_567_000, 1235),
        (1e14, 2**63 - 1, 10**14),
    ],
)
def test_durations_are_whole_numbers(duration_ms, nanoseconds, whole):
    """ECS has nanoseconds, OCSF milliseconds, which is why the figure stands there a second time."""
    closed = SESSION_CLOSED[CloseReason.DRAINED]
    fields = usual(closed) | {"duration_ms": duration_ms}
    event = Written("ecs").write(closed, **fields)["event"]
    assert (type(event["duration"]), event["duration"]) == (int, nanoseconds)
    lasted = datetime.fromisoformat(event["end"]) - datetime.fromisoformat(event["start"])
    assert lasted.total_seconds() == pytest.approx(min(duration_ms / 1000, 1764158400.000123), abs=1e-6)
    record = Written("ocsf").write(closed, **fields)
    assert (type(record["duration"]), record["duration"]) == (int, whole)
    assert record["end_time"] - record["start_time"] == whole
    assert record["unmapped"]["duration_ms"] == duration_ms


def test_a_null_is_left_out():
    """A session that never connected has no time for that."""
    closed = SESSION_CLOSED[CloseReason.CONNECT_FAILED]
    fields = usual(closed) | {"connect_ms": None, "error": None, "target_ip": None, "outbound_port": None}
    record = Written("ecs").write(closed, **fields)
    assert "error" not in record
    assert record["destination"] == {"port": 443, "address": "db.example", "bytes": 12}
    assert "connect_ms" not in record["mprelay"]
    record = Written("ocsf").write(closed, **fields)
    assert record["dst_endpoint"] == {"hostname": "db.example", "port": 443}
    assert "connect_ms" not in record["unmapped"]


def test_a_burst_of_two_relays_stays_apart_and_in_order():
    """Entries of one microsecond are sorted by insertId, as text."""
    relays = [Written("gcp"), Written("gcp")]
    records = [relay.write(catalogue.ADMISSION_PAUSED) for _ in range(12) for relay in relays]
    ids = [record["logging.googleapis.com/insertId"] for record in records]
    assert len(set(ids)) == len(ids)
    for relay in relays:
        own = [record for record in records if record["relay_id"] == relay.recorder.relay_id]
        by_id = sorted(own, key=lambda record: record["logging.googleapis.com/insertId"])
        assert [record["seq"] for record in by_id] == list(range(1, 13))


def test_the_entries_of_a_session_are_one_operation():
    """Cloud Logging shows them together."""
    written = Written("gcp")
    messages = (catalogue.CONNECTION_ACCEPTED, catalogue.SESSION_RELAYING, SESSION_CLOSED[CloseReason.DRAINED])
    made = [written.write(message, **usual(message)) for message in messages]
    operations = [record["logging.googleapis.com/operation"] for record in made]
    uid = f"{written.recorder.relay_id}:42"
    assert operations == [
        {"id": uid, "producer": "mprelay", "first": True},
        {"id": uid, "producer": "mprelay"},
        {"id": uid, "producer": "mprelay", "last": True},
    ]


ENDS = {
    CloseReason.REQUESTER_READ_CLOSED: ("close", "reset"),
    CloseReason.TARGET_READ_CLOSED: ("close", "reset"),
    CloseReason.TARGET_WRITE_CLOSED: ("close", "reset"),
    CloseReason.REQUESTER_WRITE_CLOSED: ("close", "reset"),
    CloseReason.IDLE_TIMEOUT: ("reset", "reset"),
    CloseReason.LINGER_TIMEOUT: ("reset", "reset"),
    CloseReason.SESSION_TIMEOUT: ("reset", "reset"),
    CloseReason.RELAY_EXPIRED: ("reset", "reset"),
    CloseReason.DRAINED: ("reset", "reset"),
    CloseReason.WORKER_LOST: ("reset", "reset"),
    CloseReason.KILLED: ("reset", "reset"),
    CloseReason.ACL_REVOKED: ("reset", "reset"),
}


@pytest.mark.parametrize("reason", CloseReason)
def test_how_a_session_ended(reason):
    """Without an error, and with one."""
    expected = ENDS.get(reason, ("fail", "fail"))
    assert tuple(ending({"reason": reason.value, "error": error}) for error in (None, "ECONNRESET")) == expected


def test_a_session_in_ecs():
    """The relay is the observer, and client and target are what it relays between."""
    closed = SESSION_CLOSED[CloseReason.TARGET_READ_CLOSED]
    more = {"proxy_ip": "198.51.100.80", "proxy_port": 9, "bytes_from_client": 78, "bytes_from_target": 190}
    more |= {"target_ip": "192.0.2.1"}
    record = Written("ecs").write(closed, **(usual(closed) | more))
    assert record["source"] == {
        "ip": "192.0.2.7",
        "port": 4711,
        "bytes": 78,
        "nat": {"ip": "198.51.100.80", "port": 9},
    }
    assert record["destination"] == {"ip": "192.0.2.1", "port": 443, "address": "db.example", "bytes": 190}
    assert record["network"] == {"transport": "tcp", "type": "ipv4", "bytes": 268}
    assert record["related"] == {"ip": ["192.0.2.7", "192.0.2.1", "198.51.100.80"]}
    assert record["observer"]["ip"] == ["198.51.100.1"]
    assert record["event"]["code"] == "38"
    assert record["rule"] == {"name": "text of acl"}
    assert record["host"] == {"name": "gateway"}


def test_a_refusal_in_ecs_and_ocsf():
    """ECS takes it for the relay's success, OCSF for the connection's failure."""
    rejected = catalogue.CONNECTION_REJECTED
    record = Written("ecs").write(rejected, **usual(rejected))
    assert record["event"]["type"] == ["connection", "denied"]
    assert record["event"]["outcome"] == "success"
    record = Written("ocsf").write(rejected, **usual(rejected))
    assert (record["type_uid"], record["status_id"], record["disposition_id"]) == (400105, 2, 2)
    assert record["firewall_rule"] == {"name": "text of acl"}
    relay = {"svc_name": "mprelay", "hostname": "gateway", "ip": "198.51.100.9", "port": 8080}
    assert record["dst_endpoint"] == relay


def test_a_session_in_ocsf():
    """The traffic is seen from the client, and the relay is a proxy between the two."""
    closed = SESSION_CLOSED[CloseReason.TARGET_READ_CLOSED]
    more = {"bytes_from_client": 78, "bytes_from_target": 190, "error": None, "proxy_ip": "::9", "proxy_port": 9}
    written = Written("ocsf")
    record = written.write(closed, **(usual(closed) | more))
    assert record["traffic"] == {"bytes_out": 78, "bytes_in": 190, "bytes": 268}
    assert record["type_uid"] == 400102
    assert record["connection_info"]["uid"] == f"{written.recorder.relay_id}:42"
    assert record["connection_info"]["protocol_ver_id"] == 4
    proxy = {"ip": "::9", "port": 9}
    assert record["src_endpoint"] == {"ip": "192.0.2.7", "port": 4711, "proxy_endpoint": proxy}
    assert record["dst_endpoint"] == {"hostname": "db.example", "ip": "2001:db8::5", "port": 443}
    assert record["proxy_endpoint"]["ip"] == "198.51.100.1"


@pytest.mark.parametrize(("refused", "blocked"), [("rejected", True), ("limited", True), ("exhausted", False)])
def test_refusals_that_are_summed_up_in_ocsf(refused, blocked):
    """They are one event of many connections. Only the rules block; a full pool does not."""
    summed = catalogue.CONNECTION_REFUSED_OF_MANY
    record = Written("ocsf").write(summed, **(usual(summed) | {"refused": refused, "client_ip": None}))
    assert "src_endpoint" not in record
    assert (record["count"], record["end_time"] - record["start_time"]) == (12, 9531)
    assert ("disposition_id" in record) == blocked


def test_nothing_is_known_of_the_relay_when_its_start_is_refused():
    """The host's name may be unknown too."""
    about = About("1.2.3")
    record = Written("ocsf", about=about).write(catalogue.CONFIG_INVALID, **usual(catalogue.CONFIG_INVALID))
    assert (record["type_uid"], record["status_id"]) == (600203, 2)
    assert "device" not in record
    record = Written("ecs", about=about).write(catalogue.CONFIG_INVALID, **usual(catalogue.CONFIG_INVALID))
    assert record["error"] == {"message": "text of problem"}
    assert "host" not in record


def test_every_event_has_its_place():
    """No table lacks an event, and none has one that is never written."""
    events = {message.event for message in MESSAGES}
    assert set(ecs.KINDS) == events
    assert set(ocsf.ACTIVITIES) == events


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - of UTC
def test_moments(at):
    """Milliseconds are cut off, not rounded, so no two records change their order."""
    timestamp = at.isoformat(timespec="microseconds") + "Z"
    assert milliseconds(timestamp) == (at - datetime(1970, 1, 1)).total_seconds() * 1e6 // 1000  # noqa: DTZ001
    assert before(timestamp, 0.0) == timestamp


def rows():
    """The table of docs/formats.md: a field's names, and its places in ECS and in OCSF."""
    section = DOCUMENT.read_text().partition("## Where each field goes")[2].partition("###")[0]
    for row in re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", section, re.MULTILINE):
        yield [re.findall(r"`([@\w.]+)`", cell) for cell in row]


def at(record, path):
    """What stands at a path; None: nothing."""
    for name in path.split("."):
        record = record.get(name) if isinstance(record, dict) else None
    return record


def test_the_table_of_the_document_is_true():
    """There is something at each place, and no field is where the table does not have it."""
    whole = {"proxy_ip": "198.51.100.80", "proxy_port": 9}
    samples = [(message, usual(message)) for message in MESSAGES]
    samples = [(message, f | whole if "client_port" in f else f) for message, f in samples]
    told = {name for names, *_ in rows() for name in names}
    for log_format, column in (("ecs", 0), ("ocsf", 1)):
        labelled = Written(log_format, labels={"ticket": "1"})
        made = [(as_json(message, {"ticket": "1"}, **f), labelled.write(message, **f)) for message, f in samples]
        for names, *places in rows():
            for path in places[column]:
                if path in names or path == "internal.error":
                    continue
                there = any(at(record, path) is not None for _, record in made)
                assert there, f"nothing stands at {path} in {log_format}"
        for json_record, record in made:
            own = own_of(log_format, record)
            for name in json_record.keys() - told:
                assert name in own, f"{name} is not in the table"
            for names, *places in rows():
                for name in names:
                    if name in own and name not in ("bytes_from_client", "bytes_from_target", "acl"):
                        assert f"{'mprelay' if log_format == 'ecs' else 'unmapped'}.{name}" in places[column] or (
                            record.get("class_uid") == 6002
                        ), f"{name} is where the table does not have it"
