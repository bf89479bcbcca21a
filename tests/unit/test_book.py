"""The book: its counts agree with what it writes."""

import pytest
from support.kept import ADMITTED, Kept

from mprelay.core.admission import ABANDONED, EXHAUSTED, Outcome, Verdict
from mprelay.core.ledger import NoSlot
from mprelay.core.protocol import Closed, CloseReason, Connected, Measured, Progress
from mprelay.records import catalogue


def test_a_session_from_attempt_to_end():
    """All eight messages are written, in order, with the same facts."""
    kept = Kept()
    session = kept.admit(("192.0.2.7", 4711), 1.0, 50.0)
    kept.book.ledger.workers.open(3, 10)
    kept.book.ledger.workers.place(session, 50.0)
    kept.book.allocated(session, 1.0)
    assert kept.book.connected(3, Connected(1, 1.5, 12.3456, 40000), 51.0)
    kept.book.progress(3, Progress(1, 5, 6, 4, 3), 51.0)
    reason = CloseReason.TARGET_READ_CLOSED
    kept.close(
        Closed(1, 2.0, 1000.0, reason, "ECONNRESET", "client", "reset", "end", "192.0.2.99", 7, 8, 6, 5), reason
    )
    kept.book.stopped("drained", 3.0)
    kept.recorder.flush()
    got = kept.records()
    assert [r["msg_id"] for r in got] == [16, 18, 26, 28, 31, 33, 37, 38, None]
    assert [r["seq"] for r in got] == list(range(1, 10))
    assert got[3]["connect_ms"] == 12.346
    assert got[3]["timestamp"] == "1970-01-01T00:00:01.500000Z"
    assert [r.get("worker") for r in got] == [None, None, 3, 3, 3, 3, 3, 3, None]
    assert {name: got[7][name] for name in catalogue.CLOSED_FIELDS} == {
        "reason": "target_read_closed",
        "error": "ECONNRESET",
        "error_from": "client",
        "client_end": "reset",
        "target_end": "end",
        "bytes_from_client": 7,
        "bytes_from_target": 8,
        "bytes_to_client": 6,
        "bytes_to_target": 5,
        "connect_ms": 12.346,
        "duration_ms": 1000.0,
        "inbound_ip": "192.0.2.99",
        "outbound_port": 40000,
        "acl": "ANY",
    }
    assert (got[8]["closed"], got[8]["admitted"]) == ({"target_read_closed": 1}, 1)
    assert not kept.book.progress(3, Progress(1, 5, 6, 4, 3), 51.0)


def test_a_lost_session_keeps_the_last_known_figures():
    """They are the last figures that the dead worker reported."""
    kept = Kept()
    session = kept.admit(("192.0.2.7", 4711), 1.0, 50.0)
    kept.book.workers.open(3, 10)
    kept.book.workers.place(session, 50.0)
    assert kept.book.progress(3, Progress(1, 5, 6, 4, 3), 51.0)
    kept.book.lost(session, 9.0, 58.0, CloseReason.WORKER_LOST)
    kept.recorder.flush()
    last = kept.records()[-1]
    assert (last["bytes_from_client"], last["bytes_from_target"], last["duration_ms"]) == (5, 6, 8000.0)
    assert (last["bytes_to_client"], last["bytes_to_target"]) == (4, 3)
    assert (last["client_end"], last["target_end"], last["error_from"]) == (None, None, None)
    assert kept.book.ledger.active == 0


def test_session_detail_writes_how_sessions_end_and_refusals():
    """Records 16 and 18 are left out too. `seq` has no gap for records that are left out."""
    kept = Kept(every_message=False)
    for verdict in (ADMITTED, ADMITTED, EXHAUSTED):
        kept.book.enter(("192.0.2.7", 1), verdict, 1.0, 1.0)
    kept.book.enter(("192.0.2.8", 1), Verdict(Outcome.REJECTED, "10.0.0.0/8"), 1.0, 1.0)
    kept.close(Closed(2, 2.0, 1.0, *[None] * 6, 0, 0, 0, 0), CloseReason.DRAINED)
    kept.recorder.flush()
    assert [(r["seq"], r["event"]) for r in kept.records()] == [
        (1, "connection.pool_exhausted"),
        (2, "connection.rejected"),
        (3, "session.closed"),
    ]


