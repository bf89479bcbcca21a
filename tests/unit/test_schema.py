"""The JSON Schema of the records: it is current, takes every record of the catalogue, and nothing else."""

import importlib.util
import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: jsonschema, whose rpds-py does not load under Wine 8", allow_module_level=True)

import jsonschema
from support.kept import Kept
from support.samples import usual

from mprelay.records.catalogue import FIELDS, MESSAGES, PATH_FIELDS

ROOT = Path(__file__).resolve().parents[2]
WRONG = {"string": 1, "integer": 1.5, "number": "1", "boolean": "true", "object": [], "array": {}}

each_message = pytest.mark.parametrize(
    "message", MESSAGES, ids=lambda message: f"{message.event}-{message.msg_id}"
)


@pytest.fixture(scope="module")
def validator():
    """A validator with the schema that is installed."""
    schema = json.loads(files("mprelay.records").joinpath("schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def written(message):
    """The record as it is written, with all fields that it may have."""
    kept = Kept(labels={"ticket": "CHG-1042"})
    kept.recorder.write(message, 1764158400.000123, **usual(message))
    kept.recorder.flush()
    return kept.records()[0]


def test_the_file_is_current():
    """If this fails, run scripts/schema.py."""
    spec = importlib.util.spec_from_file_location("schema", ROOT / "scripts" / "schema.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.SCHEMA.read_text(encoding="utf-8") == script.text()


def test_records_of_one_event_have_the_same_fields():
    """That is why one sub-schema holds for all of them."""
    fields = {message.event: message.fields for message in MESSAGES}
    assert [message for message in MESSAGES if message.fields != fields[message.event]] == []


@each_message
def test_every_record_of_the_catalogue_is_valid(message, validator):
    assert [*validator.iter_errors(written(message))] == []


@each_message
def test_no_field_may_be_missing(message, validator):
    """But labels, what TCP has measured, and the worker of a session that ended before it had one."""
    record = written(message)
    optional = {"labels"} | ({"worker", *PATH_FIELDS} if message.event == "session.closed" else set())
    for name in record.keys() - optional:
        assert not validator.is_valid({other: record[other] for other in record if other != name}), name
    assert validator.is_valid({name: value for name, value in record.items() if name not in optional})


@each_message
def test_no_field_may_be_of_another_type(message, validator):
    """Nor null, where there is always a value."""
    record = written(message)
    for name in record:
        assert not validator.is_valid(record | {name: WRONG[FIELDS[name].type]}), name
        nullable = FIELDS[name].nullable and (name != "client_ip" or message.event == "connection.refused_more")
        if name != "msg_id":
            assert validator.is_valid(record | {name: None}) == nullable, name


@each_message
def test_no_field_may_be_unknown(message, validator):
    """Within an object neither. The level and the number are those of the event."""
    record = written(message)
    assert not validator.is_valid(record | {"truncated": True})
    assert not validator.is_valid(record | {"proxy_ip": "192.0.2.1"}), "without its port"
    assert not validator.is_valid(record | {"level": "debug"})
    assert not validator.is_valid(record | {"msg_id": 40})
    assert not validator.is_valid(record | {"event": "relay.unknown"})
    for name in ("supervisor", "closed", "labels", "options"):
        if name in record:
            assert not validator.is_valid(record | {name: record[name] | {"more": []}})
    if "reason" in record and message.event == "session.closed":
        assert not validator.is_valid(record | {"reason": "unknown"})


def test_a_proxy_is_named_with_its_port(validator):
    """These two may stand on any record of one connection."""
    proxy = {"proxy_ip": "192.0.2.1", "proxy_port": 4711}
    for message in MESSAGES:
        one = message.event.startswith(("connection.", "session.")) and "count" not in message.fields
        assert validator.is_valid(written(message) | proxy) == one, message.event
