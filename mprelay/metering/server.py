"""HTTP for a few readers that may be slow, or mean no good.

Rules:

1. :data:`PLACES` connections at most are served at once. Further ones wait in the kernel's backlog.
2. A connection has :data:`TIME` seconds in total, however it spends them, and :data:`REQUEST_LIMIT` bytes. It
   gets one answer, and is closed.
3. Only GET and HEAD are answered. Nothing here changes anything.
4. The Host header must be an address, ``localhost`` or this host's own name. Otherwise a page of the web could
   have a browser read this (DNS rebinding): its name can lead to any address, but it stays a name.
5. No answer may be kept, or shown within another page.
"""

import io
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from mprelay.metering import page
from mprelay.metering.collector import is_ready, render
from mprelay.metering.history import History
from mprelay.metering.processes import Processes
from mprelay.metering.source import Snapshot, Source

PLACES: Final = 16
"""Connections at once."""

TIME: Final = 5.0
"""Seconds of a connection, in total."""

REQUEST_LIMIT: Final = 16 * 1024
"""Bytes of a request."""

_BACKLOG: Final = 64
_ACCEPT_PAUSE: Final = 0.1  # seconds without accepting after accept(2) failed, to avoid a busy loop
_TEXT: Final = "text/plain; charset=utf-8"
_NO_ANSWER: Final = "the supervisor has not answered in time\n"


class _Reply(NamedTuple):
    """An answer."""

    code: HTTPStatus
    body: bytes
    content_type: str = _TEXT


class Server:
    """Listens at once, and serves from :meth:`serve` on. Raises OSError: why it cannot listen there."""

    def __init__(self, host: str, port: int, source: Source) -> None:
        self._source = source
        self._history = History()
        self._processes = Processes()
        self._places = threading.Semaphore(PLACES)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = ":" in host and ip_address(host).is_unspecified and socket.has_dualstack_ipv6()
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        self.own_name = socket.gethostname().lower()
        """The host's name, which a Host header may have."""
        self._paths: dict[str, Callable[[str], _Reply]] = {
            "/": lambda _accept: _Reply(HTTPStatus.OK, page.BODY, "text/html; charset=utf-8"),
            "/metrics": self._show_metrics,
            "/healthz": self._show_health,
            "/readyz": self._show_readiness,
            "/status.json": self._show_status,
        }

    def serve(self) -> None:
        """Serve for ever."""
        while True:
            self._places.acquire()
            try:
                sock, _address = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()
            except (OSError, RuntimeError):  # no descriptor or no thread is left, or the client is gone already
                self._places.release()
                time.sleep(_ACCEPT_PAUSE)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                _Connection(sock, self)
        except OSError:
            pass  # it is gone, or its time is over
        finally:
            self._places.release()

    def reply(self, path: str, accept: str) -> _Reply:
        """Answer a request for `path`."""
        show = self._paths.get(path)
        if show is None:
            return _Reply(HTTPStatus.NOT_FOUND, f"there are {' '.join(self._paths)}\n".encode())
        return show(accept)

    def _look(self, *, sessions: bool = False) -> Snapshot | None:
        snapshot = self._source.get(sessions=sessions)
        if snapshot is not None:
            self._history.note(snapshot, time.monotonic())
        return snapshot

    def _show_metrics(self, accept: str) -> _Reply:
        snapshot = self._look()
        if snapshot is None:
            return _unavailable(_NO_ANSWER)
        return _Reply(HTTPStatus.OK, *render(snapshot, self._processes, accept))

    def _show_health(self, _accept: str) -> _Reply:
        return _unavailable(_NO_ANSWER) if self._look() is None else _Reply(HTTPStatus.OK, b"ok\n")

    def _show_readiness(self, _accept: str) -> _Reply:
        snapshot = self._look()
        if snapshot is None:
            return _unavailable(_NO_ANSWER)
        if is_ready(snapshot):
            return _Reply(HTTPStatus.OK, b"ready\n")
        paused_by = snapshot["paused_by"]
        return _unavailable(f"paused by {paused_by}\n" if paused_by else f"{snapshot['phase']}\n")

    def _show_status(self, _accept: str) -> _Reply:
        snapshot = self._look(sessions=True)
        if snapshot is None:
            return _unavailable(_NO_ANSWER)
        shown = {**snapshot, "ready": is_ready(snapshot), "history": self._history.show(time.monotonic())}
        return _Reply(HTTPStatus.OK, orjson.dumps(shown), "application/json")


