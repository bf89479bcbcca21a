"""Ledger and roster as a rule-based state machine, beside a naive model."""

from collections import Counter
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mprelay.core.ledger import Ledger, NoSlot, UnknownSession
from mprelay.core.protocol import AWAITED_FROM, HEADER_TIME, CloseReason, Progress
from mprelay.core.rates import client_of
from mprelay.core.roster import LATE_LIMIT, PROBATION, PROGRESS_AFTER, SLACK, Booking, NoRoom, Silent
from mprelay.worker.deadlines import PROGRESS_INTERVAL

LIMIT = 6
CAPACITY = 3
CONNECT, IDLE = 2.0, 20.0
FIRST, NEXT = CONNECT + SLACK, IDLE + PROGRESS_AFTER + SLACK


class Awaiting(Booking):
    """A connection whose header is awaited."""


class Books(RuleBasedStateMachine):
    """Admissions, reports, silences, closes and deaths in any order. The model consists of a few dicts."""

    def __init__(self):
        super().__init__()
        self.ledger = Ledger(LIMIT, (CONNECT, IDLE))
        self.now = 100.0
        self.held = {}  # serial: worker or None
        self.awaited = {}  # number: worker or None, of connections whose header is awaited
        self.bookings = {}  # the same, as the roster knows them
        self.up = set()  # workers that may get sessions, late ones included
        self.handicaps = {}  # worker: (sessions, until)
        self.heard = {}  # serial: (last report, how long until the next)
        self.reported = set()
        self.owed = {}  # late worker: serial: (since when it is overdue, its last report)
        self.ended = Counter()
        self.attempts = self.rejected = self.abandoned = self.exhausted = self.disbelieved = self.limited = 0
        self.moved: dict[int, tuple[int, ...]] = {}  # from the client and from the target, by serial
        self.last_serial = self.last_number = 0

    def loads(self):
        """The sessions of each worker that may get new ones."""
        ready = self.up - set(self.owed)
        return {worker: self.load(worker) for worker in ready}

    def load(self, worker):
        """The sessions of a worker, and its connections that may become some."""
        return [*self.held.values(), *self.awaited.values()].count(worker)

    def weight(self, worker, load):
        """The apparent load of a worker, its handicap included."""
        sessions, until = self.handicaps.get(worker, (0, 0.0))
        return load + (sessions if self.now < until else 0)

    def answer(self, serial):
        """Expect no further report of the session."""
        self.heard.pop(serial, None)
        for worker, serials in list(self.owed.items()):
            serials.pop(serial, None)
            if not serials:
                del self.owed[worker]

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]))
    def time_passes(self, seconds):
        """Nothing else happens."""
        self.now += seconds

    @rule(worker=st.integers(1, 3), replaces=st.booleans())
    def worker_comes(self, worker, replaces):
        """A worker becomes ready, or the replacement of a dead one does."""
        if worker not in self.up and not self.load(worker):
            self.handicaps.pop(worker, None)
            if replaces:
                self.handicaps[worker] = max(self.loads().values(), default=0), self.now + PROBATION
            self.ledger.workers.open(worker, CAPACITY, self.now if replaces else None)
            self.up.add(worker)

    @rule()
    def reject(self):
        """The ACL refuses a client."""
        self.ledger.reject()
        self.attempts += 1
        self.rejected += 1

    @rule()
    def hold_off(self):
        """A client has come too often."""
        self.ledger.hold_off()
        self.attempts += 1
        self.limited += 1

    @rule()
    def abandon(self):
        """A client has given up."""
        self.ledger.abandon()
        self.attempts += 1
        self.abandoned += 1

    @rule()
    def admit(self):
        """A client connects, and its session is placed if a worker has room."""
        self.attempts += 1
        assert self.ledger.full == (len(self.held) + len(self.awaited) == LIMIT)
        if self.ledger.full:
            with pytest.raises(NoSlot):
                self.ledger.admit("192.0.2.7", 1234, self.now)
            self.ledger.exhaust()
            self.exhausted += 1
            return
        session = self.ledger.admit("192.0.2.7", 1234, self.now)
        self.last_serial += 1
        assert session.serial == self.last_serial
        self.heard[session.serial] = self.now, FIRST
        loads = self.loads()
        room = {w: self.weight(w, load) for w, load in loads.items() if load < CAPACITY}
        assert self.ledger.workers.has_room() == bool(room)
        if room:
            worker = self.ledger.workers.place(session, self.now)
            assert room[worker] == min(room.values())
        else:
            with pytest.raises(NoRoom):
                self.ledger.workers.place(session, self.now)
            worker = None
        self.held[session.serial] = worker

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def report(self, data):
        """A worker reports a session that goes on."""
        serial = data.draw(st.sampled_from(sorted(self.held)))
        other = self.held[serial]
        session = self.ledger.of(other, serial)
        assert session.reported == (serial in self.reported)
        self.ledger.workers.heard(session, self.now)
        assert session.reported
        self.reported.add(serial)
        self.answer(serial)
        self.heard[serial] = self.now, NEXT

    @rule()
    def judge(self):
        """A worker that owes a report gets no new session; one that has owed it for too long is returned."""
        silent = self.ledger.workers.judge(self.now)
        for serial, (last, within) in sorted(self.heard.items(), key=lambda item: item[1][1]):
            if last + within > self.now:
                continue
            del self.heard[serial]
            worker = self.held.get(serial) or self.awaited.get(serial)
            if worker in self.up:
                self.owed.setdefault(worker, {})[serial] = self.now, last
        expected = {
            worker: Silent(worker, since)
            for worker, serials in self.owed.items()
            for began, since in list(serials.values())[:1]
            if began + LATE_LIMIT <= self.now
        }
        assert sorted(expected.values()) == sorted(silent)
        assert silent or self.ledger.workers.due() > self.now
        for worker in expected:
            self.ledger.workers.close(worker)
            self.up.remove(worker)
            del self.owed[worker]

    def session(self, serial):
        """The session that holds a slot under this serial; None: there is no such session."""
        return next((session for session in self.ledger.all_active() if session.serial == serial), None)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), sizes=st.tuples(*[st.integers(0, 9)] * 4))
    def count(self, data, sizes):
        """A worker reports how many bytes a session has moved so far."""
        serial = data.draw(st.sampled_from(sorted(self.held)))
        session = self.session(serial)
        self.ledger.count(session, Progress(serial, *sizes))
        self.moved[serial] = sizes[:2]
        from_client, from_target, to_client, to_target = sizes
        assert (session.bytes_from_client, session.bytes_from_target) == (from_client, from_target)
        assert (session.bytes_to_client, session.bytes_to_target) == (to_client, to_target)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(CloseReason))
    def close(self, data, reason):
        """A session ends, once."""
        serial = data.draw(st.sampled_from(sorted(self.held)))
        session = self.ledger.close(serial, reason)
        assert (session.serial, session.worker) == (serial, self.held.pop(serial))
        self.answer(serial)
        self.ended[reason] += 1
        with pytest.raises(UnknownSession):
            self.ledger.close(serial, reason)
        assert self.session(serial) is None

    @rule()
    def await_header(self):
        """A proxy connects, and a worker waits for its header."""
        if self.ledger.full:
            with pytest.raises(NoSlot):
                self.ledger.reserve()
            return
        self.ledger.reserve()
        booking = Awaiting()
        booking.serial, booking.worker = AWAITED_FROM + self.last_number, None
        booking.heard_at, booking.reported = self.now, False
        self.last_number += 1
        self.ledger.workers.await_header(booking)
        self.bookings[booking.serial] = booking
        self.awaited[booking.serial] = None
        self.heard[booking.serial] = self.now, HEADER_TIME + SLACK
        if self.ledger.workers.has_room():
            self.awaited[booking.serial] = self.ledger.workers.place(booking, self.now)

    @precondition(lambda self: self.awaited)
    @rule(data=st.data(), admitted=st.booleans())
    def judge_header(self, data, admitted):
        """A header has come, or never will. The connection becomes a session, or is refused."""
        number = data.draw(st.sampled_from(sorted(self.awaited)))
        booking, worker = self.bookings.pop(number), self.awaited.pop(number)
        self.answer(number)
        self.ledger.unreserve()
        self.attempts += 1
        if not admitted:
            self.ledger.disbelieve()
            self.disbelieved += 1
            self.ledger.workers.hand_on(booking)
            return
        session = self.ledger.admit("192.0.2.7", 1234, self.now, ("192.0.2.1", 80))
        self.ledger.workers.hand_on(booking, session)
        self.last_serial += 1
        assert (session.serial, session.worker) == (self.last_serial, worker)
        self.held[session.serial] = worker
        self.heard[session.serial] = self.now, FIRST

    @precondition(lambda self: set(self.heard) & set(self.held))
    @rule(data=st.data())
    def place_elsewhere(self, data):
        """A hand-over failed, so the session goes to another worker, or to none."""
        serial = data.draw(st.sampled_from(sorted(set(self.heard) & set(self.held))))
        before = self.held[serial]
        but = set() if before is None else {before}
        try:
            self.held[serial] = self.ledger.workers.place(self.session(serial), self.now, but)
            assert self.held[serial] not in but
        except NoRoom:
            self.held[serial] = None

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def worker_is_closed(self, data):
        """The supervisor no longer believes a worker, and is about to kill it."""
        worker = data.draw(st.sampled_from(sorted(self.up)))
        self.up.remove(worker)
        self.owed.pop(worker, None)
        self.ledger.workers.close(worker)

    @precondition(lambda self: set(self.held.values()) - {None})
    @rule(data=st.data())
    def worker_dies(self, data):
        """The sessions of a dead worker are lost, and no others."""
        worker = data.draw(st.sampled_from(sorted(set(self.held.values()) - {None})))
        self.up.discard(worker)
        self.owed.pop(worker, None)
        self.ledger.workers.close(worker)
        lost = [session.serial for session in self.ledger.of_worker(worker)]
        assert lost == sorted(serial for serial, held in self.held.items() if held == worker)
        for serial in lost:
            self.ledger.close(serial, CloseReason.WORKER_LOST)
            del self.held[serial]
            self.answer(serial)
        self.ended[CloseReason.WORKER_LOST] += len(lost)

    @invariant()
    def what_is_due_is_known(self):
        """It is the nearest moment of all. There is no need to wake up earlier, and no right to sleep longer."""
        moments = [last + within for last, within in self.heard.values()]
        moments += [next(iter(serials.values()))[0] + LATE_LIMIT for serials in self.owed.values()]
        assert self.ledger.workers.due() == min(moments, default=inf)
        all_reported = all(self.heard[serial][1] == NEXT for serial in set(self.heard) & set(self.held))
        assert bool(self.ledger.workers.unreported) != all_reported

    @invariant()
    def there_is_room_exactly_if_the_model_has_room(self):
        """A late, closed or dead worker has no room."""
        assert self.ledger.workers.has_room() == any(load < CAPACITY for load in self.loads().values())

    @invariant()
    def the_books_agree(self):
        """Rule 3 of the ledger, and the limits."""
        book = self.ledger
        assert 0 <= book.active == len(self.held) <= LIMIT
        assert (book.attempts, book.rejected, book.exhausted) == (self.attempts, self.rejected, self.exhausted)
        assert (book.abandoned, book.proxy_invalid) == (self.abandoned, self.disbelieved)
        assert book.limited == self.limited
        assert book.attempts == sum(
            (book.rejected, book.limited, book.abandoned, book.proxy_invalid, book.exhausted, book.admitted)
        )
        assert book.free == LIMIT - len(self.held) - len(self.awaited)
        assert book.unused == (not self.held and not self.awaited)
        assert book.admitted == book.active + sum(book.closed.values())
        assert +book.closed == +self.ended
        totals = [sum(sizes) for sizes in zip((0, 0), *self.moved.values(), strict=True)]
        assert [book.bytes_from_client, book.bytes_from_target] == totals
        assert [session.serial for session in book.all_active()] == sorted(self.held)
        assert [session.serial for session in book.all_active(2)] == sorted(self.held)[:2]
        for worker in (1, 2, 3):
            assert book.workers.load(worker) == self.load(worker)
            for serial in range(book.admitted + 2):
                assert (book.of(worker, serial) is not None) == (self.held.get(serial) == worker)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40)


