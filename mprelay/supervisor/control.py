"""The control socket: operators ask, and the relay answers without ever waiting for one of them.

    client ── a line ──▶ core.requests ──▶ Commands.obey ──▶ an answer, or lines in pieces ──▶ client

Rules:

1. All clients together get :data:`BUDGET` of a turn, after the workers' reports, and then nothing for
   :data:`REST` times as long. They have a poller of their own, which the loop does not watch meanwhile. So
   sessions and new connections have most of the time, whatever all these clients do.
2. A client is served one request after the other, and is not read while an answer waits to be taken. So it holds
   one line and one piece of an answer, and a watcher its backlog, and no more.
3. A client that takes nothing is dropped after :data:`PATIENCE`, and one that asks for nothing after
   :data:`SILENCE`. If all places are taken, the client that has been silent for longest makes room. So one that
   takes little at a time costs its place only as long as nobody else wants it.
4. A watcher that is behind by :data:`WATCH_LIMIT` when more comes is cut off, and told so behind its last whole
   record.
5. Only this user and root are heard. The socket's mode keeps others away, and the kernel says who connects.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from socket import socket
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from mprelay.core.requests import Inbox, NotRequest, Request, request_of
from mprelay.records import catalogue, fitting
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.loop import Loop
from mprelay.system import poller, sockets, unix_socket
from mprelay.system.errnos import errno_name
from mprelay.system.poller import READ, WRITE

CLIENTS: Final = 128
"""Clients at once."""

DESCRIPTORS: Final = CLIENTS + 4
"""Descriptors that it may have: its clients, the socket, its directory and its place in it, the poller."""

BUDGET: Final = 0.001
"""Seconds of one turn that all clients together may take."""

REST: Final = 4
"""How much longer than that they then wait."""

PATIENCE: Final = 10.0
"""Seconds for which a client may take nothing of what it asked for, or less than a whole send."""

SILENCE: Final = 60.0
"""Seconds for which a client may ask for nothing."""

PARTING: Final = 0.2
"""Seconds at the end of the relay in which clients may still take what waits for them."""

GATHER: Final = 0.01
"""Seconds for which records are gathered for the watchers: a send costs as much as making several records."""

WATCH_LIMIT: Final = 1024 * 1024
"""Bytes of records that wait for one watcher, at most."""

_ACCEPT_PAUSE: Final = 1.0  # seconds without accepting after accept(2) failed
_READ: Final = 4096  # bytes of one recv
_SEND: Final = 16 * 1024  # bytes of one send, which the kernel counts as taken only when all of them are

Answer: TypeAlias = dict[str, Any] | Iterator[bytes]
"""One object, or the pieces of an answer that takes longer to make. A piece may be empty.

