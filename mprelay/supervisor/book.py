"""The book: it enters everything that happens to connections and sessions in the ledger and the records.

    the supervisor's calls ──▶ ledger ─▶ recorder
    the workers' reports ───────▲

Rules:

1. The book owns the ledger, so that what is counted is also written.
2. A session's slot is given back in the same call that writes its ``session.closed`` record.
3. A worker is believed about its own sessions only.
"""

from typing import Final, NamedTuple

from mprelay.core.admission import Outcome, Verdict
from mprelay.core.answers import IN_WORDS
from mprelay.core.floods import Floods, Part
from mprelay.core.histogram import Durations
from mprelay.core.ledger import Ledger, Session
from mprelay.core.moved import Moved
from mprelay.core.protocol import (
    Address,
    Closed,
    CloseReason,
    Connected,
    Measured,
    PeerEnd,
    Progress,
    Side,
    Trying,
)
from mprelay.core.refusals import Kind, Refusals
from mprelay.records import catalogue
from mprelay.records.catalogue import SESSION_CLOSED, Message
from mprelay.records.recorder import LARGEST_INTEGER, Recorder
from mprelay.system.errnos import explain

_NAMES: Final = {reason: reason.value for reason in CloseReason}
_ADMITTED: Final = Outcome.ADMITTED


class _Refusal(NamedTuple):
    """How a refused connection is recorded."""

    kind: Kind
    message: Message


_REFUSALS: Final = {
    Outcome.REJECTED: _Refusal("rejected", catalogue.CONNECTION_REJECTED),
    Outcome.LIMITED: _Refusal("limited", catalogue.CONNECTION_LIMITED),
    Outcome.ABANDONED: _Refusal("abandoned", catalogue.CONNECTION_ABANDONED),
    Outcome.EXHAUSTED: _Refusal("exhausted", catalogue.CONNECTION_POOL_EXHAUSTED),
    Outcome.PROXY_INVALID: _Refusal("proxy_invalid", catalogue.CONNECTION_PROXY_INVALID),
}


class _HowItEnded(NamedTuple):
    """The facts about a session's end that only its worker knows."""

    error: str | None = None
    error_from: Side | None = None
    client_end: PeerEnd | None = None
    target_end: PeerEnd | None = None
    inbound_ip: str | None = None