def test_totals_stay_numbers_that_collectors_accept():
    """A worker that lies about bytes must not cost the last record."""
    kept = Kept()
    kept.book.workers.open(1, 9)
    for _ in range(9):
        session = kept.admit(("192.0.2.7", 1), 1.0, 1.0)
        kept.book.workers.place(session, 1.0)
        assert kept.book.progress(1, Progress(session.serial, *[2**60 - 1] * 4), 1.0)
        kept.book.lost(session, 1.0, 1.0, CloseReason.WORKER_LOST)
    kept.book.stopped("drained", 1.0)
    kept.recorder.flush()
    last = kept.records()[-1]
    assert (last["bytes_from_client"], last["bytes_from_target"]) == (2**63 - 1, 2**63 - 1)


@pytest.mark.parametrize(
    ("error", "last"),
    [("EHOSTUNREACH", " (No route to host)"), (None, ""), ("errorcode", ""), ("{x}", ""), ("ENOSUCH", "")],
)
def test_a_connect_failure_that_is_no_refusal_says_so(error, last):
    """The message has the error in brackets, or nothing if the worker's report has no valid errno."""
    kept = Kept()
    kept.admit(("192.0.2.7", 4711), 1.0, 50.0)
    reason = CloseReason.CONNECT_FAILED
    kept.close(Closed(1, 2.0, 1.0, reason, error, None, None, None, "192.0.2.99", 0, 0, 0, 0), reason)
    kept.recorder.flush()
    closed = kept.records()[-1]
    sentence = "The target refused the connection attempt for session handler serial number 1."
    assert (closed["message"], closed["error"]) == (sentence + last, error)


def test_events_of_a_session_that_its_worker_does_not_have_are_not_written():
    """Nor is a second connection of the same session."""
    kept = Kept(every_message=False)
    session = kept.admit(("192.0.2.7", 1), 1.0, 1.0)
    kept.book.workers.open(1, 9)
    kept.book.workers.place(session, 1.0)
    assert not kept.book.connected(2, Connected(1, 1.0, 1.0, 40000), 1.0)
    assert kept.book.connected(1, Connected(1, 1.0, 1.0, 40000), 1.0)
    assert not kept.book.connected(1, Connected(1, 1.0, 1.0, 40001), 1.0)
    assert not kept.book.progress(1, Progress(2, 5, 6, 4, 3), 1.0)
    assert session.outbound_port == 40000


def test_each_verdict_is_counted_and_written():
    """Each is written once, with the reason for the decision."""
    kept = Kept(limit=1)
    client = ("192.0.2.7", 4711)
    kept.book.enter(client, Verdict(Outcome.REJECTED, "10.0.0.0/8"), 1.0, 1.0)
    kept.book.enter(client, ABANDONED, 1.0, 1.0, 3000.0)
    kept.admit(client, 1.0, 1.0)
    kept.book.enter(client, EXHAUSTED, 1.0, 1.0)
    with pytest.raises(NoSlot):
        kept.admit(client, 1.0, 1.0)
    kept.recorder.flush()
    assert [(r["event"], r.get("acl"), r.get("waited_ms"), r.get("active")) for r in kept.records()[1::2]] == [
        ("connection.rejected", "10.0.0.0/8", None, None),
        ("connection.abandoned", None, 3000.0, None),
        ("connection.accepted", "ANY", None, None),
        ("connection.pool_exhausted", None, None, 1),
    ]
    totals = kept.book.totals()
    assert (totals["attempts"], totals["rejected"], totals["abandoned"]) == (4, 1, 1)
    assert (totals["admitted"], totals["exhausted"]) == (1, 1)