def test_an_unknown_worker_has_no_load():
    """It was never ready, so it was never opened."""
    assert Ledger(1).workers.load(7) == 0


def test_closing_a_worker_that_was_never_ready_takes_no_room():
    """Closing it changes nothing for the others."""
    ledger = Ledger(2)
    ledger.workers.open(1, 1)
    ledger.workers.close(2)
    assert ledger.workers.has_room()
    ledger.workers.place(ledger.admit("192.0.2.7", 1234, 1.0), 1.0)
    assert not ledger.workers.has_room()


def placed(ledger, now, count):
    """The workers that get `count` new sessions."""
    return [ledger.workers.place(ledger.admit("192.0.2.7", 1234, now), now) for _ in range(count)]


def test_a_replacement_is_not_preferred_for_a_while():
    """It is empty, but at first it gets no more than its share. After a while it gets what it lacks."""
    ledger = Ledger(100)
    ledger.workers.open(1, 50)
    ledger.workers.open(2, 50)
    assert placed(ledger, 1.0, 8).count(1) == 4
    ledger.workers.close(2)
    for lost in ledger.of_worker(2):
        ledger.close(lost.serial, CloseReason.WORKER_LOST)
    ledger.workers.open(2, 50, 2.0)
    assert placed(ledger, 2.0, 6).count(2) == 3
    assert placed(ledger, 2.0 + PROBATION, 4) == [2] * 4