That a client has gone is noticed when something is sent to it. So what is done between empty pieces is done.
"""


class Peer(NamedTuple):
    """Who asks."""

    uid: int
    pid: int  # 0: not to be seen from here


class _Client:
    """One connection. Nothing in it blocks."""

    def __init__(self, sock: socket, peer: Peer, now: float) -> None:
        self.sock = sock
        self.peer = peer
        self.inbox = Inbox()
        self.outbox: deque[memoryview] = deque()  # views, so that no send copies what is left
        self.waiting = 0  # bytes in the outbox
        self.pieces: Iterator[bytes] | None = None  # the rest of an answer
        self.asked = False  # an answer is still to come
        self.watches = False
        self.ended = False  # it asks for nothing more
        self.blocked = False  # its socket takes nothing now
        self.untaken = 0  # what the kernel held for it when last looked at; 0 if the kernel does not tell
        self.mask = READ  # what its socket is watched for
        self.since = now  # when it last said or took something
        self.heard = False  # it has been read

    @property
    def busy(self) -> bool:
        """Whether an answer is being made, or waits to be taken."""
        return self.asked or self.pieces is not None or bool(self.outbox)

    @property
    def silent(self) -> bool:
        """Whether it asks for nothing, or takes nothing."""
        return self.heard and (self.blocked or not (self.busy or (self.watches and not self.ended)))

    @property
    def limit(self) -> float:
        """The moment at which it is dropped, if it does nothing before."""
        if self.blocked:
            return self.since + PATIENCE
        return inf if self.watches or self.busy else self.since + SILENCE

    def read(self, now: float) -> None:
        """Read what it asks for. Raises OSError: it is gone."""
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            self.heard = True
            return
        self.since = now
        self.heard = True
        self.inbox.add(data)
        if not data:
            self.ended = True
            self.watches = self.watches and not unix_socket.hung_up(self.sock)

    def put(self, data: bytes) -> None:
        self.outbox.append(memoryview(data))
        self.waiting += len(data)

    def cut(self) -> None:
        """Throw records away, but for the one that is partly sent, and say so."""
        first, newline, _ = bytes(self.outbox[0][: fitting.LIMIT]).partition(b"\n")
        self.outbox.clear()
        self.waiting = 0
        self.put(first + newline)
        self.put(
            line_of({"ok": False, "error": f"cut off: more than {WATCH_LIMIT} bytes of records were waiting"})
        )
        self.ended = True
        self.watches = False

    def refuse(self, why: str, now: float) -> None:
        """Tell it why it is not served, and close the connection."""
        self.put(line_of({"ok": False, "error": why}))
        with suppress(OSError):  # it is gone already
            self.send(now)
        self.sock.close()

    def send(self, now: float) -> None:
        """Send what there is room for. Raises OSError: the client is gone."""
        while self.outbox:
            data = self.outbox[0]
            try:
                sent = self.sock.send(data[:_SEND])
            except BlockingIOError:
                self.blocked = True
                self.untaken = sockets.unacknowledged(self.sock) or 0
                return
            self.since = now
            self.waiting -= sent
            if sent == len(data):
                self.outbox.popleft()
            else:
                self.outbox[0] = data[sent:]

    def look(self, now: float) -> None:
        """Note whether it has taken something, if no send can tell: there is room when most has been taken."""
        if self.blocked:
            before, self.untaken = self.untaken, sockets.unacknowledged(self.sock) or 0
            if self.untaken < before:
                self.since = now

    def send_last(self, now: float, watching: poller.Poller) -> None:
        """Send what there is room for, and wait for room for the rest. Nothing is read any more."""
        self.blocked, self.ended = False, True
        try:
            self.send(now)
            self.wait_in(watching)
        except OSError:  # it is gone
            self.outbox.clear()

    def wait_in(self, watching: poller.Poller) -> None:
        """Have the socket watched for what comes next, and for nothing that can wait. Raises OSError."""
        mask = WRITE if self.blocked else 0 if self.ended or self.busy else READ
        if mask == self.mask:
            return
        descriptor = self.sock.fileno()
        if not mask:  # else epoll would tell of a hang-up, again and again
            watching.remove(descriptor)
        elif not self.mask:
            watching.add(descriptor, mask)
        else:
            watching.change(descriptor, mask)
        self.mask = mask


class _Gathering:
    """Gathers records, and gives those of :data:`GATHER` seconds to `tell` together."""

    def __init__(self, loop: Loop, tell: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._lines: list[bytes] = []
        self._over = loop.unset_alarm(self.finish)

    def add(self, lines: list[bytes]) -> None:
        self._lines += lines
        if not self._over.pending:
            self._over.move(self._loop.now + GATHER)

    def finish(self) -> None:
        """Give now what is there."""
        self._over.cancel()
        if self._lines:
            data = b"".join(self._lines)
            self._lines.clear()
            self._tell(data)


class Control:
    """Serves the control socket `listener`. `obey` does what a request says, and calls with the answer."""

    _poller: poller.Poller  # set by `start`

    def __init__(
        self,
        loop: Loop,
        listener: unix_socket.Listener,
        obey: Callable[[Request, Peer, Callable[[Answer], None]], None],
        watch: Callable[[Callable[[list[bytes]], None] | None], None],
    ) -> None:
        """`watch` has records given to a call, or with None to none any more."""
        self._loop = loop
        self._listener = listener
        self._obey = obey
        self._watch = watch
        self._clients: dict[int, _Client] = {}
        self._ready: dict[_Client, None] = {}
        self._watchers: dict[_Client, None] = {}
        self._gathering = _Gathering(loop, self._on_records)  # for the watchers
        self._started = False
        self._accepting = False  # somebody waits to be accepted
        self._due = False  # this turn has something to do
        self._watched = False  # the loop watches the poller
        self._resume = loop.unset_alarm(self._go_on_now)
        self._look = loop.unset_alarm(self._drop_the_silent)
        self._pause = loop.unset_alarm(self._listen)

    def start(self) -> None:
        """Take clients from now on. Raises Failure."""
        try:
            self._poller = poller.Poller()
            self._loop.watch(self._poller.fileno(), self._on_ready)
            self._started = self._watched = True
            self._poller.add(self._listener.fileno(), READ)
        except OSError as failure:
            detail = f"the control socket could not be watched: {failure.strerror}"
            error = errno_name(failure.errno)
            raise Failure(catalogue.POOL_START_FAILED, error=error, detail=detail) from failure

    def shut(self) -> None:
        """Take no more clients."""
        if self._listener.fileno() >= 0:
            self._accepting = False
            self._pause.cancel()
            self._listener.remove()  # while it listens: a relay that begins now must not find it dead
            self._listener.close()  # which takes its registration back

    def close(self) -> None:
        """Leave all clients, after a moment for those that take what they are told."""
        self.shut()
        self._gathering.finish()
        self._part()
        for client in [*self._clients.values()]:
            self._drop(client)
        self._resume.cancel()
        self._look.cancel()
        if self._started:
            self._loop.unwatch(self._poller.fileno())
            self._poller.close()

    def _part(self) -> None:
        """Send what clients still take, for :data:`PARTING` at most. Nothing else is left to be done."""
        until = time.monotonic() + PARTING
        waiting = [*self._clients.values()]
        while waiting:
            for client in waiting:
                client.send_last(self._loop.now, self._poller)
            waiting = [client for client in waiting if client.blocked]
            left = until - time.monotonic()
            if left <= 0 or not waiting:
                return
            self._poller.wait(left)

    def _listen(self) -> None:
        try:
            self._poller.add(self._listener.fileno(), READ)
        except OSError:  # the kernel cannot watch it now
            self._pause.move(self._loop.now + _ACCEPT_PAUSE)

    # -- clients ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Take the next one who waits, or let them wait for those who were taken and not yet heard."""
        full = len(self._clients) >= CLIENTS
        if full and not all(client.heard for client in self._clients.values()):
            self._accepting = False
            return
        try:
            sock, uid, pid = self._listener.accept()
        except BlockingIOError:
            self._accepting = False
            return
        except OSError:  # no descriptor is left, or the client is gone already
            self._accepting = False
            self._poller.remove(self._listener.fileno())
            self._pause.move(self._loop.now + _ACCEPT_PAUSE)
            return
        client = _Client(sock, Peer(uid, pid), self._loop.now)
        if not unix_socket.may_ask(uid):
            client.refuse("only the relay's own user and root may use this socket", self._loop.now)
        elif full and not self._make_room():
            client.refuse(f"there are {CLIENTS} clients already", self._loop.now)
        else:
            try:
                self._poller.add(sock.fileno(), READ)
            except OSError:
                client.refuse("the kernel cannot watch one more connection", self._loop.now)
                return
            self._clients[sock.fileno()] = client
            self._ready[client] = None
            self._look_by(client)

    def _make_room(self) -> bool:
        """Drop the client that has said and taken nothing for longest. False: all are being served."""
        silent = [client for client in self._clients.values() if client.silent]
        for client in silent:
            client.look(self._loop.now)
        if silent:
            self._drop(min(silent, key=lambda client: client.since))
        return bool(silent)

    def _drop(self, client: _Client) -> None:
        descriptor = client.sock.fileno()
        if client.mask:
            with suppress(OSError):  # it was not to be watched
                self._poller.remove(descriptor)
        self._ready.pop(client, None)
        if client in self._watchers:
            del self._watchers[client]
            if not self._watchers:
                self._watch(None)
        client.pieces = None
        client.sock.close()
        del self._clients[descriptor]

    def _drop_the_silent(self) -> None:
        """Drop those that say nothing, and those that take nothing."""
        for client in [*self._clients.values()]:
            client.look(self._loop.now)
            if client.limit <= self._loop.now:
                self._drop(client)
        for client in self._clients.values():
            self._look_by(client)

    def _look_by(self, client: _Client) -> None:
        """Look at a client when it has done nothing for too long."""
        if client.limit < inf and not (self._look.pending and self._look.when <= client.limit):
            self._look.move(client.limit)

    # -- their turn ------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Serve the clients that are ready, for as long as a turn has for them. Call it once in each turn."""
        if not self._due:
            return
        self._due = False
        began = time.monotonic()
        for descriptor, _mask in self._poller.wait(0):
            client = self._clients.get(descriptor)
            if client is None:
                self._accepting = descriptor == self._listener.fileno()
            else:
                client.blocked = False
                self._ready[client] = None
        spent = 0.0
        while (self._accepting or self._ready) and spent < BUDGET:
            if self._accepting:
                self._accept()
            if self._ready:
                client = next(iter(self._ready))
                del self._ready[client]
                self._serve(client)
            spent = time.monotonic() - began
        if self._watched:
            self._watched = False
            self._loop.change(self._poller.fileno(), 0)
        self._resume.move(began + spent * (1 + REST))

    def _go_on_now(self) -> None:
        """Let the clients have the next turn in which one of them is ready, or this one."""
        if not self._watched:
            self._watched = True
            self._loop.change(self._poller.fileno(), READ)
        self._due = self._accepting or bool(self._ready)

    def _on_ready(self) -> None:
        self._due = True

    def _soon(self, client: _Client) -> None:
        """Serve a client in the next turn that is theirs."""
        self._ready[client] = None
        if not self._resume.pending:
            self._resume.move(self._loop.now)

    def _serve(self, client: _Client) -> None:
        """Do one step for a client: send, make a piece of an answer, or read a request."""
        try:
            client.send(self._loop.now)
            if not client.outbox:
                self._go_on(client)
            if client.ended and not (client.busy or client.watches or client.inbox):
                self._drop(client)
                return
            client.wait_in(self._poller)
        except OSError:  # it is gone, or the kernel cannot watch it any more
            self._drop(client)
            return
        self._look_by(client)

    def _go_on(self, client: _Client) -> None:
        """Nothing waits to be sent: make the next piece, or take the next request. Raises OSError."""
        if client.pieces is not None:
            piece = next(client.pieces, None)
            if piece is None:
                client.pieces = None
            elif piece:
                client.put(piece)
            self._ready[client] = None
            return
        if client.asked:
            return
        if not client.inbox.has_line and not client.ended:
            client.read(self._loop.now)
        if client.watches:
            client.inbox.clear()  # it has asked for the last time
            return
        try:
            line = client.inbox.take(ended=client.ended)
        except NotRequest as wrong:
            client.ended = True
            self._answer(client, {"ok": False, "error": str(wrong)})
            return
        if line is not None:
            self._ask(client, line)
            self._ready[client] = None

    def _ask(self, client: _Client, line: bytes) -> None:
        if not line.strip():
            return
        try:
            request = request_of(line)
        except NotRequest as wrong:
            self._answer(client, {"ok": False, "error": str(wrong)})
            return
        client.asked = True
        if request.command == "watch":
            self._gathering.finish()  # what was written before is not for this one
            self._answer(client, {"ok": True})
            client.watches = True
            if not self._watchers:
                self._watch(self._gathering.add)
            self._watchers[client] = None
        else:
            self._obey(request, client.peer, lambda answer: self._answer(client, answer))

    def _answer(self, client: _Client, answer: Answer) -> None:
        client.asked = False
        if client.sock.fileno() < 0:
            return  # it has gone meanwhile
        if isinstance(answer, dict):
            client.put(line_of(answer))
        else:
            client.pieces = answer
        self._soon(client)

    def _on_records(self, data: bytes) -> None:
        """Give records to the watchers."""
        for client in self._watchers:
            if not client.watches:
                continue
            if client.waiting > WATCH_LIMIT:  # before this: what comes at once is no sign that it is slow
                client.cut()
            else:
                client.put(data)
            self._soon(client)


def line_of(answer: dict[str, Any]) -> bytes:
    """Make the last line of an answer."""
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)
