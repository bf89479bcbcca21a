"""Judges of the formats of others, by what others wrote.

ECS: Elastic's list of fields (ecs.csv, whose head names its source), and the values that Elastic's pages allow.
OCSF: the schema itself, which ocsf-json-schema brings along. Google Cloud: the special fields of its own pages.
"""

import csv
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

FORMATS = ("ecs", "ocsf", "gcp")

# elastic.co/docs/reference/ecs/ecs-allowed-values-event-category, of 8.17: each category and its types
_TYPES_OF_CATEGORY = {
    "network": {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"},
    "process": {"access", "change", "end", "info", "start"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
}


@cache
def _ecs_fields() -> dict[str, tuple[str, bool]]:
    lines = Path(__file__).with_name("ecs.csv").read_text().splitlines()
    rows = csv.reader(line for line in lines if not line.startswith("#"))
    return {name: (kind, many == "array") for name, kind, many in rows}


def _leaves(fields: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{place}{name}.")
        else:
            yield place + name, value


def check_ecs(record: dict[str, Any]) -> None:
    """Check that each field outside of `labels` and `mprelay` is one of ECS, with its type."""
    own = record.get("mprelay", {})
    labels = record.get("labels", {})
    assert all(type(value) is str and "." not in key and key.strip() for key, value in labels.items()), labels
    for name, value in _leaves({name: record[name] for name in record if name not in ("mprelay", "labels")}):
        assert name in _ecs_fields(), f"ECS has no {name}"
        kind, many = _ecs_fields()[name]
        assert isinstance(value, list) == many, (name, value)
        for one in value if many else [value]:
            _check_ecs_type(name, kind, one)
    assert own.keys().isdisjoint({"timestamp", "level", "message"}), own
    assert {"kind", "category", "type", "action", "sequence"} <= record["event"].keys()
    (category,) = record["event"]["category"]
    assert {*record["event"]["type"]} <= _TYPES_OF_CATEGORY[category], record["event"]
    assert record["event"]["kind"] in {"event", "metric"}
    assert record["event"].get("outcome", "unknown") in {"success", "failure", "unknown"}
    assert record["ecs"]["version"].startswith("8.")


def _check_ecs_type(name: str, kind: str, value: object) -> None:
    match kind:
        case "long":
            assert type(value) is int, (name, value)
            assert -(2**63) <= value < 2**63, (name, value)
        case "ip":
            ipaddress.ip_address(str(value))
        case "date":
            assert datetime.fromisoformat(str(value)).tzinfo is not None
        case "keyword" | "match_only_text" | "wildcard":
            assert type(value) is str, (name, value)
        case _:
            raise AssertionError(f"{name} is of type {kind}")


@cache
def _ocsf_validator(version: str, class_uid: int, profiles: tuple[str, ...]) -> Any:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version))
    name = schema.lookup_class_name_from_uid(class_uid)
    return jsonschema.Draft202012Validator(schema.get_class_schema(name, list(profiles)))


def check_ocsf(record: dict[str, Any]) -> None:
    """Check a record against the schema of the version and the class that it names."""
    metadata, class_uid = record["metadata"], record["class_uid"]
    profiles = tuple(metadata["profiles"])
    errors = [*_ocsf_validator(metadata["version"], class_uid, profiles).iter_errors(record)]
    assert errors == [], [(error.json_path, error.message) for error in errors]
    assert record["type_uid"] == class_uid * 100 + record["activity_id"]
    assert record["category_uid"] == class_uid // 1000
    for name in ("time", "start_time", "end_time", "duration"):
        assert type(record.get(name, 0)) is int, (name, record[name])
    if record["activity_id"] == 99:
        assert record["activity_name"]
    assert (class_uid == 4001) == metadata["event_code"].startswith(("connection.", "session.")), record


def check_gcp(record: dict[str, Any]) -> None:
    """Check the special fields."""
    assert record["severity"] in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
    assert re.fullmatch(rf"{record['relay_id']}:\d{{19}}", record["logging.googleapis.com/insertId"])
    assert int(record["logging.googleapis.com/insertId"].partition(":")[2]) == record["seq"]
    labels = record.get("logging.googleapis.com/labels", {})
    assert all(type(value) is str for value in labels.values())
    operation = record.get("logging.googleapis.com/operation")
    assert (operation is not None) == ("session" in record)
    assert operation is None or operation["id"] == f"{record['relay_id']}:{record['session']}"


CHECKS = {"ecs": check_ecs, "ocsf": check_ocsf, "gcp": check_gcp}


def sequence_of(log_format: str, record: dict[str, Any]) -> tuple[str, int]:
    """Find `relay_id` and `seq` of a record."""
    match log_format:
        case "ecs":
            return record["service"]["ephemeral_id"], record["event"]["sequence"]
        case "ocsf":
            return record["metadata"]["correlation_uid"], record["metadata"]["sequence"]
        case _:
            return record["relay_id"], record["seq"]


def event_of(log_format: str, record: dict[str, Any]) -> str:
    """Find the name of the event."""
    match log_format:
        case "ecs":
            return str(record["event"]["action"])
        case "ocsf":
            return str(record["metadata"]["event_code"])
        case _:
            return str(record["event"])


def own_of(log_format: str, record: dict[str, Any]) -> dict[str, Any]:
    """Find the fields that have no place in the format."""
    places = {"ecs": "mprelay", "ocsf": "unmapped"}
    own: dict[str, Any] = record.get(places[log_format], {}) if log_format in places else record
    return own


def _paths(value: object, place: str, found: dict[str, set[str]]) -> None:
    """Collect what stands at each path, with the dots in keys taken apart as Elasticsearch does."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{place}.{key}" if place else str(key)
            parts = path.split(".")
            assert all(part.strip() for part in parts), f"{path!r} has a part without a name"
            for end in range(1, len(parts)):
                found.setdefault(".".join(parts[:end]), set()).add("object")
            _paths(inner, path, found)
    elif isinstance(value, list):
        for inner in value:
            _paths(inner, place, found)
    elif value is not None:
        found.setdefault(place, set()).add(_kind(value))


def _kind(value: object) -> str:
    return "integer" if type(value) is int else type(value).__name__


def check_one_type(records: Iterable[dict[str, Any]]) -> None:
    """Check that over all records no field has two types, and none is both a value and an object."""
    found: dict[str, set[str]] = {}
    for record in records:
        _paths(record, "", found)
    assert {path: kinds for path, kinds in found.items() if len(kinds) > 1} == {}


def check_lines(log_format: str, output: bytes) -> list[dict[str, Any]]:
    """Check each line of a run, and what holds between the lines; return the records."""
    assert output.endswith(b"\n")
    lines = output.split(b"\n")[:-1]
    assert max(map(len, lines)) + 1 < 4096
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for record in records:
        CHECKS[log_format](record)
    assert [sequence_of(log_format, record)[1] for record in records] == list(range(1, len(records) + 1))
    assert len({sequence_of(log_format, record)[0] for record in records}) == 1
    check_one_type(records)
    return records