def test_a_replacement_takes_sessions_that_no_other_worker_can():
    """A worker on probation still has room."""
    ledger = Ledger(100)
    ledger.workers.open(1, 2)
    assert placed(ledger, 1.0, 2) == [1, 1]
    ledger.workers.open(2, 2, 1.0)
    assert placed(ledger, 1.0, 2) == [2, 2]
    assert not ledger.workers.has_room()


def test_a_worker_reports_as_soon_as_the_roster_expects():
    """Worker and supervisor mean the same second."""
    assert PROGRESS_INTERVAL <= PROGRESS_AFTER


def test_lateness_is_that_of_one_session():
    """Several sessions, each a little late, do not add up to a silence of ten seconds."""
    ledger = Ledger(3, (CONNECT, IDLE))
    ledger.workers.open(1, 3)
    heard = [0.0, 4.0, 8.0]
    sessions = [ledger.admit("192.0.2.7", 1234, 0.0) for _ in heard]
    for session in sessions:
        ledger.workers.place(session, 0.0)
    for session, at in zip(sessions, heard, strict=True):
        ledger.workers.heard(session, at)
    for session, at in zip(sessions, heard, strict=True):
        assert ledger.workers.judge(at + NEXT) == []
        if session is not sessions[0]:
            ledger.close(session.serial - 1, CloseReason.IDLE_TIMEOUT)
    assert ledger.workers.judge(heard[-1] + NEXT + LATE_LIMIT - 1.0) == []
    assert ledger.workers.judge(heard[-1] + NEXT + LATE_LIMIT) == [Silent(1, heard[-1])]


