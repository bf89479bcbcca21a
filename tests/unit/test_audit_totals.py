"""What a log adds up to: against plain sums and sets, with records that may be anything."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.logs import Writer, usual_run
from support.samples import largest, usual

from mprelay.audit import report, serials, totals, traffic
from mprelay.audit.page import page
from mprelay.audit.serials import Numbers
from mprelay.audit.tables import Table
from mprelay.audit.timeline import MOST, Timeline
from mprelay.audit.times import DAY, SECOND, briefly, moment, shown, stamp, width_shown
from mprelay.audit.totals import Totals
from mprelay.core.protocol import CloseReason
from mprelay.records.catalogue import MESSAGES

READ = {
    "files": [{"file": "log", "records": 1, "other_lines": 0}],
    "troubles": [],
    "troubles_count": 0,
    "hints": [],
}


def told(records, **options):
    """The report of records."""
    made = Totals()
    for record in records:
        made.add(record)
    return report.make(made, {}, READ, **options)


def grave(run):
    """What is wrong with a run."""
    return [one["text"] for one in run["findings"] if one["grave"]]


# -- the parts -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40)))
def test_numbers_are_a_set(added):
    numbers = Numbers()
    for place, number in enumerate(added):
        assert numbers.add(number) is (number not in added[:place])
    assert numbers.count == len(set(added))
    assert numbers.largest == max(added, default=0)
    assert [number in numbers for number in range(45)] == [number in added for number in range(45)]
    missing = [number for first, last in numbers.gaps() for number in range(first, last + 1)]
    assert missing == [number for number in range(1, numbers.largest) if number not in added]


def test_numbers_with_too_many_gaps_say_so(monkeypatch):
    monkeypatch.setattr(serials, "LIMIT", 3)
    numbers = Numbers()
    for number in (1, 3, 5):
        assert numbers.add(number)
    assert numbers.exact
    assert numbers.add(7)
    assert not numbers.exact
    assert numbers.count == 4


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.integers(-5, 5))), st.integers(2, 6))
def test_a_table_loses_nothing(added, limit):
    table = Table(2, limit, (0, 1))
    for key, count, when in added:
        table.add(key, (1, count), when)
    assert table.total() == [len(added), sum(count for _, count, _ in added)]
    rows = table.rows()
    assert len(rows) <= 2 * limit
    assert [row.counts for _, row in rows] == sorted((row.counts for _, row in rows), reverse=True)
    for key, row in rows:
        own = [count for other, count, _ in added if other == key]
        assert row.counts <= [len(own), sum(own)]
        assert row.late or row.counts == [len(own), sum(own)]
        assert table[key] == row.counts
    assert table[99] == [0, 0]
    distinct, at_most = table.distinct()
    assert distinct == len({key for key, _, _ in added}) or at_most
    spans = [row for row in (table.others, *(row for _, row in rows)) if row.first is not None]
    assert min((row.first for row in spans), default=None) == min((when for *_, when in added), default=None)
    table.shrink(2)
    assert table.total() == [len(added), sum(count for _, count, _ in added)]
    assert len(table.rows()) <= 4


def test_who_came_often_stays_in_a_table():
    """Even if many came first who came once, and between two visits."""
    table = Table(1, 10)
    for number in range(10_000):
        table.add(number, (1,))
        if number > 5000:
            table.add("often", (1,))
    (key, row), *_ = table.rows()
    assert (key, row.counts) == ("often", [4999])
    assert row.late


@given(st.lists(st.tuples(st.integers(-(10**15), 10**17), st.integers(0, 3), st.integers(0, 3))))
def test_a_timeline_loses_nothing(added):
    line = Timeline()
    for when, begun, refused in added:
        line.add(when, begun=begun, ended=begun, refused=refused, moved=2 * begun)
    made = line.intervals()
    assert len(made) <= MOST
    assert sum(one.begun for one in made) == sum(begun for _, begun, _ in added)
    assert sum(one.refused for one in made) == sum(refused for *_, refused in added)
    assert sum(one.bytes for one in made) == 2 * sum(one.ended for one in made)
    assert all(one.present >= one.begun for one in made)
    assert all(after.begins - before.begins == line.length for before, after in itertools.pairwise(made))
    if added:
        assert made[0].begins <= min(when for when, *_ in added)
        assert made[-1].begins + line.length > max(when for when, *_ in added)


def test_a_timeline_stays_small_while_it_grows():
    line = Timeline()
    for number in range(50_000):
        line.add(number * 60 * SECOND, begun=1)
        assert len(line._counts) <= MOST
    assert line.length == DAY // 2


def test_sessions_count_in_each_interval_that_they_touch():
    line = Timeline()
    line.add(0, begun=1)
    line.add(30 * SECOND, ended=1)
    assert [one.present for one in line.intervals()] == [1] * len(line.intervals())
    late = Timeline()  # without the beginning of the log
    late.add(0, ended=1)
    late.add(9 * SECOND, begun=1)
    assert [one.present for one in late.intervals()][:1] == [1]
    assert [one.present for one in late.intervals()][-1:] == [1]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1970-01-01T00:00:01.000002Z", 1_000_002),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.5Z", -500_000),
        ("1970-01-01T00:00:00.00000٣Z", None),
        ("1970-01-01T00:00:00", None),
        ("1970-13-01T00:00:00.000000Z", None),
        ("today", None),
        ("", None),
        (7, None),
        (None, None),
    ],
)
def test_times(text, read):
    assert moment(text) == read


def test_times_for_people():
    when = moment("2026-11-26T12:34:56.789012Z")
    assert stamp(when) == "2026-11-26T12:34:56.789012Z"
    assert stamp(None) is None
    assert stamp(10**30) == "9999-12-31T23:59:59.999999Z"
    assert shown(when) == "2026-11-26 12:34:56.789 UTC"
    assert shown(None) == "not known"
    widths = (SECOND // 10, SECOND, 60 * SECOND, DAY)
    assert [briefly(when, width) for width in widths] == [
        "2026-11-26 12:34:56.789",
        "2026-11-26 12:34:56.789012"[:19],
        "2026-11-26 12:34",
        "2026-11-26",
    ]
    assert [width_shown(width) for width in (*widths, 3600 * SECOND)] == ["0.1 s", "1 s", "1 min", "1 d", "1 h"]


# -- a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False])
def test_a_run_that_is_whole(full):
    made = told(usual_run(full=full).records)
    assert made["verdict"] == "whole"
    (run,) = made["runs"]
    assert run["findings"] == []
    assert all(check["agrees"] for check in run["checks"])
    totals = run["totals"]
    assert (totals["sessions"], totals["clients"], totals["refused"]) == (3, 2, 6)
    assert totals["bytes_from_target"] == 2**53 + 9
    assert (totals["rejected"], totals["exhausted"], totals["refused_summed_up"]) == (4, 2, 5)
    assert [row["client_ip"] for row in run["clients"]["rows"]] == ["10.0.0.1", "10.0.0.2"]
    assert [row["session"] for row in run["largest"]] == [2, 1, 3]
    assert [row["session"] for row in run["odd"]["sessions"]] == [1, 3]
    assert run["refused"]["rows"][0]["client_ip"] == "10.9.0.1"
    assert {(row["refused"], row["cause"]) for row in run["causes"]["rows"]} == {
        ("rejected", "!10.9.0.0/16"),
        ("rejected", None),
        ("exhausted", None),
    }
    assert run["door"]["labels"] == {"ticket": "CHG-7"}
    assert run["door"]["opened_by"] == "alice"
    assert [one["event"] for one in run["door"]["happenings"]] == ["relay.active", "relay.stopped"]
    assert sum(one["begun"] for one in run["timeline"]["intervals"]) == 3


def test_the_order_of_files_is_no_matter():
    """Other than for the order of what is as large as another."""
    records = usual_run().records
    forwards, backwards = told(records), told(reversed(records))
    assert backwards["verdict"] == "whole"
    for name in ("totals", "checks", "timeline"):
        assert forwards["runs"][0][name] == backwards["runs"][0][name]


def test_runs_may_be_interleaved():
    one, other = usual_run(relay_id="a").records, usual_run(relay_id="b", full=False).records
    mixed = [record for pair in itertools.zip_longest(one, other) for record in pair if record is not None]
    made = told(mixed)
    assert [run["verdict"] for run in made["runs"]] == ["whole", "whole"]
    assert made["runs"] == [told(records)["runs"][0] for records in (one, other)]


@pytest.mark.parametrize("place", range(len(usual_run().records)))
def test_a_record_that_is_missing_is_missed(place):
    records = usual_run().records
    gone = records.pop(place)
    (run,) = told(records)["runs"]
    if gone["event"] == "relay.stopped":
        assert run["verdict"] == "open"
        assert "There is no relay.stopped" in run["findings"][0]["text"]
    else:
        assert run["verdict"] == "broken"
        assert f"1 record is missing: seq {gone['seq']}." in grave(run)


@pytest.mark.parametrize("place", range(len(usual_run().records)))
def test_a_record_that_is_there_twice_counts_once(place):
    records = usual_run().records
    (run,) = told([*records, records[place]])["runs"]
    assert run["verdict"] == "broken"
    assert grave(run) == ["1 record is there twice, and counted once (by their seq)."]


@pytest.mark.parametrize(
    ("event", "change", "said"),
    [
        ("session.closed", {"bytes_from_client": 11}, "bytes_from_client: 16 (relay.stopped), but"),
        ("session.closed", {"reason": "drained"}, "closed: drained: 0 (relay.stopped), but 1"),
        ("session.closed", {"session": 1}, "1 session.closed is for a session that was closed."),
        ("session.closed", {"session": 99}, "are without an end: 2, 4 to 98."),
        ("session.closed", {"session": None}, "1 session.closed is without a session."),
        ("connection.refused_more", {"count": 4}, "rejected: 4 (relay.stopped), but 5"),
        ("connection.attempt", {"event": "session.relaying"}, "connections: 8"),
        ("connection.accepted", {"event": "session.relaying"}, "sessions: 2 (connection.accepted), but 3"),
        ("relay.stopped", {"admitted": 4}, "admitted: 4 (relay.stopped), but 3 (sum of its own reasons)"),
        ("relay.stopped", {"attempts": 4}, "attempts: 4 (relay.stopped), but 9 (sum of its own outcomes)"),
        ("relay.stopped", {"seq": 2**40}, "records are missing: seq"),
        ("session.closed", {"timestamp": "yesterday"}, "1 record is without a time."),
        ("worker.started", {"event": "relay.stopped", "seq": 99}, "relay.stopped is there 2 times."),
        ("worker.started", {"seq": 99}, "There are records behind relay.stopped"),
    ],
)
def test_figures_that_contradict_each_other(event, change, said):
    records = usual_run().records
    next(record for record in records if record["event"] == event).update(change)
    (run,) = told(records)["runs"]
    assert run["verdict"] == "broken"
    assert any(said in text for text in grave(run)), grave(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clock_synchronised": False}, "The machine's clock was not synchronised"),
        ({"expires_at": "2026-11-26T11:59:00.000000Z"}, "The door was open until 2026-11-26 12:00:00"),
    ],
)
def test_remarks_about_a_door(change, said):
    records = usual_run().records
    next(record for record in records if record["event"] == "relay.active").update(change)
    (run,) = told(records)["runs"]
    assert run["verdict"] == "whole"
    assert said in run["findings"][0]["text"]


def test_a_clock_that_was_set_back():
    records = usual_run().records
    for record in records[5:]:
        record["timestamp"] = record["timestamp"].replace("T12", "T11")
    (run,) = told(records)["runs"]
    assert run["verdict"] == "whole"
    assert "The clock was set back 1 times, by 3599.993 s at most." in run["findings"][0]["text"]


def test_a_log_that_ends_before_its_run():
    run = Writer()
    run.opened(expires_at="2026-11-26T18:00:00.000000Z")
    run.close(run.admit("10.0.0.1"))
    run.admit("10.0.0.2")
    made = told(run.records)
    assert made["verdict"] == "open"
    (one,) = made["runs"]
    assert (one["unended"]["count"], one["unended"]["sessions"][0]["client_ip"]) == (1, "10.0.0.2")
    assert [check["what"] for check in one["checks"]] == ["records"]


def test_a_log_without_its_beginning():
    (run,) = told(usual_run().records[9:])["runs"]
    assert run["verdict"] == "broken"
    assert "9 records are missing: seq 1 to 9." in grave(run)
    assert "There is no relay.active: who opened the door is not known." in [
        one["text"] for one in run["findings"]
    ]


def test_a_door_that_was_never_opened():
    run = Writer()
    run.write("config.invalid", "error", parameter="fwd_port")
    made = told(run.records)
    assert (made["verdict"], made["runs"][0]["findings"]) == ("whole", [])
    failed = Writer()
    failed.write("listener.bind_failed", "critical", error="EADDRINUSE")
    failed.stop("failed")
    made = told(failed.records)
    assert (made["verdict"], made["runs"][0]["door"]["never_opened"]) == ("whole", True)
    opened = Writer()
    opened.opened()
    opened.stop("failed")
    (one,) = told(opened.records)["runs"]
    assert "The relay has failed" in one["findings"][0]["text"]


def test_who_steered_a_relay():
    run = Writer()
    run.opened(expires_at="2026-11-26T12:00:00.000000Z")
    asked = {"command": "extend", "arguments": {"seconds": 60.0}, "peer_uid": 1000, "peer_pid": 7}
    run.write("control.command", **asked, ok=True, problem=None)
    run.write("relay.extended", seconds=60.0, expires_at="2026-11-26T12:01:00.000000Z")
    run.write("control.command", **asked, ok=False, problem="no more")
    run.write("control.command")
    run.write("acl.reloaded", entries=1)
    run.stop()
    door = told(run.records)["runs"][0]["door"]
    assert door["extended_until"] == "2026-11-26T12:01:00.000000Z"
    assert [(one["peer_uid"], one["command"], one["ok"]) for one in door["commands"]] == [
        (1000, "extend, seconds 60.0", True),
        (1000, "extend, seconds 60.0", False),
        (None, "?", False),
    ]
    assert len(door["steered_by"]) == 3


def test_of_many_runs_that_were_killed_few_sessions_are_remembered(monkeypatch):
    """They are counted nevertheless. As before, the first of them are listed."""
    monkeypatch.setattr(totals, "_AT_WORK", 1)
    made = Totals()
    for run in (Writer(f"r{number}") for number in range(3)):
        for _ in range(100):
            run.admit("10.0.0.1")
        for record in run.records:
            made.add(record)
    assert [len(run.traffic.open) for run in made.runs.values()] == [25, 25, 100]
    for run in report.make(made, {}, READ)["runs"]:
        assert run["unended"]["count"] == 100
        assert [one["session"] for one in run["unended"]["sessions"]] == [*range(1, 21)]


def test_arguments_that_no_command_has_are_left_out():
    """A text is made of each, and of what is nested deeply enough that would fail."""
    deep: list = []
    for _ in range(1000):
        deep = [deep]
    run = Writer()
    run.opened()
    run.write("control.command", command="kill", arguments={"session": 7, "a": deep, "b": {"c": deep}}, ok=True)
    (one,) = told(run.records)["runs"][0]["door"]["commands"]
    assert one["command"] == "kill, session 7"


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(totals, "RUNS", 20)
    records = []
    for number in range(25):
        run = Writer(f"r{number}")
        run.opened()
        for _ in range(250):
            run.write("admission.paused", "warning")
        run.close(run.admit("10.0.0.1"))
        run.stop()
        records += run.records
    made = told(records)
    assert len(made["runs"]) == 20
    assert made["records_left_out"] == 5 * (len(records) // 25)
    assert made["verdict"] == "broken"
    door = made["runs"][0]["door"]
    assert (len(door["happenings"]), door["happenings_left_out"]) == (200, 52)


def test_records_that_say_less_than_they_should():
    """They count as far as they go."""
    run = Writer()
    run.opened()
    run.admit("10.0.0.1")
    for record in run.records[-3:]:
        record["timestamp"] = None
    run.write("connection.refused_more", count=2, refused="of another version")
    run.write("log.key")
    run.write("log.checkpoint")
    (one,) = told(run.records)["runs"]
    assert (one["unended"]["count"], one["totals"]["refused"], one["totals"]["rejected"]) == (1, 2, 0)
    assert sum(interval["begun"] for interval in one["timeline"]["intervals"]) == 0


@pytest.mark.parametrize("event", ["log.key", "log.checkpoint", "relay.active"])
def test_a_run_tells_that_it_is_sealed(event):
    run = Writer()
    run.write(event)
    made = Totals()
    made.add(run.records[0])
    assert made.runs["r1"].door.sealed is event.startswith("log.")


def test_texts_that_are_too_long_are_shortened():
    run = usual_run()
    for record in run.records:
        record.update(client_ip="y" * 5000, message="z" * 5000, labels={"k" * 5000: "l" * 5000})
    (one,) = told(run.records)["runs"]
    assert one["verdict"] == "whole"
    assert [row["client_ip"] for row in one["clients"]["rows"]] == ["y" * 1023 + "…"]
    assert len(json.dumps(one)) < 50_000


def test_more_open_sessions_than_are_remembered(monkeypatch):
    monkeypatch.setattr(traffic, "_OPEN", 2)
    run = Writer()
    run.opened()
    for _ in range(3):
        run.admit("10.0.0.1")
    unended = told(run.records)["runs"][0]["unended"]
    assert (unended["count"], len(unended["sessions"])) == (3, 2)


def test_more_clients_than_a_table_has_rows():
    run = Writer(full=False)
    run.opened()
    for number in range(5000):
        run.close(run.admit(f"10.0.{number // 250}.{number % 250}"))
    run.stop()
    (one,) = told(run.records)["runs"]
    assert one["verdict"] == "whole"
    table = one["clients"]
    assert len(table["rows"]) == report.ROWS
    assert sum(row["sessions"] for row in (*table["rows"], table["others"])) == 5000
    assert table["others"]["rows"] == 5000 - report.ROWS
    assert len(one["longest"]) == 10
    assert [row["session"] for row in one["longest"]] == [*range(1, 11)]  # of equals the first


def test_a_session_may_be_too_long_for_a_calendar():
    run = Writer(full=False)
    run.opened()
    run.close(run.admit("10.0.0.1"))
    run.records[-1]["duration_ms"] = 1e300
    run.stop()
    (one,) = told(run.records)["runs"]
    assert one["longest"][0]["begun"] == "0001-01-01T00:00:00.000000Z"


def test_all_records_of_the_catalogue():
    records = []
    for message in MESSAGES:
        for fields in (usual(message), largest(message)):
            common = {
                "timestamp": "2026-11-26T12:00:00.000000Z",
                "event": message.event,
                "level": message.level,
                "message": message.sentence,
                "relay_id": "r",
                "seq": len(records) + 1,
            }
            records.append(fields | common)
    made = told(records)
    json.dumps(made)
    assert page(made)
    reasons = {row["reason"] for row in made["runs"][0]["reasons"]["rows"]}
    assert reasons | {"connect_failed"} == {reason.value for reason in CloseReason}


# -- anything ------------------------------------------------------------------------------------------------

_VALUES = st.sampled_from(
    [
        *(None, True, False, 0, 1, 7, -1, 2**62, 2**70, 0.5, -1.0, 1e300, float("inf"), float("nan")),
        *("", "x", "\u202e", "<script>", "rejected", "failed", "full", "error", "critical"),
        *("2026-11-26T12:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "12:00"),
        *([], ["x"], {}, {"x": 1}, {"x": "y"}, {"x": None}, {"drained": 1}),
    ]
)
_READ = [
    *(
        "level",
        "message",
        "labels",
        "client_ip",
        "client_port",
        "target_ip",
        "reason",
        "error",
        "error_from",
        "acl",
    ),
    *(
        "bytes_from_client",
        "bytes_from_target",
        "duration_ms",
        "count",
        "refused",
        "first_at",
        "last_at",
        "limit",
    ),
    *(
        "problem",
        "command",
        "arguments",
        "peer_uid",
        "ok",
        "expires_at",
        "listen_ip",
        "listen_port",
        "target_host",
    ),
    *("target_port", "opened_by", "host", "options", "clock_synchronised", "attempts", "admitted", "rejected"),
    *("closed", "uptime_s", "log_detail", "version", "pid", "max_sessions"),
]
"""What a report looks at."""

_EVENTS = st.sampled_from(sorted({message.event for message in MESSAGES}))
_RECORDS = st.builds(
    lambda event, seq, session, timestamp, relay_id, fields: {
        **fields,
        "event": event,
        "seq": seq,
        "session": session,
        "timestamp": timestamp,
        "relay_id": relay_id,
    },
    _EVENTS | _VALUES,
    st.integers(1, 20) | _VALUES,
    st.integers(1, 5) | _VALUES,
    st.just("2026-11-26T12:00:00.000000Z") | _VALUES,
    st.just("r") | _VALUES,
    st.dictionaries(st.sampled_from(_READ), _VALUES, max_size=8),
)


@given(st.lists(_RECORDS, max_size=12))
def test_any_records_give_a_report(records):
    made = told(records)
    assert made["verdict"] in {"whole", "open", "broken"}
    json.dumps(made, allow_nan=False)
    assert page(made).endswith(b"</html>\n")
    for run in made["runs"]:
        totals = run["totals"]
        for name in ("clients", "reasons", "targets", "rules"):
            rows = [*run[name]["rows"], run[name]["others"]]
            assert sum(row["sessions"] for row in rows) == totals["sessions"]
            assert sum(row["bytes_from_client"] for row in rows) == totals["bytes_from_client"]
        for name in ("refused", "causes"):
            assert sum(row["count"] for row in (*run[name]["rows"], run[name]["others"])) == totals["refused"]
        assert sum(run_records(made)) + made["records_left_out"] <= made["records"]


def run_records(made):
    """How many records each run has."""
    return [run["records"] for run in made["runs"]]


def test_no_record_at_all_is_no_whole_log():
    made = told([])
    assert (made["verdict"], made["first"]) == ("broken", None)
    assert b"Broken: no record was found." in page(made)