class Book:
    """Ledger and records of the connections and sessions of one run."""

    def __init__(
        self,
        recorder: Recorder,
        ledger: Ledger,
        target: tuple[str, int],
        *,
        inbound_ip: str | None,
        every_message: bool,
        tcp_info: bool = False,
    ) -> None:
        self.ledger = ledger
        self.workers = ledger.workers
        self.summing_up = False
        """Whether all refused connections are summed up, which leaves the room of their records to others."""
        self.moved: Moved | None = None
        """Which sessions have moved bytes; None: that is not recorded before they end."""
        self.refusals = Refusals()
        self.durations: Durations | None = None
        """Counts how long connecting takes and sessions live, if somebody wants to know."""
        self._floods = Floods()
        self._recorder = recorder
        self._target_host, self._target_port = target
        self.target_ip: str | None = self._target_host
        """The address that new sessions try first; None: the target's name has none."""
        self._inbound_ip = inbound_ip  # None: the relay listens on all addresses
        self._every_message = every_message
        self._tcp_info = tcp_info

    # -- connections -----------------------------------------------------------------------------------------

    def enter(
        self,
        client: Address,
        verdict: Verdict,
        at: float,
        now: float,
        waited_ms: float = 0.0,
        *,
        proxy: Address | None = None,
    ) -> Session | None:
        """Enter a connection that was judged `at` (Unix time); return its session if it is admitted.

        Messages 16 and then 18, 17, 21 or ours. `now` is monotonic, in seconds; `waited_ms` is in milliseconds.
        """
        if verdict.outcome is not _ADMITTED:
            self._refuse(client, verdict, at, now, waited_ms=waited_ms, proxy=proxy)
            return None
        session = self.ledger.admit(*client, now, proxy)
        session.target_ip = self.target_ip
        session.entry = verdict.entry
        if self._every_message:
            facts = self.facts(session) | {"acl": verdict.entry}
            self._attempted(at, _who(client, proxy), catalogue.CONNECTION_ACCEPTED, facts)
        return session

    def _refuse(
        self,
        client: Address,
        verdict: Verdict,
        at: float,
        now: float,
        *,
        waited_ms: float,
        proxy: Address | None,
    ) -> None:
        kind, message = _REFUSALS[verdict.outcome]
        fields: dict[str, object]
        match verdict.outcome:
            case Outcome.REJECTED:
                self.ledger.reject()
                fields = {"acl": verdict.entry}
            case Outcome.LIMITED:
                self.ledger.hold_off()
                fields = {"limit": verdict.limit, "active": self.ledger.active}
            case Outcome.ABANDONED:
                self.ledger.abandon()
                fields = {"waited_ms": waited_ms}
            case Outcome.EXHAUSTED:
                self.ledger.exhaust()
                fields = {"active": self.ledger.limit - self.ledger.free}
            case Outcome.PROXY_INVALID:
                self.ledger.disbelieve()
                fields = {"problem": verdict.problem}
        ip, _ = client
        part = self._floods.count(ip, now)
        if self.summing_up or part is not Part.NOTHING:
            self.refusals.add(None if part is Part.CROWD else ip, kind, at)
        else:
            who = _who(client, proxy)
            self._attempted(at, who, message, who | fields)

    def _attempted(
        self, at: float, attempt: dict[str, object], outcome: Message, fields: dict[str, object]
    ) -> None:
        if self._every_message:
            self._recorder.happened(at, (catalogue.CONNECTION_ATTEMPT, attempt), (outcome, fields))
        else:
            self._recorder.happened(at, (outcome, fields))

    def write_refusals(self, most: int) -> None:
        """Write up to `most` records of refusals that were summed up."""
        for total in self.refusals.take(most):
            self._recorder.write(
                catalogue.CONNECTION_REFUSED_MORE
                if total.client_ip is not None
                else catalogue.CONNECTION_REFUSED_OF_MANY,
                client_ip=total.client_ip,
                refused=total.refused,
                count=total.times,
                first_at=self._recorder.show_time(total.first_at),
                last_at=self._recorder.show_time(total.last_at),
            )

    # -- sessions --------------------------------------------------------------------------------------------

    def allocated(self, session: Session, at: float) -> None:
        """Message 26: a worker has the session, since `at` (Unix time)."""
        if self._every_message:
            message = catalogue.SESSION_ALLOCATED
            if session.target_ip is None:
                message = self._without_address(message)
            self._recorder.happened(at, (message, self.facts(session)))

    def trying(self, worker: int, event: Trying) -> bool:
        """Note which address a session tries. No record. False: as for :meth:`connected`."""
        session = self.ledger.of(worker, event.serial)
        if session is None or session.reported:
            return False
        session.target_ip = event.target_ip
        return True

    def connected(self, worker: int, event: Connected, now: float) -> bool:
        """Messages 28, 31, 33 and 37, all of one moment: the target answered, and both directions run.

        False: the report cannot be true, and nothing is noted.
        """
        session = self.ledger.of(worker, event.serial)
        if session is None or session.reported:
            return False
        self.workers.heard(session, now)
        session.connect_ms = round(event.connect_ms, 3)
        if self.durations is not None:
            self.durations.connect.observe(event.connect_ms / 1000)
        session.outbound_port = event.outbound_port
        if self._every_message:
            facts = self.facts(session)
            with_time = facts | {"connect_ms": session.connect_ms}
            self._recorder.happened(
                event.at,
                (catalogue.SESSION_CONNECTED, with_time),
                (catalogue.SESSION_RELAYING, facts),
                (catalogue.SESSION_REQUESTER_CHANNEL_ACTIVE, facts),
                (catalogue.SESSION_TARGET_CHANNEL_ACTIVE, facts),
            )
        return True

    def progress(self, worker: int, event: Progress, now: float) -> bool:
        """Note byte counts, in case the worker is lost. No record. False: as for :meth:`connected`."""
        session = self.ledger.of(worker, event.serial)
        if session is None:
            return False
        self.workers.heard(session, now)
        if self.moved is not None and event != session.progress():
            self.moved.note(session, now)  # else bytes were acknowledged, and none moved
        self.ledger.count(session, event)
        return True

    def progressed(self, session: Session, at: float, idle_s: float) -> None:
        """Record how far a session has got that moved bytes `idle_s` seconds ago, or up to a second earlier."""
        progress = session.progress()
        facts = self.facts(session) | {
            "bytes_from_client": progress.bytes_from_client,
            "bytes_from_target": progress.bytes_from_target,
            "bytes_to_client": progress.bytes_to_client,
            "bytes_to_target": progress.bytes_to_target,
            "idle_s": round(idle_s, 3),
        }
        self._recorder.happened(at, (catalogue.SESSION_PROGRESS, facts))

    def measured(self, worker: int, event: Measured) -> bool:
        """Note what TCP has measured on a session's connections. No record. False: as for :meth:`connected`."""
        session = self.ledger.of(worker, event.serial)
        if session is None or not self._tcp_info:
            return False
        session.measured = event
        return True

    def closed(self, session: Session, event: Closed, reason: CloseReason) -> None:
        """Close a session that its worker ended for `reason`."""
        self.ledger.count(session, event)
        how = _HowItEnded(event.error, event.error_from, event.client_end, event.target_end, event.inbound_ip)
        self._close(session, event.at, event.duration_ms, reason, how)

    def lost(
        self, session: Session, at: float, now: float, reason: CloseReason, error: str | None = None
    ) -> None:
        """Close a session that no worker can close any more, with the last known figures."""
        self._close(session, at, (now - session.admitted_at) * 1000, reason, _HowItEnded(error))

    def _close(
        self, session: Session, at: float, duration_ms: float, reason: CloseReason, how: _HowItEnded
    ) -> None:
        self.ledger.close(session.serial, reason)
        if self.moved is not None:
            self.moved.forget(session)
        if self.durations is not None:
            self.durations.session.observe(duration_ms / 1000)
        error, error_from, client_end, target_end, inbound_ip = how
        facts = self.facts(session) | {
            "reason": _NAMES[reason],
            "error": error,
            "error_from": error_from,
            "client_end": client_end,
            "target_end": target_end,
            "bytes_from_client": session.bytes_from_client,
            "bytes_from_target": session.bytes_from_target,
            "bytes_to_client": session.bytes_to_client,
            "bytes_to_target": session.bytes_to_target,
            "connect_ms": session.connect_ms,
            "duration_ms": round(duration_ms, 3),
            "inbound_ip": inbound_ip or self._inbound_ip,
            "outbound_port": session.outbound_port,
            "acl": session.entry,
        }
        if self._tcp_info:
            facts |= _measured(session.measured)
        message = SESSION_CLOSED[reason]
        if session.target_ip is None:
            message = self._without_address(message)
        if reason is CloseReason.CONNECT_FAILED:
            message = _with_error(message, error)
        self._recorder.happened(at, (message, facts))

    def _without_address(self, message: Message) -> Message:
        """Put the target's name in the place of its address."""
        return message._replace(sentence=message.sentence.replace("{target_ip}", self._target_host))

    def facts(self, session: Session) -> dict[str, object]:
        """Return the fields that all records of an admitted session share."""
        facts: dict[str, object] = {
            "client_ip": session.client_ip,
            "client_port": session.client_port,
            "session": session.serial,
            "target_ip": session.target_ip,
            "target_port": self._target_port,
        }
        if session.worker is not None:
            facts["worker"] = session.worker
        if session.proxy is not None:
            facts["proxy_ip"], facts["proxy_port"] = session.proxy
        return facts

    # -- the run ---------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, int]:
        """Return the counts that relay.stats and relay.stopped share."""
        ledger = self.ledger
        return {
            "attempts": ledger.attempts,
            "rejected": ledger.rejected,
            "limited": ledger.limited,
            "abandoned": ledger.abandoned,
            "proxy_invalid": ledger.proxy_invalid,
            "exhausted": ledger.exhausted,
            "admitted": ledger.admitted,
            "bytes_from_client": min(ledger.bytes_from_client, LARGEST_INTEGER),
            "bytes_from_target": min(ledger.bytes_from_target, LARGEST_INTEGER),
        }

    def stopped(self, reason: str, uptime_s: float) -> None:
        """Write the remaining sums of refusals, and then the last record."""
        self.write_refusals(len(self.refusals))
        self._recorder.write(
            catalogue.RELAY_FAILED if reason == "failed" else catalogue.RELAY_STOPPED,
            reason=reason,
            uptime_s=round(uptime_s, 3),
            **self.totals(),
            closed={reason.value: count for reason, count in self.ledger.closed.items()},
        )


def _who(client: Address, proxy: Address | None) -> dict[str, object]:
    """Return the fields that all records of a connection share."""
    who: dict[str, object] = {"client_ip": client[0], "client_port": client[1]}
    if proxy is not None:
        who["proxy_ip"], who["proxy_port"] = proxy
    return who


def _measured(measured: Measured | None) -> dict[str, object]:
    """Return the fields of ``--tcp-info``."""
    if measured is None:
        return dict.fromkeys(catalogue.PATH_FIELDS)
    _, client_rtt_ms, target_rtt_ms, *retransmits = measured
    rtts = (None if ms is None else round(ms, 3) for ms in (client_rtt_ms, target_rtt_ms))
    return dict(zip(catalogue.PATH_FIELDS, (*rtts, *retransmits), strict=True))


def _with_error(message: Message, error: str | None) -> Message:
    """Add the error to the sentence, in brackets, because the manual's sentence knows only a refusal."""
    text = explain(error) or IN_WORDS.get(error or "")  # a worker may report something that is no errno
    return message if text is None else message._replace(sentence=f"{message.sentence} ({text})")