def test_nothing_is_expected_of_a_worker_that_is_closed():
    """Its sessions are still booked on it until its burial."""
    ledger = Ledger(1, (CONNECT, IDLE))
    ledger.workers.open(1, 1)
    ledger.workers.place(ledger.admit("192.0.2.7", 1234, 0.0), 0.0)
    ledger.workers.close(1)
    assert ledger.workers.judge(FIRST + LATE_LIMIT + 1.0) == []
    assert ledger.workers.due() == inf
    ledger.close(1, CloseReason.WORKER_LOST)
    assert ledger.active == 0


def test_a_late_worker_that_catches_up_gets_sessions_again():
    """It may catch up by a late first report, or by a later one."""
    ledger = Ledger(2, (CONNECT, IDLE))
    ledger.workers.open(1, 2)
    session = ledger.admit("192.0.2.7", 1234, 0.0)
    assert ledger.workers.place(session, 0.0) == 1
    for now in (FIRST, FIRST + NEXT):
        assert ledger.workers.judge(now) == []
        assert not ledger.workers.has_room()
        ledger.workers.heard(session, now)
        assert ledger.workers.has_room()


def test_nothing_is_expected_of_a_session_without_a_worker():
    """It was admitted, and no worker could take it."""
    ledger = Ledger(1, (CONNECT, IDLE))
    serial = ledger.admit("192.0.2.7", 1234, 0.0).serial
    assert ledger.workers.judge(FIRST) == []
    assert not ledger.workers.unreported
    ledger.close(serial, CloseReason.HANDOFF_FAILED)
    assert ledger.active == 0


