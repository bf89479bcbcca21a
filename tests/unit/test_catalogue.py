"""The catalogue against the manual and the judge's table."""

import re

import pytest
from support import judge
from support.messages import BLANKS, MESSAGES

from mprelay.core.protocol import CloseReason
from mprelay.records import catalogue
from mprelay.records.catalogue import FIELDS, SESSION_CLOSED


@pytest.mark.parametrize("number", MESSAGES)
def test_each_message_of_the_manual_word_for_word(number):
    """Blanks are filled in, except for the parameters' own names in 2 to 8."""
    expected = MESSAGES[number]
    if number not in range(2, 9):
        for blank, field in BLANKS.items():
            expected = expected.replace(blank, f"{{{field}}}")
    assert {message.sentence for message in catalogue.MESSAGES if message.msg_id == number} == {expected}


def test_every_entry_is_in_the_judges_table():
    """Name, number and level agree, and no entry of the table is missing."""
    events = {}
    for message in catalogue.MESSAGES:
        if message.event != "session.closed":
            events.setdefault(message.event, set()).add((message.msg_id, message.level))
    assert events == judge.EVENTS


def test_every_close_reason_has_its_entry():
    """Each has exactly one, the same as in the judge's table."""
    assert {reason.value: (e.msg_id, e.level) for reason, e in SESSION_CLOSED.items()} == judge.REASONS
    assert set(SESSION_CLOSED) == set(CloseReason)


def test_one_name_is_one_type():
    """This covers each field, including those within objects, with the types of the judge's table."""

    def type_of(name):
        field = FIELDS[name]
        if field.type not in ("object", "array"):
            return field.type + "?" * field.nullable
        if isinstance(field.values, str):
            return [field.values] if field.type == "array" else {"*": field.values}
        within = {inner: type_of(inner) for inner in field.values}
        return [within] if field.type == "array" else within

    assert {name: type_of(name) for name in FIELDS} == judge.TYPES


def test_each_field_is_documented():
    """The fields of a record, and those shown in its sentence, are documented, and no others."""
    common = {"timestamp", "level", "event", "message", "msg_id", "seq", "relay_id", "labels"}
    connection = {
        "client_ip",
        "client_port",
        "proxy_ip",
        "proxy_port",
        "session",
        "target_ip",
        "target_port",
        "worker",
    }
    carried = set()
    for message in catalogue.MESSAGES:
        carried.update(message.fields, re.findall(r"{(\w+)}", message.sentence))
    within = {name for field in FIELDS.values() if isinstance(field.values, tuple) for name in field.values}
    assert set(FIELDS) == common | connection | carried | within
    assert all(field.meaning for field in FIELDS.values())
