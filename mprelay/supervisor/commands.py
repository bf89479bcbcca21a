"""What an operator's requests do. Each change is a record, with whom it came from, before its effects are.

A command that cannot be obeyed changes nothing, and says why. No answer waits for anything. Only that of
``reload`` comes later, when the rules have been read. Whatever looks at all sessions does so a few at a time, as
pieces of its answer, so that :class:`~mprelay.supervisor.control.Control` decides how much of it a turn has.
"""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from typing import Any, Final

import orjson

from mprelay.core.acl import Network
from mprelay.core.ledger import Session
from mprelay.core.phases import Phase, RunState
from mprelay.core.protocol import CloseReason, NewExpiry
from mprelay.core.requests import Request
from mprelay.core.texts import PROBLEM_LIMIT, cut
from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.records.writer import Writer
from mprelay.supervisor.book import Book
from mprelay.supervisor.control import Answer, Peer, line_of
from mprelay.supervisor.crew import Crew
from mprelay.supervisor.door import Door
from mprelay.supervisor.lifetime import Lifetime
from mprelay.supervisor.reload import Reload
from mprelay.supervisor.status import Status
from mprelay.system.sockets import family_of

_SESSIONS_IN_PIECE: Final = 50  # a tenth of a millisecond
_RECORDS_WHILE_CONGESTED: Final = 1000  # of commands, while too many records wait

Reply = Callable[[Answer], None]


class Refused(Exception):  # noqa: N818 - it says why
    """A command is not obeyed."""


