"""The journal: whatever is written is one line of valid JSON below 4096 bytes, in sequence."""

import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inputs import Written

from mprelay.config.parameters import LABELS_LIMIT, PARAMETERS
from mprelay.core.ledger import UnknownSession
from mprelay.core.protocol import Closed, CloseReason, Connected, Progress
from mprelay.core.texts import ACL_LIMIT, NAME_LIMIT, PROBLEM_LIMIT, VALUE_LIMIT, cut, shown
from mprelay.records import catalogue
from mprelay.records.catalogue import MESSAGES
from mprelay.records.journal import Clock, Journal

NASTY = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cc", "Zl", "Zp", "Cs"])),
    st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.text("\U0001f4a5\x01\u2028", min_size=300),
)


@pytest.fixture
def written():
    """Where the lines end up."""
    return Written()


def journal(written, **options):
    """A journal of a relay to 192.0.2.1:80."""
    return Journal(written, limit=2, target=("192.0.2.1", 80), **options)


def records(written):
    """What was written so far."""
    return [json.loads(line) for line in written.lines]


def test_a_session_from_attempt_to_end(written):
    """All eight messages, in order, with the same facts."""
    book = journal(written)
    session = book.admit("192.0.2.7", 4711, 1.0, 50.0)
    book.ledger.workers.open(3, 10)
    book.ledger.workers.place(session, 50.0)
    book.allocated(session, 1.0)
    book.connected(Connected(1, 1.5, 12.3456, 40000))
    book.progress(Progress(1, 5, 6, 4, 3))
    reason = CloseReason.TARGET_READ_CLOSED
    book.closed(
        Closed(1, 2.0, 1000.0, reason, "ECONNRESET", "client", "reset", "end", "192.0.2.99", 7, 8, 6, 5), reason
    )
    book.stopped("drained", 3.0)
    book.flush()
    got = records(written)
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
    }
    assert (got[8]["closed"], got[8]["admitted"]) == ({"target_read_closed": 1}, 1)
    with pytest.raises(UnknownSession):
        book.progress(Progress(1, 5, 6, 4, 3))


def test_a_lost_session_keeps_the_last_known_figures(written):
    """What a dead worker had reported."""
    book = journal(written)
    session = book.admit("192.0.2.7", 4711, 1.0, 50.0)
    book.progress(Progress(1, 5, 6, 4, 3))
    book.lost(session, 9.0, 58.0, CloseReason.WORKER_LOST)
    book.flush()
    last = records(written)[-1]
    assert (last["bytes_from_client"], last["bytes_from_target"], last["duration_ms"]) == (5, 6, 8000.0)
    assert (last["bytes_to_client"], last["bytes_to_target"]) == (4, 3)
    assert (last["client_end"], last["target_end"], last["error_from"]) == (None, None, None)
    assert book.ledger.active == 0


def test_session_detail_writes_how_sessions_end_and_refusals(written):
    """16 and 18 are left out too; `seq` has no gap for what is left out."""
    book = journal(written, every_session=False)
    for _ in range(3):
        book.admit("192.0.2.7", 1, 1.0, 1.0)
    book.reject("192.0.2.8", 1, 1.0, "10.0.0.0/8")
    book.closed(Closed(2, 2.0, 1.0, *[None] * 6, 0, 0, 0, 0), CloseReason.DRAINED)
    book.flush()
    assert [(r["seq"], r["event"]) for r in records(written)] == [
        (1, "connection.pool_exhausted"),
        (2, "connection.rejected"),
        (3, "session.closed"),
    ]


@given(NASTY, NASTY, st.dictionaries(NASTY.map(shown), NASTY.map(shown), max_size=3))
def test_no_text_breaks_a_record(value, problem, labels):
    """Newlines, quotes, NUL, half characters, any length: one line, valid, below 4096 bytes."""
    while len(json.dumps(labels, ensure_ascii=False).encode()) > LABELS_LIMIT:
        labels.popitem()
    for as_text in (False, True):
        written = Written()
        book = journal(written, labels=labels, as_text=as_text)
        book.refuse("label", value, catalogue.CONFIG_INVALID, repr(problem))
        book.flush()
        (line,) = written.lines
        assert len(line) < 4096
        assert line.endswith(b"\n")
        text = line.decode()
        assert len(text.splitlines() if as_text else text.split("\n")) == (1 if as_text else 2)
        if not as_text:
            record = json.loads(line)
            assert record.get("labels", {}) == labels
            assert record["value"] == shown(value)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.event)