def test_refusals_are_summed_up_when_the_log_has_no_room_for_them():
    """Each refusal is counted, and they are written together. An admitted client has its own records."""
    kept = Kept(every_message=False)
    kept.book.summing_up = True
    for at in (1.0, 2.0, 3.0):
        kept.book.enter(("192.0.2.7", 1), Verdict(Outcome.REJECTED, "10.0.0.0/8"), at, at)
    kept.book.stopped("drained", 9.0)
    kept.recorder.flush()
    total, stopped = kept.records()
    assert (total["client_ip"], total["refused"], total["count"]) == ("192.0.2.7", "rejected", 3)
    assert (total["first_at"], total["last_at"]) == ("1970-01-01T00:00:01.000000Z", "1970-01-01T00:00:03.000000Z")
    assert stopped["rejected"] == 3


def test_all_records_of_a_proxied_connection_name_the_proxy():
    """It is counted once, as what it was."""
    kept = Kept()
    client, proxy = ("198.51.100.7", 4711), ("192.0.2.7", 80)
    invalid = Verdict(Outcome.PROXY_INVALID, problem="is of version 3")
    kept.book.enter(proxy, invalid, 1.0, 1.0, proxy=proxy)
    kept.book.enter(client, Verdict(Outcome.REJECTED, "no entry"), 1.0, 1.0, proxy=proxy)
    session = kept.book.enter(client, ADMITTED, 1.0, 1.0, proxy=proxy)
    kept.book.workers.open(1, 9)
    kept.book.workers.place(session, 1.0)
    kept.book.allocated(session, 1.0)
    kept.book.lost(session, 2.0, 2.0, CloseReason.WORKER_LOST)
    kept.recorder.flush()
    records = kept.records()
    assert [record["event"] for record in records] == [
        *("connection.attempt", "connection.proxy_invalid"),
        *("connection.attempt", "connection.rejected"),
        *("connection.attempt", "connection.accepted", "session.allocated", "session.closed"),
    ]
    assert {(record["proxy_ip"], record["proxy_port"]) for record in records} == {proxy}
    assert {record["client_ip"] for record in records[:2]} == {"192.0.2.7"}
    assert {record["client_ip"] for record in records[2:]} == {"198.51.100.7"}
    assert records[1]["message"] == "Connection from 192.0.2.7 was dropped because it is of version 3."
    totals = kept.book.totals()
    assert (totals["attempts"], totals["proxy_invalid"], totals["rejected"], totals["admitted"]) == (3, 1, 1, 1)


PATHS = ("client_rtt_ms", "target_rtt_ms", "client_retransmits", "target_retransmits")


def test_what_tcp_has_measured_stands_on_the_last_record():
    """A lost session has the names too, without values."""
    kept = Kept(every_message=False, tcp_info=True)
    for _ in range(2):
        session = kept.admit(("192.0.2.7", 1), 1.0, 1.0)
        kept.book.workers.open(session.serial, 9)
        kept.book.workers.place(session, 1.0)
    assert session.worker == 2
    assert kept.book.measured(2, Measured(2, 0.0254, None, 3, None))
    kept.close(Closed(2, 2.0, 1.0, *[None] * 6, 0, 0, 0, 0), CloseReason.DRAINED)
    lost = {session.serial: session for session in kept.book.ledger.all_active()}[1]
    kept.book.lost(lost, 1.0, 1.0, CloseReason.WORKER_LOST)
    kept.recorder.flush()
    closed = [[record[name] for name in PATHS] for record in kept.records()]
    assert closed == [[0.025, None, 3, None], [None] * 4]


def test_nothing_is_measured_that_nobody_asked_for():
    """A worker that reports it is not believed, and the record has no such field."""
    kept = Kept(every_message=False)
    session = kept.admit(("192.0.2.7", 1), 1.0, 1.0)
    kept.book.workers.open(1, 9)
    kept.book.workers.place(session, 1.0)
    assert not kept.book.measured(1, Measured(1, 1.0, 1.0, 0, 0))
    kept.book.lost(session, 1.0, 1.0, CloseReason.WORKER_LOST)
    kept.recorder.flush()
    assert not {*PATHS} & kept.records()[-1].keys()


def test_what_is_measured_must_be_of_a_session_that_the_worker_has():
    """Any other report cannot be true."""
    kept = Kept(tcp_info=True)
    assert not kept.book.measured(1, Measured(1, 1.0, 1.0, 0, 0))
