"""The ledger as a rule-based state machine, beside a naive model."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mprelay.events import CloseReason
from mprelay.ledger import Ledger, NoRoom, UnknownSession

LIMIT = 6
CAPACITY = 3


class Books(RuleBasedStateMachine):
    """Admissions, closes and deaths in whatever order; the model is a dict."""

    def __init__(self):
        super().__init__()
        self.ledger = Ledger(LIMIT)
        self.held = {}  # serial: worker or None
        self.up = set()
        self.ended = Counter()
        self.attempts = self.rejected = self.exhausted = self.bytes = 0
        self.last_serial = 0

    @rule(worker=st.integers(1, 3))
    def worker_comes(self, worker):
        """A worker becomes ready, or a replacement does."""
        if worker not in self.up:
            self.ledger.open_worker(worker, CAPACITY)
            self.up.add(worker)

    @rule()
    def reject(self):
        """The ACL refuses."""
        self.ledger.reject()
        self.attempts += 1
        self.rejected += 1

    @rule()
    def admit(self):
        """Somebody comes."""
        self.attempts += 1
        entry = self.ledger.admit("192.0.2.7", 1234, 1.0)
        assert (entry is None) == (len(self.held) == LIMIT)
        if entry is None:
            self.exhausted += 1
            return
        self.last_serial += 1
        assert entry.serial == self.last_serial
        loads = {w: sum(held == w for held in self.held.values()) for w in self.up}
        room = {w: load for w, load in loads.items() if load < CAPACITY}
        assert self.ledger.has_room() == bool(room)
        if room:
            worker = self.ledger.place(entry)
            assert loads[worker] == min(room.values())
        else:
            with pytest.raises(NoRoom):
                self.ledger.place(entry)
            worker = None
        self.held[entry.serial] = worker

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(CloseReason), size=st.integers(0, 9))
    def close(self, data, reason, size):
        """A session ends, once."""
        serial = data.draw(st.sampled_from(sorted(self.held)))
        self.ledger.entry(serial).bytes_from_client = size
        entry = self.ledger.close(serial, reason)
        assert (entry.serial, entry.worker) == (serial, self.held.pop(serial))
        self.ended[reason] += 1
        self.bytes += size
        with pytest.raises(UnknownSession):
            self.ledger.close(serial, reason)
        with pytest.raises(UnknownSession):
            self.ledger.entry(serial)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def place_elsewhere(self, data):
        """A hand-over failed: another worker, or nobody."""
        serial = data.draw(st.sampled_from(sorted(self.held)))
        before = self.held[serial]
        but = set() if before is None else {before}
        try:
            self.held[serial] = self.ledger.place(self.ledger.entry(serial), but)
            assert self.held[serial] not in but
        except NoRoom:
            self.held[serial] = None

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def worker_dies(self, data):
        """Exactly its sessions are lost."""
        worker = data.draw(st.sampled_from(sorted(self.up)))
        self.up.remove(worker)
        self.ledger.close_worker(worker)
        lost = [entry.serial for entry in self.ledger.of_worker(worker)]
        assert lost == sorted(serial for serial, held in self.held.items() if held == worker)
        for serial in lost:
            self.ledger.close(serial, CloseReason.WORKER_LOST)
            del self.held[serial]
        self.ended[CloseReason.WORKER_LOST] += len(lost)

    @invariant()
    def the_books_agree(self):
        """Rule 3, and the limits."""
        book = self.ledger
        assert 0 <= book.active == len(self.held) <= LIMIT
        assert (book.attempts, book.rejected, book.exhausted) == (self.attempts, self.rejected, self.exhausted)
        assert book.attempts == book.rejected + book.exhausted + book.admitted
        assert book.admitted == book.active + sum(book.closed.values())
        assert +book.closed == +self.ended
        assert book.bytes_from_client == self.bytes
        assert [entry.serial for entry in book.all_active()] == sorted(self.held)
        for worker in (1, 2, 3):
            assert book.load(worker) == sum(held == worker for held in self.held.values())
            for serial in range(book.admitted + 2):
                assert book.has(worker, serial) == (self.held.get(serial) == worker)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_load_of_nobody_is_none():
    """An unknown worker has no sessions."""
    assert Ledger(1).load(7) == 0


def test_a_worker_that_died_before_it_was_ready_takes_no_room_with_it():
    """Closing it changes nothing for the others."""
    ledger = Ledger(2)
    ledger.open_worker(1, 1)
    ledger.close_worker(2)
    assert ledger.has_room()
    ledger.place(ledger.admit("192.0.2.7", 1234, 1.0))
    assert not ledger.has_room()