def test_every_entry_at_its_largest_stays_below_the_limit(message, written):
    """All fields as long as they can be, with the largest labels."""
    long = "\x01" * VALUE_LIMIT
    ip = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    figures = {"pid": 2**31, "cpu_percent": 12345.6, "rss": 2**60, "fds": 10**6}
    large = {
        "parameter": max((p.name for p in PARAMETERS), key=len),
        "value": long,
        "problem": "\U0001f4a5" * (PROBLEM_LIMIT // 4),  # repr has escaped what is not printable
        "place": "x" * 60,
        "detail": "x" * 200,
        "acl": "x" * ACL_LIMIT,
        "host": "\x01" * NAME_LIMIT,
        "opened_by": "\x01" * NAME_LIMIT,
        "error": "x" * 200,
        "supervisor": figures,
        "worker_stats": [{"worker": 64, **figures, "sessions": 10**6}] * 16,
        "closed": {reason.value: 2**40 for reason in CloseReason},
        "reason": max(CloseReason, key=len).value,
    }
    fields = {name: large.get(name, 2**62) for name in message.fields}
    connection = {"client_ip": ip, "client_port": 65535, "session": 2**62, "target_ip": ip, "target_port": 65535}
    fields = connection | {"worker": 64, "errno": 105, "listen_port": 65535} | large | fields
    wanted = {"client_ip", "client_port", "session", "target_ip", "target_port", "worker", *message.fields}
    wanted |= set(re.findall(r"{(\w+)}", message.sentence))
    book = journal(written, labels={"k": "x" * (LABELS_LIMIT - 9)})
    book.write(message, 4e9, **{name: fields[name] for name in wanted})
    book.flush()
    assert len(written.lines[0]) < 4096


@pytest.mark.parametrize("bad", ["\x01", '"', "\U0001f4a5", "\udcff", "x"])
def test_the_unexpected_stays_below_the_limit(written, bad):
    """Whatever an exception says of itself, and wherever it was."""
    book = journal(written, labels={"k": "x" * (LABELS_LIMIT - 9)})
    book.unexpected(4e9, bad * 300, bad * 300, 64)
    book.flush()
    (line,) = written.lines
    assert len(line) < 4096
    assert json.loads(line)["event"] == "internal.error"


def test_totals_stay_a_number_that_collectors_take(written):
    """A worker that lies about bytes must not cost the last record."""
    book = journal(written)
    for _ in range(9):
        session = book.admit("192.0.2.7", 1, 1.0, 1.0)
        book.progress(Progress(session.serial, *[2**60 - 1] * 4))
        book.lost(session, 1.0, 1.0, CloseReason.WORKER_LOST)
    book.stopped("drained", 1.0)
    book.flush()
    last = records(written)[-1]
    assert (last["bytes_from_client"], last["bytes_from_target"]) == (2**63 - 1, 2**63 - 1)


def test_text_is_the_manuals_sentence(written):
    """TIMESTAMP LEVEL message."""
    book = journal(written, as_text=True)
    book.reject("192.0.2.8", 1, 1.25, "10.0.0.0/8")
    book.flush()
    attempt = b"1970-01-01T00:00:01.250000Z INFO Connection attempt made from 192.0.2.8.\n"
    reject = b"1970-01-01T00:00:01.250000Z WARNING Connection from 192.0.2.8 rejected due to ACL mismatch.\n"
    assert written.lines == [attempt, reject]


def test_text_shows_beside_the_sentence_what_it_leaves_out(written):
    """Why a start failed, what is wrong with an argument, and how a session went; JSON has it in fields."""
    book = journal(written, as_text=True)
    wrong = "<fwd port> '0' must be a whole number"
    book.refuse("fwd_port", "0", catalogue.FWD_PORT_INVALID, wrong)
    book.refuse("workers", "0", catalogue.CONFIG_INVALID, "--workers\n'0' must be more.")
    book.write(catalogue.LISTENER_BIND_FAILED, error="EADDRINUSE")
    book.write(catalogue.POOL_START_FAILED, error=None, detail="worker 1 hangs")
    book.write(catalogue.WORKER_DIED, worker=1, pid=2, exitcode=None, signal="SIGKILL")
    book.write(catalogue.WORKER_DIED, worker=1, pid=2, exitcode=70, signal=None)
    book.write(catalogue.WORKER_EXITED, worker=1, pid=2, exitcode=0, signal=None)
    book.stopped("drained", 1.0)
    book.flush()
    assert [line.decode().split(" ", 1)[1].rstrip("\n") for line in written.lines] == [
        f"ERROR Error: <fwd port> must be between 1 and 65535 inclusive. ({wrong})",
        "ERROR Error: --workers\\x0a'0' must be more.",
        "CRITICAL Error: Could not bind listener port to socket. (EADDRINUSE)",
        "CRITICAL Error: Unable to start the maintenance thread. (worker 1 hangs)",
        "ERROR Worker 1 died; its sessions are lost. (SIGKILL)",
        "ERROR Worker 1 died; its sessions are lost. (exit code 70)",
        "INFO Worker 1 has ended.",
        "INFO The relayer has stopped. (drained)",
    ]


@pytest.mark.parametrize(("error", "last"), [(None, ""), ("ECONNRESET", ", ECONNRESET")])
def test_text_shows_how_a_session_went(written, error, last):
    """Client's port, bytes both ways, seconds, and the error's name."""
    book = journal(written, as_text=True)
    book.admit("192.0.2.7", 4711, 1.0, 50.0)
    reason = CloseReason.TARGET_READ_CLOSED
    book.closed(
        Closed(1, 2.0, 1234.5678, reason, error, None, None, None, "192.0.2.99", 78, 187, 187, 78), reason
    )
    book.flush()
    assert written.lines[-1].decode().split(" ", 1)[1] == (
        "INFO Session handler serial number 1 terminated due to target read closure. "
        f"(client port 4711, 78 bytes from the client, 187 from the target, 1.235 s{last})\n"
    )


@pytest.mark.parametrize(
    ("error", "last"),
    [("EHOSTUNREACH", " (No route to host)"), (None, ""), ("errorcode", ""), ("{x}", ""), ("ENOSUCH", "")],
)
def test_a_connect_failure_that_is_no_refusal_says_so(written, error, last):
    """In the message too, in brackets; nothing where a worker reports what is no errno."""
    book = journal(written)
    book.admit("192.0.2.7", 4711, 1.0, 50.0)
    reason = CloseReason.CONNECT_FAILED
    book.closed(Closed(1, 2.0, 1.0, reason, error, None, None, None, "192.0.2.99", 0, 0, 0, 0), reason)
    book.flush()
    closed = records(written)[-1]
    sentence = "The target refused the connection attempt for session handler serial number 1."
    assert (closed["message"], closed["error"]) == (sentence + last, error)


@given(st.floats(0, 4e9))
def test_clock_shows_what_the_calendar_says(at):
    """RFC 3339, UTC, microseconds, also when the time goes back."""
    from datetime import UTC, datetime  # noqa: PLC0415

    clock = Clock()
    clock.show(at + 1)
    seen = datetime.strptime(clock.show(at), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(seen.timestamp() - at) < 2e-6


def test_relay_ids_differ(written):
    """Unique per run."""
    assert journal(written).relay_id != journal(written).relay_id


def test_shown_is_always_printable_unicode():
    """Half characters as escapes, long ones cut."""
    assert shown(os.fsdecode(b"a\xff")) == "a\\udcff"
    assert len(shown("x" * 1000)) == VALUE_LIMIT
    assert shown("é") == "é"


@given(NASTY, st.integers(0, 40))
def test_cut_keeps_the_longest_beginning_that_fits(value, most):
    """Counted as it stands in the record; no character is halved."""
    kept = cut(value, most)
    valid = value.encode("utf-8", "backslashreplace").decode()
    assert valid.startswith(kept)
    size = len(json.dumps(kept, ensure_ascii=False).encode()) - 2
    assert size <= most
    if kept != valid:
        longer = valid[: len(kept) + 1]
        assert len(json.dumps(longer, ensure_ascii=False).encode()) - 2 > most
