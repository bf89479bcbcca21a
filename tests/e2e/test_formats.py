"""The formats of others, and our own: every record of real runs, against what others wrote, and the schema."""

import json
from importlib.resources import files

import jsonschema
import pytest
from support import rich
from support.formats import FORMATS, check_lines, event_of
from support.judge import check_run, parse

pytestmark = pytest.mark.posix("loopback addresses for clients, and SIGHUP")

each_format = pytest.mark.parametrize("log_format", FORMATS)


@each_format
def test_a_busy_run(log_format, tmp_path):
    """Refusals, sessions, a worker that is killed, a reload, and a drain."""
    records = check_lines(log_format, rich.busy(log_format, tmp_path))
    assert {event_of(log_format, record) for record in records} == rich.SEEN


@each_format
def test_a_run_that_expires(log_format):
    records = check_lines(log_format, rich.expiring(log_format))
    events = [event_of(log_format, record) for record in records]
    assert events.count("session.closed") == events.count("relay.expired") == 1
    assert events[-1] == "relay.stopped"


@each_format
def test_starts_that_are_refused_or_fail(log_format):
    """Wrong parameters are records of the format too, though nothing was started."""
    wrong = check_lines(log_format, rich.refused(log_format))
    assert {event_of(log_format, record) for record in wrong} == {"config.invalid"}
    assert len(wrong) == 5
    failed = check_lines(log_format, rich.unable(log_format))
    assert [event_of(log_format, record) for record in failed][-2:] == ["listener.bind_failed", "relay.stopped"]


def test_every_record_in_json_fits_its_schema(tmp_path):
    """The file is the one that is installed."""
    schema = json.loads(files("mprelay.records").joinpath("schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    runs = (rich.busy("json", tmp_path), rich.expiring("json"), rich.refused("json"), rich.unable("json"))
    for output, detail in zip(runs, ("full", "session", "full", "full"), strict=True):
        records = parse(output)
        check_run(records, detail=detail)
        for record in records:
            errors = [(error.json_path, error.message) for error in validator.iter_errors(record)]
            assert errors == [], record
