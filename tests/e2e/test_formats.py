"""The formats of others: every record of real runs, against what others wrote."""

import pytest
from support import rich
from support.formats import FORMATS, check_lines, event_of

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