def test_the_sessions_of_each_client_are_counted_if_asked_for():
    """A network of IPv6 is one client. Nothing is kept of a client without sessions."""
    ledger = Ledger(9, by_client=True)
    first = ledger.admit("2001:db8::1", 1, 0.0)
    second = ledger.admit("2001:db8::2", 1, 0.0)
    ledger.admit("192.0.2.1", 1, 0.0)
    client = client_of("2001:db8::9")
    assert [ledger.sessions_of(one) for one in (client, "192.0.2.1", "192.0.2.2")] == [2, 1, 0]
    ledger.close(first.serial, CloseReason.DRAINED)
    assert ledger.sessions_of(client) == 1
    ledger.close(second.serial, CloseReason.WORKER_LOST)
    assert ledger._of_client == {"192.0.2.1": 1}
    assert Ledger(9).sessions_of("192.0.2.1") == 0


def test_a_connection_that_is_not_judged_holds_a_slot():
    """There is none for a session then, nor for another such connection."""
    ledger = Ledger(1)
    ledger.reserve()
    assert (ledger.full, ledger.unused, ledger.free) == (True, False, 0)
    with pytest.raises(NoSlot):
        ledger.reserve()
    with pytest.raises(NoSlot):
        ledger.admit("192.0.2.7", 1234, 1.0)
    ledger.unreserve()
    assert ledger.unused


def test_a_late_worker_catches_up_by_a_header_too():
    """What it says of the header of the one connection that made it late."""
    ledger = Ledger(2, (CONNECT, IDLE))
    ledger.workers.open(1, 2)
    connection = Booking()
    connection.serial, connection.worker = 1, None
    connection.heard_at, connection.reported = 0.0, False
    ledger.workers.await_header(connection)
    ledger.workers.place(connection, 0.0)
    assert ledger.workers.judge(HEADER_TIME + SLACK) == []
    assert not ledger.workers.has_room()
    ledger.workers.hand_on(connection)
    assert ledger.workers.has_room()


def test_a_session_is_found_by_its_serial():
    """As long as it holds a slot."""
    ledger = Ledger(1)
    session = ledger.admit("192.0.2.7", 1234, 1.0)
    assert ledger.session(session.serial) is session
    ledger.close(session.serial, CloseReason.KILLED)
    assert ledger.session(session.serial) is None
