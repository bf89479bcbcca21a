"""Tools for tests of records: a recorder that keeps its lines, and a book that writes to it."""

import json
from math import inf
from typing import Any, Final

from mprelay.core.admission import Outcome, Verdict
from mprelay.core.ledger import Ledger, Session
from mprelay.core.protocol import Address, Closed, CloseReason
from mprelay.records.about import About
from mprelay.records.recorder import Recorder
from mprelay.records.render import renderer
from mprelay.supervisor.book import Book

ADMITTED: Final = Verdict(Outcome.ADMITTED, "ANY")


class Kept:
    """Recorder and book of a relay to `target`, with the lines that they have written."""

    def __init__(
        self,
        log_format: str = "json",
        *,
        labels: dict[str, str] | None = None,
        limit: int = 2,
        target: Address = ("192.0.2.1", 80),
        every_message: bool = True,
        tcp_info: bool = False,
    ) -> None:
        self.lines: list[bytes] = []
        about = About("0.0", "gateway", None, 8080, target[0])
        detail = "full" if every_message else "session"
        render = renderer(log_format, about, terminal=False, log_detail=detail)
        self.recorder = Recorder(render, self.lines.extend, labels=labels)
        ledger = Ledger(limit, (inf, inf))
        self.book = Book(
            self.recorder, ledger, target, inbound_ip=None, every_message=every_message, tcp_info=tcp_info
        )

    def admit(self, client: Address, at: float, now: float) -> Session:
        """Admit a client; return its session."""
        session = self.book.enter(client, ADMITTED, at, now)
        assert session is not None
        return session

    def close(self, event: Closed, reason: CloseReason) -> None:
        """Close a session, as reported by its worker."""
        sessions = {session.serial: session for session in self.book.ledger.all_active()}
        self.book.closed(sessions[event.serial], event, reason)

    def records(self) -> list[dict[str, Any]]:
        """The records written so far."""
        return [json.loads(line) for line in self.lines]
