"""The listener: the socket that clients connect to, and its errors.

Rules:

1. An error of accept(2) ends the relay only if there can be no listener any more. Most errors are a lack of
   descriptors or memory, and pass.
2. Errors are recorded at most once a second, each kind with its count.
3. A listener that was destroyed (``ss -K``) is always replaced. A listener that still listens although accept(2)
   fails for good is replaced once.
"""

import errno
import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from mprelay.records import catalogue
from mprelay.records.recorder import Recorder
from mprelay.supervisor.checks import init_failed
from mprelay.supervisor.failure import Failure
from mprelay.supervisor.loop import Loop
from mprelay.system import inherited, sockets
from mprelay.system.errnos import errno_name

_RECORD_PAUSE: Final = 1.0  # seconds between two records of accept(2) errors
_PERMANENT_ERRNOS: Final = {errno.EINVAL, errno.EBADF, errno.ENOTSOCK}
"""Errors of accept(2) that never pass: the socket no longer listens (``ss -K``), or is no socket."""
_STEPS: Final = {
    "socket": catalogue.LISTENER_SOCKET_FAILED,
    "bind": catalogue.LISTENER_BIND_FAILED,
    "listen": catalogue.LISTENER_LISTEN_FAILED,
}


class Listener:
    """Listens on an address (None: all) and a port. Calls `call` while a connection waits in the backlog.

    The first listener may be one that is handed over: `offer` (:mod:`mprelay.system.inherited`).
    """

    _sock: socket.socket  # set by `open`
    accept: Callable[[], tuple[int, Any]]
    """Accepts a connection (:func:`mprelay.system.sockets.acceptor`); set by :meth:`open`."""

    def __init__(
        self,
        loop: Loop,
        recorder: Recorder,
        address: tuple[str | None, int],
        call: Callable[[], None],
        *,
        offer: str | None = None,
    ) -> None:
        self._loop = loop
        self._recorder = recorder
        self._ip, self._port = address
        self.address: tuple[Any, ...] = address
        """Where it listens, or has listened; before that what was asked for."""
        self._offer = offer
        self._is_shared = False
        self._call = call
        self.is_open = False
        """Whether clients can connect."""
        self.watched = False
        """Whether `call` is called while a connection waits."""
        self.replaced = False
        """Whether the listener before gave no connection, and this one has given none yet."""
        self._errors: Counter[int] = Counter()  # by errno, since they were last recorded
        self._next_record = loop.unset_alarm(self._record_errors)

    def open(self) -> None:
        """Listen. `call` is not called before :meth:`watch`. Raises Failure."""
        try:
            self._is_shared = self._offer is not None
            if self._offer is not None:
                self._adopt(self._offer)
            else:
                self._sock = sockets.listen(self._ip, self._port)
                self.accept = sockets.acceptor(self._sock)
        except sockets.ListenerError as failure:
            message = _STEPS[failure.step]
            fields = {"error": errno_name(failure.errno)}
            if "detail" in message.fields:
                where = f"port {self._port}" if self._ip is None else f"{self._ip} port {self._port}"
                fields["detail"] = f"{where}: {os.strerror(failure.errno or 0)}"
            raise Failure(message, **fields) from failure
        self.is_open = True
        try:
            self.address = self._sock.getsockname()
        except OSError as failure:
            raise init_failed("getsockname", failure.errno, failure.strerror) from failure

    def _adopt(self, offer: str) -> None:
        """Listen by the socket that is handed over. Raises Failure."""
        self._offer = None
        try:
            self._sock = inherited.adopt(offer, self._ip, self._port)
        except inherited.Unusable as unusable:
            detail = f"the socket that the service manager hands over: {unusable}"
            raise Failure(catalogue.LISTENER_BIND_FAILED, error=unusable.error, detail=detail) from unusable
        plain = sockets.acceptor(self._sock)

        def accept_waiting() -> tuple[int, Any]:
            """Accept who has waited for the relay. When nobody waits, whoever comes has all options already."""
            try:
                descriptor, address = plain()
            except BlockingIOError:
                self.accept = plain
                raise
            try:
                inherited.prepare(descriptor)
            except OSError:
                sockets.refuse(descriptor)
                raise
            return descriptor, address

        self.accept = accept_waiting

    def close(self) -> None:
        """Stop listening. Connections that still wait in the backlog are reset."""
        if self._offer is not None:  # the run ends before it has begun, and that socket listens already
            with suppress(Failure):
                self.open()
        if self.is_open:
            self.watch(wanted=False)
            if self._is_shared:
                inherited.shut(self._sock)
            self._sock.close()
            self.is_open = False
            self._record_errors()

    def watch(self, *, wanted: bool) -> None:
        """Start or stop watching for connections."""
        if self.is_open and self.watched != wanted:
            self.watched = wanted
            if wanted:
                self._loop.watch(self._sock.fileno(), self._call)
            else:
                self._loop.unwatch(self._sock.fileno())

    def waiting(self) -> int | None:
        """Count the connections in the backlog. None: the system does not tell."""
        return sockets.backlog(self._sock) if self.is_open else None

    def handle_error(self, failure: OSError) -> bool:
        """Note an error of accept(2). True: the listener was replaced. Raises Failure if there can be none."""
        number = failure.errno or 0
        self._errors[number] += 1
        if not self._next_record.pending:
            self._record_errors()
        if number not in _PERMANENT_ERRNOS:
            return False
        useless = self.is_open and sockets.listens(self._sock)
        self.close()
        if useless and self.replaced:
            raise Failure(catalogue.LISTENER_LISTEN_FAILED, error=errno_name(number))
        self.replaced = useless
        self.open()
        return True

    def _record_errors(self) -> None:
        """Message 22: the errors of accept(2) since the last such records."""
        if self._errors:
            for number, count in self._errors.items():
                error = errno_name(number)
                self._recorder.write(catalogue.CONNECTION_ACCEPT_FAILED, errno=number, error=error, count=count)
            self._errors.clear()
            self._next_record.move(self._loop.now + _RECORD_PAUSE)