class Commands:
    """Obeys the requests of one run. `drain` stops the run as a signal would."""

    def __init__(
        self,
        status: Status,
        state: RunState,
        *,
        recorder: Recorder,
        writer: Writer,
        book: Book,
        crew: Crew,
        door: Door,
        reload: Reload | None,
        lifetime: Lifetime,
        drain: Callable[[], None],
    ) -> None:
        self._status = status
        self._state = state
        self._recorder = recorder
        self._writer = writer
        self._book = book
        self._crew = crew
        self._door = door
        self._reload = reload
        self._lifetime = lifetime
        self._drain = drain
        self._recorded = 0  # commands since too many records began to wait

    def obey(self, request: Request, peer: Peer, reply: Reply) -> None:
        """Do what a request says, and reply once."""
        if request.command == "status":
            reply({"ok": True, **self._status.read()})
        elif request.command == "sessions":
            reply(self._sessions())
        else:
            try:
                self._change(request, peer, reply)
            except Refused as refused:
                self._record(request, peer, str(refused))
                reply({"ok": False, "error": str(refused)})

    # -- looks -----------------------------------------------------------------------------------------------

    def _sessions(self) -> Iterator[bytes]:
        """Make the answer a piece at a time."""
        count = 0
        for some in self._in_pieces():
            lines = [orjson.dumps(self._status.show(one), option=orjson.OPT_APPEND_NEWLINE) for one in some]
            count += len(lines)
            piece = b"".join(lines)
            lines.clear()  # while the client takes the piece: orjson's bytes keep 4 KiB each
            yield piece
        yield line_of({"ok": True, "count": count})

    def _in_pieces(self) -> Iterator[list[Session]]:
        """Give the sessions that are there now a few at a time, without those that end meanwhile."""
        ledger = self._book.ledger
        sessions = ledger.all_active()
        for first in range(0, len(sessions), _SESSIONS_IN_PIECE):
            some = sessions[first : first + _SESSIONS_IN_PIECE]
            yield [one for one in some if ledger.session(one.serial) is not None]

    # -- changes ---------------------------------------------------------------------------------------------

    def _change(self, request: Request, peer: Peer, reply: Reply) -> None:
        """Obey a command that changes something. Raises Refused."""
        if not self._writer.congested:
            self._recorded = 0
        elif self._recorded >= _RECORDS_WHILE_CONGESTED and request.command != "drain":
            reply(
                {"ok": False, "error": "the reader of the records does not keep up: nothing can be recorded now"}
            )
            return
        if self._state.phase in {Phase.ENDING, Phase.OVER}:
            raise Refused("the relay is ending")
        match request.command:
            case "kill":
                self._kill(request, peer, reply)
            case "drain":
                self._record(request, peer)
                if self._state.phase is not Phase.DRAINING:
                    self._drain()
                reply({"ok": True, "active": self._book.ledger.active})
            case "pause" | "resume":
                self._hold(request, peer, reply)
            case "reload":
                if self._reload is None:
                    raise Refused("the ACL has no file to be read again")
                self._reload.begin(lambda outcome: self._reloaded(request, peer, reply, outcome))
            case "extend":
                self._extend(request, peer, reply)

    def _kill(self, request: Request, peer: Peer, reply: Reply) -> None:
        if request.client is not None:
            reply(self._kill_those_of(request.client, request, peer))
            return
        session = self._book.ledger.session(request.session or 0)
        if session is None:
            raise Refused(f"there is no session {request.session}")
        self._record(request, peer)
        self._crew.orders.end([session], CloseReason.KILLED)
        reply({"ok": True, "killed": 1})

    def _kill_those_of(self, network: Network, request: Request, peer: Peer) -> Iterator[bytes]:
        """Kill sessions a piece at a time. The last piece says how many they were, the others are empty."""
        killed = 0
        is_in = _test_of(network)
        for some in self._in_pieces():
            found = [one for one in some if is_in(one.client_ip)]
            if found and not killed:
                self._record(request, peer)
            self._crew.orders.end(found, CloseReason.KILLED)
            killed += len(found)
            yield b""
        if killed:
            yield line_of({"ok": True, "killed": killed})
        else:
            problem = f"there is no session of {network}"
            self._record(request, peer, problem)
            yield line_of({"ok": False, "error": problem})

    def _hold(self, request: Request, peer: Peer, reply: Reply) -> None:
        if self._state.phase is Phase.DRAINING:
            raise Refused("the relay is draining: nobody is admitted any more")
        self._record(request, peer)
        self._door.held = request.command == "pause"
        reply({"ok": True})

    def _reloaded(self, request: Request, peer: Peer, reply: Reply, outcome: dict[str, Any]) -> None:
        self._record(request, peer, outcome.get("error"))
        reply(outcome)

    def _extend(self, request: Request, peer: Peer, reply: Reply) -> None:
        seconds = request.seconds or 0.0
        if (why := self._lifetime.refusal(seconds)) is not None:
            raise Refused(why)
        self._record(request, peer)
        self._lifetime.extend(seconds)
        self._crew.settings = self._crew.settings._replace(expiry=self._lifetime.told)
        self._crew.orders.give_all(NewExpiry(self._lifetime.told))
        expires_at = self._recorder.show_time(self._lifetime.expires_at)
        self._recorder.write(catalogue.RELAY_EXTENDED, seconds=seconds, expires_at=expires_at)
        reply({"ok": True, "expires_at": expires_at})

    def _record(self, request: Request, peer: Peer, problem: str | None = None) -> None:
        self._recorded += 1
        self._recorder.write(
            catalogue.CONTROL_COMMAND if problem is None else catalogue.CONTROL_REFUSED,
            command=request.command,
            arguments=request.arguments,
            peer_uid=peer.uid,
            peer_pid=peer.pid,
            ok=problem is None,
            problem=None if problem is None else cut(problem, PROBLEM_LIMIT),
        )


def _test_of(network: Network) -> Callable[[str], bool]:
    """Make a test whether a client is in a network. :mod:`ipaddress` would take ten times as long."""
    family = socket.AF_INET if isinstance(network, IPv4Network) else socket.AF_INET6
    first, mask = int(network.network_address), int(network.netmask)

    def is_in(ip: str) -> bool:
        return family_of(ip) == family and int.from_bytes(socket.inet_pton(family, ip)) & mask == first

    return is_in
