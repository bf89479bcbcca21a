"""What is known of the running relay and of its sessions, for whoever looks: an operator, the metrics."""

import os
import time
from typing import Any

from mprelay import __version__
from mprelay.config.validation import Config
from mprelay.core.ledger import Session
from mprelay.core.phases import RunState
from mprelay.core.texts import ACL_LIMIT, cut
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.door import Door
from mprelay.supervisor.lifetime import Lifetime


class Status:
    """Looks at one run, which has begun at `started` (monotonic, seconds). It changes nothing."""

    def __init__(
        self,
        config: Config,
        state: RunState,
        *,
        recorder: Recorder,
        writer: Writer,
        book: Book,
        crew: Crew,
        door: Door,
        lifetime: Lifetime,
        started: float,
    ) -> None:
        self._config = config
        self._state = state
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self._crew = crew
        self._door = door
        self._lifetime = lifetime
        self._started = started

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self._started, 3)

    def read(self) -> dict[str, Any]:
        """Return everything but the sessions, by the names that records have."""
        config, book = self._config, self._book
        ip, port, *_ = self._door.listener.address
        rules, _ = config.acl
        expires_at, left = self._lifetime.expires_at, self._lifetime.left
        ready = {member.number: member for member in self._crew.ready_members()}
        return {
            "relay_id": self._recorder.relay_id,
            "version": __version__,
            "pid": os.getpid(),
            "phase": self._state.phase.name.lower(),
            "paused_by": self._door.paused_by,
            "uptime_s": self.uptime_s,
            "expires_at": self._recorder.show_time(expires_at),
            "expires_in_s": None if left is None else round(left, 3),
            "extensible_s": self._lifetime.extensible,
            "listen_ip": ip,
            "listen_port": port,
            "target_host": config.trg_host,
            "target_ip": book.target_ip,
            "target_port": config.trg_port,
            "acl": cut(rules.written, ACL_LIMIT),
            "labels": dict(config.labels),
            "active": book.ledger.active,
            "max_sessions": book.ledger.limit,
            **book.totals(),
            "closed": {reason.value: count for reason, count in book.ledger.closed.items()},
            "backlog": self._writer.backlog,
            "workers": [
                {"worker": number, "pid": ready[number].pid, "sessions": book.workers.load(number)}
                for number in sorted(ready)
            ],
        }

    def show(self, session: Session) -> dict[str, Any]:
        """Return what is known of a session, bytes as last reported."""
        now = time.monotonic()
        return {
            "session": session.serial,
            **self._book.facts(session),
            "age_s": round(now - session.admitted_at, 3),
            "idle_s": round(now - session.heard_at, 3),
            "bytes_from_client": session.bytes_from_client,
            "bytes_from_target": session.bytes_from_target,
        }
