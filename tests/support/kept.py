"""What the records are tested with: a recorder whose lines are kept, and a book that writes by it."""

import json
from math import inf

from mprelay.core.admission import ADMITTED
from mprelay.core.ledger import Ledger
from mprelay.records.recorder import Recorder
from mprelay.records.render import RENDERERS
from mprelay.supervisor.book import Book


class Kept:
    """Recorder and book of a relay to `target`, and what they have written."""

    def __init__(
        self, log_format="json", *, labels=None, limit=2, target=("192.0.2.1", 80), every_message=True
    ) -> None:
        self.lines: list[bytes] = []
        self.recorder = Recorder(RENDERERS[log_format], self.lines.extend, labels=labels)
        ledger = Ledger(limit, (inf, inf))
        self.book = Book(self.recorder, ledger, target, inbound_ip=None, every_message=every_message)

    def admit(self, client, at, now):
        """Let a client in; its session."""
        return self.book.enter(client, ADMITTED, at, now)

    def records(self) -> list[dict]:
        """What was written so far."""
        return [json.loads(line) for line in self.lines]
