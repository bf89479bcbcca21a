"""Connections of proxies: each says in a PROXY header who its client is, and only then it is judged.

    door ── accepted ─▶ begin ─▶ door ── ticket and socket ─▶ worker, which reads the header
                                                              │
    book ◀─ judged ─── on_report ◀── Announced ───────────────┤
                          │                                   ▼
                          └───────── Admit or Refuse ───────▶ worker, which opens the session

Rules:

1. Such a connection holds a slot, and has no serial, until it is judged. Nobody waits for anybody.
2. It is recorded and counted when it is judged, by the address that was announced. One without a good header is
   recorded by the proxy's own.
3. A worker tells of the connections that it was given and of no others. It may announce any client: whoever
   trusts a proxy trusts the process that reads what the proxy says.
"""

from ipaddress import ip_address
from typing import Literal

from mprelay.core.acl import Acl
from mprelay.core.admission import ABANDONED, EXHAUSTED, Outcome, Policy, PortSearch, Verdict
from mprelay.core.phases import Phase, RunState
from mprelay.core.protocol import AWAITED_FROM, Address, Admit, Announced, NotAnnounced, Refuse, Ticket
from mprelay.core.roster import Booking
from mprelay.supervisor.book import Book
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.loop import Loop
from mprelay.supervisor.sums import Sums


class Awaited(Booking):
    """A connection whose PROXY header is awaited; `serial` is its number. Its client is the proxy, so far."""

    __slots__ = ("admitted_at", "client_ip", "client_port", "proxy")

    is_awaited: Literal[True] = True

    def __init__(self, number: int, proxy: Address, now: float) -> None:
        self.serial = number
        self.worker = None
        self.admitted_at = self.heard_at = now
        self.reported = False
        self.client_ip, self.client_port = proxy
        self.proxy = proxy


class Announcements:
    """The connections of the proxies in a list, from their arrival to their judgement."""

    def __init__(
        self,
        proxies: Acl | None,
        loop: Loop,
        state: RunState,
        *,
        book: Book,
        crew: Crew,
        policy: Policy,
        ports: PortSearch,
        sums: Sums,
    ) -> None:
        self._proxies = proxies
        self._loop = loop
        self._state = state
        self._book = book
        self._crew = crew
        self._policy = policy
        self._ports = ports
        self._sums = sums
        self._awaited: dict[int, Awaited] = {}
        self._next = AWAITED_FROM

    def trusts(self, ip: str) -> bool:
        """Tell whether connections from `ip` begin with a PROXY header."""
        return self._proxies is not None and self._proxies.decide(ip).allowed

    def begin(self, proxy: Address, *, free: bool, waited_ms: float | None) -> Awaited | None:
        """Take a slot for a connection whose header a worker is going to read.

        None: it is refused at once, by its proxy's address, because no slot is `free`, or because it has waited
        in vain for so many milliseconds.
        """
        now = self._loop.now
        if waited_ms is not None or not free:
            verdict = EXHAUSTED if waited_ms is None else ABANDONED
            self._book.enter(proxy, verdict, self._loop.wall, now, waited_ms or 0.0, proxy=proxy)
            return None
        awaited = self._awaited[self._next] = Awaited(self._next, proxy, now)
        self._next += 1
        self._book.ledger.reserve()
        self._book.workers.await_header(awaited)
        return awaited

    def not_handed_over(self, awaited: Awaited, error: str | None) -> None:
        """Record that no worker could be given a connection."""
        self._invalid(awaited, self._loop.wall, f"could not be handed over to a worker ({error})")

    def on_report(self, worker: int, event: Announced | NotAnnounced) -> bool:
        """Act on what a worker says of a header. False: it cannot be true."""
        awaited = self._awaited.get(event.number)
        if awaited is None or awaited.worker != worker:
            return False
        if self._state.phase is Phase.ENDING:
            return True  # its worker has been told to stop, and is told nothing more
        self._sums.begin()
        if isinstance(event, NotAnnounced):
            self._invalid(awaited, event.at, event.problem)
        elif event.client_ip is None:
            self._judge(awaited, worker, awaited.proxy, event.at)
        elif (ip := _plain(event.client_ip)) is not None:
            self._judge(awaited, worker, (ip, event.client_port), event.at)
        else:
            return False
        self._sums.end()
        return True

    def _judge(self, awaited: Awaited, worker: int, client: Address, at: float) -> None:
        """Judge a connection by the client that was announced, and tell its worker."""
        book, now, number = self._book, self._loop.now, awaited.serial
        ip, _ = client
        proxy_ip, _ = awaited.proxy
        book.ledger.unreserve()
        verdict = self._policy.decide(ip, now, free=not book.ledger.full, proxy=proxy_ip)
        session = book.enter(client, verdict, at, now, proxy=awaited.proxy)
        book.workers.hand_on(awaited, session)
        del self._awaited[number]
        if session is None:
            self._crew.orders.give(worker, Refuse(number))
            return
        if self._ports.running:
            self._ports.admitted(session.serial)
        self._crew.orders.give(worker, Admit(number, Ticket(session.serial, now, client)))
        self._crew.watchdog.expect(now)
        book.allocated(session, at)

    def _invalid(self, awaited: Awaited, at: float, problem: str) -> None:
        """Refuse a connection that no worker has any more, because it has no good header."""
        del self._awaited[awaited.serial]
        self._book.ledger.unreserve()
        self._book.workers.hand_on(awaited)
        verdict = Verdict(Outcome.PROXY_INVALID, problem=problem)
        self._book.enter(awaited.proxy, verdict, at, self._loop.now, proxy=awaited.proxy)

    def lost(self, worker: int | None, problem: str) -> None:
        """Record that a worker is gone, and with it the connections whose header it awaited. None: all are."""
        self._sums.begin()
        for awaited in list(self._awaited.values()):
            if worker is None or awaited.worker == worker:
                self._invalid(awaited, self._loop.wall, problem)
        self._sums.end()


def _plain(text: str) -> str | None:
    """Show an address as :func:`ipaddress.ip_address` does, IPv4 as IPv4; None: it is none."""
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)