def _unavailable(why: str) -> _Reply:
    return _Reply(HTTPStatus.SERVICE_UNAVAILABLE, why.encode())


class _TooLong(OSError):  # noqa: N818 - it says what is the matter
    """The request has too many bytes."""


class _Stream(io.RawIOBase):
    """A socket that is read and written until a moment of the monotonic clock, and then no more."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._until = until
        self._left = REQUEST_LIMIT

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io has it
        if self._left <= 0:
            raise _TooLong
        self._limit()
        size = self._sock.recv_into(buffer)
        self._left -= size
        return size

    def write(self, data: Any) -> int:  # noqa: ANN401 - as io has it
        self._limit()
        self._sock.sendall(data)  # its timeout is that of all together
        return len(data)

    def end(self) -> None:
        """End our side, and read up to the end of the other one. Raises OSError."""
        self._sock.shutdown(socket.SHUT_WR)
        size = 1
        while size:
            self._limit()
            size = len(self._sock.recv(REQUEST_LIMIT))

    def _limit(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)


class _Connection(BaseHTTPRequestHandler):
    """One connection. The constructor serves it. Raises OSError: the client is gone, or its time is over."""

    error_content_type = _TEXT
    error_message_format = "%(code)d %(message)s: %(explain)s\n"
    command = requestline = ""  # until they are read
    request_version = default_request_version = "HTTP/1.0"  # so each answer has a head, errors included
    _path = ""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self._server = server
        self._stream = _Stream(sock, time.monotonic() + TIME)
        super().__init__(sock, ("", 0), server)  # type: ignore[arg-type]  # it is kept, and not used

    def setup(self) -> None:
        """Read and write by our own stream."""
        self.rfile = io.BufferedReader(self._stream)
        self.wfile = io.BufferedWriter(self._stream, 1 << 20)

    def finish(self) -> None:
        """Send the answer and the end, and wait for the client's, as long as the time lasts.

        A close while something is unread would be a reset, which can overtake the answer (RFC 9112, 9.6).
        """
        self.wfile.flush()
        self._stream.end()

    def handle(self) -> None:
        """Serve one request."""
        try:
            self.handle_one_request()
        except _TooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def parse_request(self) -> bool:
        """Read the request's head. False: it has been refused."""
        if not super().parse_request():
            return False
        own_name = self._server.own_name
        try:
            _, host, self._path, *_ = urlsplit(self.path)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        if self.command not in {"GET", "HEAD"}:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif not is_own_host(self.headers.get_all("Host", []), own_name) or (
            host and not is_own_host([host], own_name)  # it would count, and Host would not (RFC 9112, 3.2.2)
        ):
            own = f"ask by an address, localhost or {own_name}"
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, explain=own)
        else:
            return True
        return False

    def do_GET(self) -> None:
        """Answer; a HEAD without the body."""
        code, body, content_type = self._server.reply(self._path, self.headers.get("Accept", ""))
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the same

    def end_headers(self) -> None:
        """Add what each answer has, errors included."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", page.POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        if self.command not in {"GET", "HEAD"}:
            self.send_header("Allow", "GET, HEAD")
        super().end_headers()

    def version_string(self) -> str:
        """Name the program alone, not the Python that runs it."""
        return "mprelay"

    def log_message(self, *_what: object) -> None:
        """Keep no log: who looks is no event of the relay."""


def is_own_host(given: list[str], own_name: str) -> bool:
    """Tell whether the Host headers of a request name this host (RFC 9110, 7.2): exactly one, with any port."""
    if len(given) != 1:
        return False
    try:
        name = urlsplit(f"//{given[0].strip()}").hostname or ""
    except ValueError:
        return False
    if name in {"localhost", own_name}:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
